"""Resident memory of this process, and what a piece of work adds to it."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any


def resident(name: str) -> int:
    """``VmRSS``, resident bytes now, or ``VmHWM``, at their peak (proc(5)).

    Not ru_maxrss: a process that is started inherits its parent's.

    Raises:
        OSError: the system does not tell.
    """
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status: no {name}; memory is measured on Linux alone")


def added(piece: Callable[[], object]) -> int:
    """Bytes that ``piece`` adds at its peak to what was there. In a process of its own, see
    :func:`apart`: what another left there is used again."""
    # What came before had a peak of its own: the kernel forgets it when "5" is written here.
    Path("/proc/self/clear_refs").write_text("5")
    before = resident("VmHWM")
    piece()
    return resident("VmHWM") - before


def apart(function: Callable[..., int], *arguments: Any) -> int:
    """What ``function``, importable by name, returns in a new process."""
    # Freed blocks go back to the kernel at once, so that the peak is of what lives.
    os.environ.setdefault("MALLOC_MMAP_THRESHOLD_", "65536")
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(sender, function, arguments))
    process.start()
    sender.close()
    try:
        return receiver.recv()
    finally:
        process.join()


def _send(pipe: Any, function: Callable[..., int], arguments: tuple[Any, ...]) -> None:
    pipe.send(function(*arguments))
