"""Which attempt at a run may write, and what each attempt continued from. No torch in here.

Every attempt takes a number by creating ``attempts/00002.json``, which only one process can, and
then notes in ``attempts/00002.from.json`` the checkpoint that it goes on from. Two rules follow.

* A writer stops as soon as it sees a number above its own (:func:`assert_current`).
* That look may come too late: a process can be held up between it and its next write. So a reader
  asks the newest attempt's note, the note of the attempt that it went on from, and so on, and takes
  only checkpoints on that line (:class:`Lineage`). What an overtaken attempt commits late is not on
  it, and is never loaded, however complete.
"""

from __future__ import annotations

import json
import math
import os
import re
import socket
import time
from dataclasses import dataclass

from launcher.errors import StaleAttemptError
from launcher.storage.places import create, names_in
from launcher.storage.run_folder import RunFolder, read_json, write_json

_CLAIM = re.compile(r"(\d{5,})\.json")
_ORIGIN = re.compile(r"(\d{5,})\.from\.json")


def begin_attempt(folder: RunFolder) -> int:
    """Take the folder over from any earlier attempt; return the new attempt's number, from 1."""
    who = {"host": socket.gethostname(), "pid": os.getpid(), "began": round(time.time(), 3)}
    number = current_attempt(folder) + 1
    while True:
        if create(folder.attempts / f"{number:05d}.json", json.dumps(who)):
            return number
        number += 1  # another began at the same time, or the listing was an old one


def current_attempt(folder: RunFolder) -> int:
    """The number of the attempt that owns the folder, 0 before the first."""
    return max(_numbers(folder, _CLAIM), default=0)


def assert_current(folder: RunFolder, attempt: int) -> None:
    """Raise StaleAttemptError when a newer attempt owns the folder.

    A worker that was cut off from its cluster may live on while its run is retried elsewhere; this
    keeps it from mixing its files with the new attempt's.
    """
    owner = current_attempt(folder)
    if owner != attempt:
        raise StaleAttemptError(
            f"{folder.root}: attempt {owner} owns this run now, this is attempt {attempt}; "
            "it stops here"
        )


def record_origin(folder: RunFolder, attempt: int, origin: tuple[int, int] | None) -> None:
    """Note what an attempt goes on from, before it makes its first update.

    Args:
        origin: attempt and step of a checkpoint; None: the attempt begins at step 0.
    """
    note = None if origin is None else {"attempt": origin[0], "step": origin[1]}
    write_json(folder.attempts / f"{attempt:05d}.from.json", {"from": note})


@dataclass(frozen=True)
class Lineage:
    """The checkpoints that the newest attempt descends from, and its own.

    ``limits``: by attempt the last step that counts. Attempts above ``newest`` have not noted yet
    what they go on from, so they hold nothing back.
    """

    newest: int
    limits: dict[int, float]

    def stale(self, attempt: int, step: int) -> str | None:
        """Why a checkpoint does not count, or None if it does."""
        if attempt > self.newest or step <= self.limits.get(attempt, -1):
            return None
        return f"attempt {attempt} was overtaken: attempt {self.newest} does not descend from it"


def read_lineage(folder: RunFolder) -> Lineage:
    """Follow the notes back from the newest attempt that has one."""
    newest = max(_numbers(folder, _ORIGIN), default=0)
    limits: dict[int, float] = {}
    attempt, limit = newest, math.inf
    while attempt and attempt not in limits:
        limits[attempt] = limit
        note = read_json(folder.attempts / f"{attempt:05d}.from.json")
        origin = None if note is None else note.get("from")
        if not isinstance(origin, dict):
            break
        attempt, limit = int(origin["attempt"]), int(origin["step"])
    return Lineage(newest, limits)


def _numbers(folder: RunFolder, pattern: re.Pattern[str]) -> list[int]:
    names = names_in(folder.attempts)
    return [int(match[1]) for name in names if (match := pattern.fullmatch(name))]
