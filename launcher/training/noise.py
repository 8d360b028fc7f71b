"""Turning down what Ray, DeepSpeed and torch say about themselves, each for a stated reason."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from dataloaders.trust import RedactingFormatter

_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_ROOMS = ("launcher", "gcg", "dataloaders")

# (message pattern, category). DeepSpeed 0.19 calls collectives by names torch 2.14 renamed: it
# warns at every call, and nothing in our code can change it.
HARMLESS_WARNINGS: tuple[tuple[str, type[Warning]], ...] = (
    (r"`torch\.distributed\.\w+` is deprecated", FutureWarning),
)

_DRIVER_ENV = {
    "RAY_USAGE_STATS_ENABLED": "0",  # no report to the outside, and no notice about it
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # the coming default; unset, Ray warns about it
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # workers stay where the driver is: paths mean the same
    # Workers import torch and DeepSpeed cold; on few cores that takes more than Ray's 60 s.
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "600",
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
    logger = logging.getLogger("DeepSpeed")
    logger.setLevel(logging.WARNING)
    if not any(isinstance(known, _Harmless) for known in logger.filters):
        logger.addFilter(_Harmless())


class _Harmless(logging.Filter):
    """Drops what DeepSpeed says about things that are so on purpose."""

    # ZeRO-3 hooks look for tensors in tuples, lists and dicts. A model that returns a dataclass
    # is only warned about: what has parameters of its own below it returns plain tensors.
    _PHRASES = ("unknown inputs or outputs type",)

    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        return not any(phrase in text for phrase in self._PHRASES)


@contextmanager
def log_to_file(path: Path) -> Iterator[None]:
    """Send our rooms' log records and Python warnings to a file while in the context."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(RedactingFormatter(_FORMAT))
    logging.captureWarnings(True)
    loggers = [logging.getLogger(name) for name in (*_ROOMS, "py.warnings", "DeepSpeed")]
    for logger in loggers:
        logger.addHandler(handler)
        if logger.name in _ROOMS:
            logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        for logger in loggers:
            logger.removeHandler(handler)
        with suppress(OSError):  # a disk that is full; what stopped the run must not be hidden
            handler.close()
