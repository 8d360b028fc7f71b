"""What the lines of a job's log tell: how far it is, and how it left."""

from __future__ import annotations

import re
from dataclasses import dataclass

# launcher/observe/progress.py writes the first two, launcher/cluster/departure.py the last.
_STEP = re.compile(r"^\S+: step (\d+)/(\d+) (.*)$")
_BEGIN = re.compile(r"^\S+: continues from step (\d+) ")
_LEFT = re.compile(r"^left with a checkpoint of step (\d+);")


@dataclass(frozen=True)
class StepLine:
    """A step that was logged."""

    step: int
    total: int
    figures: str


def parse_step(line: str) -> StepLine | None:
    found = _STEP.match(line)
    return StepLine(int(found[1]), int(found[2]), found[3]) if found else None


def last_step(log: str) -> tuple[int, int | None] | None:
    """The step that a log was at last, and of how many if it says so."""
    for line in reversed(log.splitlines()):
        if (row := parse_step(line)) is not None:
            return row.step, row.total
        if found := (_LEFT.match(line) or _BEGIN.match(line)):
            return int(found[1]), None
    return None


def left_at(log: str) -> int | None:
    """The step of the checkpoint with which a run left; None if it did not."""
    for line in reversed(log.splitlines()):
        if found := _LEFT.match(line):
            return int(found[1])
    return None
