"""Reading what a checkpoint holds without running what it says.

A file of ``torch.save`` is a pickle, and a pickle may name any function to call. Checksums say
that a checkpoint is whole, not who wrote it; whoever can write into a run's folder must not thereby
run code on every worker. So all files are read by torch's restricted reader: tensors, plain
containers, and the classes below, which DeepSpeed 0.19.8 and the random number generators leave in
them. DeepSpeed asks for the unrestricted reader; torch has a switch that overrules it.
"""

from __future__ import annotations

import importlib
import os
import pickle
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from launcher.errors import CheckpointError

_SWITCH = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
_CLASSES = (
    "deepspeed.runtime.fp16.loss_scaler.DynamicLossScaler",
    "deepspeed.runtime.fp16.loss_scaler.LossScaler",
    "deepspeed.runtime.zero.config.ZeroStageEnum",
    "deepspeed.utils.tensor_fragment.fragment_address",
    "numpy.dtype",
    "numpy.dtypes.UInt32DType",
    "numpy.ndarray",
)
# One function under its names in NumPy 2 and 1.
_ARRAY = ("numpy._core.multiarray._reconstruct", "numpy.core.multiarray._reconstruct")


def load(file: str | Path, *, map_location: Any = "cpu", mmap: bool = False) -> Any:
    """As ``torch.load``, for a file of a checkpoint.

    Raises:
        CheckpointError: it would make something else than a checkpoint holds.
    """
    with only_known_classes():
        try:
            return torch.load(file, map_location=map_location, weights_only=True, mmap=mmap)
        except pickle.UnpicklingError as error:
            found = re.search(r"GLOBAL ([\w.]+)", str(error))
            raise CheckpointError(_refused(file, found[1] if found else "an object")) from None


def refuse_unknown(files: Iterable[Path]) -> None:
    """Look through files for what :func:`load` would refuse, without reading their tensors.

    Raises:
        CheckpointError: a line for each such file, with what was found in it.
    """
    lines = []
    with only_known_classes():
        for file in files:
            try:
                found = get_unsafe_globals_in_checkpoint(file)
            except (ValueError, RuntimeError, pickle.UnpicklingError):
                found = ["a format of its own"]
            if found:
                lines.append(_refused(file, ", ".join(sorted(found))))
    if lines:
        raise CheckpointError(lines)


@contextmanager
def only_known_classes() -> Iterator[None]:
    """Whatever ``torch.load`` is asked for in here, it reads as :func:`load` does."""
    before = os.environ.get(_SWITCH)
    os.environ[_SWITCH] = "1"
    try:
        with safe_globals(_known()):
            yield
    finally:
        if before is None:
            os.environ.pop(_SWITCH, None)
        else:
            os.environ[_SWITCH] = before


def _known() -> list[Callable | tuple[Callable, str]]:
    known: list[Callable | tuple[Callable, str]] = [_named(name) for name in _CLASSES]
    return known + [(_named(_ARRAY[0]), name) for name in _ARRAY]


def _named(name: str) -> Any:
    module, _, attribute = name.rpartition(".")
    return getattr(importlib.import_module(module), attribute)


def _refused(file: str | Path, what: str) -> str:
    return (
        f"{file}: holds {what}, which no checkpoint of ours does, and nothing of it was run: "
        "another program wrote it; restore the file, or delete the checkpoint's folder to go on "
        "from the one before"
    )
