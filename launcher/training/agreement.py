"""Stopping together: a fault that one rank meets alone must not leave the others waiting."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import torch.distributed as dist

from dataloaders.errors import DataError
from gcg.errors import ModelError
from launcher.errors import RunStoppedError, UserError

Result = TypeVar("Result")


def together(action: Callable[[], Result]) -> Result:
    """Run ``action`` on every rank; if it fails with a user's error on any, all raise it.

    ``action`` must hold no collective call that a failing rank would miss.

    Raises:
        RunStoppedError: with the distinct lines of all ranks.
    """
    result, fault = attempt(action)
    faults: list[list[str] | None] = [None] * dist.get_world_size()
    dist.all_gather_object(faults, fault)
    raise_any(faults)
    return result  # type: ignore[return-value]


def attempt(action: Callable[[], Result]) -> tuple[Result | None, list[str] | None]:
    """The result and None, or None and the lines of a user's error."""
    try:
        return action(), None
    except UserError as error:
        return None, error.lines
    except ModelError as error:
        return None, error.lines
    except DataError as error:
        return None, [str(error)]


def raise_any(faults: list[list[str] | None]) -> None:
    """Raise RunStoppedError with every distinct line, if there is any."""
    lines = list(dict.fromkeys(line for fault in faults for line in fault or ()))
    if lines:
        raise RunStoppedError(lines)


def on_rank_0(action: Callable[[], Any]) -> None:
    """Run ``action`` on rank 0; whatever it raises is raised on every rank."""
    # Else rank 0 would stop here alone, and leave the others in the next collective.
    from_rank_0(lambda: action() and None)


def from_rank_0(action: Callable[[], Result]) -> Result:
    """What ``action`` returns on rank 0, on every rank; likewise whatever it raises."""
    outcome: list[Any] = [None, None]
    if dist.get_rank() == 0:
        try:
            outcome[0] = action()
        except Exception as error:
            outcome[1] = error
    dist.broadcast_object_list(outcome, src=0)
    if outcome[1] is not None:
        raise outcome[1]
    return outcome[0]


def ranks_here() -> list[int]:
    """The ranks on this rank's machine, ascending; on every rank alike. Every rank calls it."""
    own = f"{socket.gethostname()} {_boot_id()}"
    machines: list[str] = [""] * dist.get_world_size()
    dist.all_gather_object(machines, own)
    return [rank for rank, machine in enumerate(machines) if machine == own]


def _boot_id() -> str:
    """Tells machines of the same name apart, which containers can have."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def each_from_rank_0(make: Callable[[], Iterator[str]]) -> Iterator[str]:
    """What an iterator yields on rank 0, where it differs from the last, on every rank.

    For work of rank 0 that takes long: as every item is sent, no rank waits in one collective for
    longer than from one to the next.
    """
    items: Iterator[str] | None = None
    last = None

    def advance() -> str | None:
        nonlocal items
        items = make() if items is None else items
        return next(items, None)

    while (item := from_rank_0(advance)) is not None:
        if item != last:
            yield item
        last = item
