"""Stopping together: a fault that one rank meets alone must not leave the others waiting."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

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
