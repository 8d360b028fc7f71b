"""Which checkpoints a run has, which of them are complete, and which to go on from. No torch here.

All of it is read from the run's folder alone: no process of the run need have survived.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

from launcher.checkpoints.commit import (
    COMMIT,
    FORMAT_VERSION,
    META,
    Checkpoint,
    parse_name,
    size_faults,
)
from launcher.checkpoints.fence import read_lineage
from launcher.storage.places import names_in
from launcher.storage.run_folder import RunFolder, read_json

_OLD_NAME = re.compile(r"step-(\d{8,})")  # of format 1


@dataclass(frozen=True)
class Entry:
    """A folder that is, was to be, or is no longer a checkpoint.

    ``checkpoint`` is None unless the run may go on from it; ``why`` says why not. ``committed``: it
    has a ``COMMIT``, so it was whole once. ``stale``: an overtaken attempt's.
    """

    path: Path
    step: int
    attempt: int
    checkpoint: Checkpoint | None
    why: str
    committed: bool
    stale: bool = False


def read_checkpoint(path: Path) -> Checkpoint | None:
    """The checkpoint at ``path``, or None unless it is complete."""
    return inspect(path).checkpoint


def inspect(path: Path) -> Entry:
    """What lies at ``path``, by its records and the sizes of its files."""
    old = _OLD_NAME.fullmatch(path.name)
    step, attempt = parse_name(path.name) or (int(old[1]) if old else 0, 0)
    record, meta = read_json(path / COMMIT), read_json(path / META)
    committed = (path / COMMIT).exists()

    def incomplete(why: str) -> Entry:
        return Entry(path, step, attempt, None, why, committed)

    if not committed:
        return incomplete("was not finished: it has no COMMIT")
    if record is None or not isinstance(record.get("files"), dict):
        return incomplete("was damaged: COMMIT: cannot be read")
    if record.get("version") != FORMAT_VERSION:
        version = record.get("version")
        return incomplete(f"is in format {version}, this release reads {FORMAT_VERSION}")
    if parse_name(path.name) is None:
        return incomplete("is not named step-00000000.attempt-0, as checkpoints are")
    faults = size_faults(path, record["files"])
    if faults:
        more = f", and {len(faults) - 1} more" if len(faults) > 1 else ""
        return incomplete(f"was damaged: {faults[0]}{more}")
    if meta is None or META not in record["files"]:
        return incomplete("was damaged: meta.json: cannot be read")
    found = Checkpoint(path, step, attempt, meta, record["files"])
    return Entry(path, step, attempt, found, "complete", committed)


def entries(folder: RunFolder) -> list[Entry]:
    """Every checkpoint's folder of a run, oldest first; overtaken attempts' do not count."""
    names = names_in(folder.checkpoints)
    lineage = read_lineage(folder)
    found = []
    for name in names:
        place = parse_name(name)
        if place is None:
            if _OLD_NAME.fullmatch(name):
                found.append(inspect(folder.checkpoints / name))
            continue
        entry = inspect(folder.checkpoints / name)
        stale = lineage.stale(entry.attempt, entry.step)
        if stale is not None and entry.checkpoint is not None:
            entry = replace(entry, checkpoint=None, why=stale, stale=True)
        found.append(entry)
    return sorted(found, key=lambda entry: (entry.step, entry.attempt, entry.path.name))


def complete_checkpoints(folder: RunFolder) -> list[Checkpoint]:
    """All checkpoints that the run may go on from, oldest first."""
    return [e.checkpoint for e in entries(folder) if e.checkpoint is not None]


def newest(folder: RunFolder, besides: Collection[Path] = ()) -> Checkpoint | None:
    """The checkpoint to continue from, or None. ``besides``: not these."""
    return next((c for c in reversed(complete_checkpoints(folder)) if c.path not in besides), None)


def passed_over(folder: RunFolder, chosen: Checkpoint | None) -> list[str]:
    """A line for each newer folder that is not complete; all of them if nothing was chosen."""
    after = -1 if chosen is None else chosen.step
    return [
        f"{entry.path.name}: {entry.why}"
        for entry in entries(folder)
        if entry.checkpoint is None and entry.step > after
    ]
