"""What happened to a run and when: ``events.jsonl``, one line an event, never shortened.

``metrics.jsonl`` tells of the steps that the run is made of; this file tells of all time that it
took, of attempts that were lost, too. The lines of a run, in the order in which they come:

- ``launch``, ``over``: the command was started, and ended (written by the driver, the others by
  rank 0);
- ``start``: an attempt began to build; ``ready``: it continues from ``step``;
- ``steps``: updates ``first`` to ``last`` were made or left out, ``count`` of them since the
  attempt's event before: seconds of them that were waited for data (``wait_s``), computed
  (``step_s``), and computed for updates that were left out (``skipped_s``, ``skipped`` of them);
- ``saved``, ``val``: training stood still for ``seconds``; ``roll_back``: it went back to ``step``;
- ``left``, ``end``: the attempt is over; ``how``: complete, stopped (by a rule) or failed.

Each has ``time`` (seconds since 1970) and, but for the driver's, the number of its ``attempt``.
"""

from __future__ import annotations

import json
import logging
import math
import os
import time
from pathlib import Path
from typing import Any

from launcher.storage.places import fault_of, is_remote

logger = logging.getLogger(__name__)

Event = dict[str, Any]

# What must be a number in an event of a kind.
_NUMBERS = {
    "start": ("attempt", "world_size"),
    "ready": ("step",),
    "steps": ("first", "last", "count", "wait_s", "step_s", "skipped_s", "skipped"),
    "saved": ("step", "seconds"),
    "val": ("step", "seconds"),
    "roll_back": ("step",),
}


class EventFile:
    """Appends to a run's events. A line that cannot be written is lost, and training goes on.

    Args:
        path: None writes nothing: a rank other than 0.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._warned = False

    def add(self, kind: str, **values: Any) -> Event:
        """Write an event that happens now; returns its line."""
        event = {"kind": kind, "time": round(time.time(), 3), **values}
        why = fault_of(lambda: self._append(json.dumps(event).encode() + b"\n"))
        if why is not None and not self._warned:
            self._warned = True
            logger.warning("%s: the account of the run has gaps: %s", self._path, why)
        return event

    def _append(self, line: bytes) -> None:
        if self._path is None:
            return
        if is_remote(self._path):  # the driver's, before workers write and after
            before = self._path.read_bytes() if self._path.exists() else b""
            self._path.write_bytes(before + b"\n" * (before[-1:] not in (b"", b"\n")) + line)
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a+b") as file:
            # A half line left by a killed worker must not swallow this one.
            if file.tell() and os.pread(file.fileno(), 1, file.tell() - 1) != b"\n":
                file.write(b"\n")
            file.write(line)


def read_events(path: Path) -> list[Event]:
    """All whole events of a run, oldest first; none where there is no file.

    Left out are damaged lines, and those of an attempt that had been replaced already: a worker
    that was cut off from its cluster may live on for a while.
    """
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    events: list[Event] = []
    current = 0
    for line in text.splitlines():
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if not _is_whole(event) or event.get("attempt", current) < current:
            continue
        current = event.get("attempt", current)
        events.append(event)
    return events


def _is_whole(event: Any) -> bool:
    if not isinstance(event, dict) or not isinstance(event.get("kind"), str):
        return False
    needed = ("time", *_NUMBERS.get(event["kind"], ()))
    if "attempt" in event:
        needed += ("attempt",)
    return all(_is_number(event.get(name)) for name in needed)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
