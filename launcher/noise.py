"""Turning down what Ray, DeepSpeed and torch say about themselves, each for a stated reason."""

from __future__ import annotations

import logging
import os
import warnings
from pathlib import Path

_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_ROOMS = ("launcher", "gcg", "dataloaders")

# (message pattern, category). DeepSpeed 0.19 calls collectives by names torch 2.14 renamed: it
# warns at every call, and nothing in our code can change it.
HARMLESS_WARNINGS: tuple[tuple[str, type[Warning]], ...] = (
    (r"`torch\.distributed\.\w+` is deprecated", FutureWarning),
)

# What a worker's environment must hold before it imports anything.
_DRIVER_ENV = {
    "RAY_USAGE_STATS_ENABLED": "0",  # no report to the outside, and no notice about it
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # the new default; unset, Ray warns about it
}


def quiet_environment() -> None:
    """Set the driver's environment before Ray is imported; what the user set stays."""
    for name, value in _DRIVER_ENV.items():
        os.environ.setdefault(name, value)


def quiet_libraries() -> None:
    """Silence what says nothing about the run. Call before building an engine."""
    for pattern, category in HARMLESS_WARNINGS:
        warnings.filterwarnings("ignore", message=pattern, category=category)
    # "No CUDA runtime is found": known, on a machine without a GPU.
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)


def log_to_file(path: Path) -> logging.Handler:
    """Send our rooms' log records and Python warnings to a file; return the handler."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter(_FORMAT))
    logging.captureWarnings(True)
    for name in (*_ROOMS, "py.warnings"):
        logger = logging.getLogger(name)
        logger.addHandler(handler)
        if name in _ROOMS:
            logger.setLevel(logging.INFO)
    return handler
