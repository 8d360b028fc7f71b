"""Checkpoint folders: which are complete, which is newest, which may go. No torch in here.

A checkpoint is written into ``step-00000100.attempt-2.partial``. When every rank has written its
files, rank 0 adds the ``COMMIT`` record, which lists each file with its size, and renames the
folder to ``step-00000100``. A folder that is not named so, lacks the record, or does not hold what
the record lists was not finished, and is never loaded.
"""

from __future__ import annotations

import json
import logging
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launcher.run_folder import RunFolder, assert_current, read_json, write_json, write_text

logger = logging.getLogger(__name__)

COMMIT = "COMMIT"
META = "meta.json"
FORMAT_VERSION = 1
_COMPLETE_NAME = re.compile(r"step-(\d{8,})")
_PARTIAL_NAME = re.compile(r"step-(\d{8,})\.attempt-(\d+)\.partial")


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint. ``meta`` is its ``meta.json``."""

    path: Path
    step: int
    meta: dict[str, Any]


def step_name(step: int) -> str:
    return f"step-{step:08d}"


def partial_path(folder: RunFolder, step: int, attempt: int) -> Path:
    """Where the attempt writes the checkpoint of a step until it is committed."""
    return folder.checkpoints / f"{step_name(step)}.attempt-{attempt}.partial"


def open_partial(folder: RunFolder, step: int, attempt: int) -> Path:
    """Make the (empty) folder to write a checkpoint into. Rank 0, before a barrier."""
    assert_current(folder, attempt)
    partial = partial_path(folder, step, attempt)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    return partial


def commit(folder: RunFolder, step: int, attempt: int, meta: dict[str, Any]) -> Checkpoint:
    """Make a checkpoint whose files all lie there a complete one. Rank 0, after a barrier.

    Raises:
        StaleAttemptError: a newer attempt owns the run.
    """
    assert_current(folder, attempt)
    partial = partial_path(folder, step, attempt)
    write_json(partial / META, meta)
    files = {str(f.relative_to(partial)): f.stat().st_size for f in _files(partial)}
    write_text(
        partial / COMMIT,
        json.dumps({"version": FORMAT_VERSION, "files": files}, indent=1, sort_keys=True),
    )
    target = folder.checkpoints / step_name(step)
    if target.exists():  # an older one of this step, which this attempt did not continue from
        discard(target)
    partial.rename(target)
    return Checkpoint(target, step, meta)


def read_checkpoint(path: Path) -> Checkpoint | None:
    """The checkpoint at ``path``, or None unless it is complete."""
    match = _COMPLETE_NAME.fullmatch(path.name)
    record, meta = read_json(path / COMMIT), read_json(path / META)
    if not match or record is None or meta is None or record.get("version") != FORMAT_VERSION:
        return None
    files = record.get("files")
    if not isinstance(files, dict) or META not in files:
        return None
    for name, size in files.items():
        try:
            if (path / name).stat().st_size != size:
                return None
        except OSError:
            return None
    return Checkpoint(path, int(match[1]), meta)


def complete_checkpoints(folder: RunFolder) -> list[Checkpoint]:
    """All complete checkpoints of a run, oldest first."""
    found = [read_checkpoint(path) for path in _folders(folder)]
    return sorted((c for c in found if c is not None), key=lambda checkpoint: checkpoint.step)


def newest(folder: RunFolder) -> Checkpoint | None:
    """The complete checkpoint to continue from, or None."""
    complete = complete_checkpoints(folder)
    return complete[-1] if complete else None


def prune(folder: RunFolder, keep: int, attempt: int) -> list[Path]:
    """Delete what is no longer needed; return the folders that went. Rank 0, after a commit.

    The newest ``keep`` and the best stay. Folders that an earlier attempt left unfinished go.
    """
    assert_current(folder, attempt)
    complete = complete_checkpoints(folder)
    best = read_best(folder)
    stay = {checkpoint.path.name for checkpoint in complete[-keep:]}
    if best is not None:
        stay.add(Path(best["path"]).name)
    gone = []
    for path in _folders(folder):
        partial = _PARTIAL_NAME.fullmatch(path.name)
        if partial and int(partial[2]) >= attempt:
            continue
        if partial or path.name not in stay:
            discard(path)
            gone.append(path)
    return gone


def discard(path: Path) -> None:
    """Delete a checkpoint, its commit record first: a half-deleted one must not look complete."""
    (path / COMMIT).unlink(missing_ok=True)
    shutil.rmtree(path, ignore_errors=True)
    if path.exists():
        logger.warning("%s: could not be deleted completely", path)


def record_best(folder: RunFolder, checkpoint: Checkpoint, metric: str, value: float) -> bool:
    """Note the checkpoint as the best if its validation metric is above the best so far.

    Of equals the earlier stays. Returns whether it is the new best.
    """
    best = read_best(folder)
    if best is not None and best["step"] != checkpoint.step and best["value"] >= value:
        return False
    write_json(
        folder.best,
        {
            "step": checkpoint.step,
            "metric": metric,
            "value": value,
            "path": str(checkpoint.path.relative_to(folder.root)),
        },
    )
    return True


def read_best(folder: RunFolder) -> dict[str, Any] | None:
    """``{step, metric, value, path}`` of the best checkpoint, None if there is no complete one.

    ``path`` is relative to the run's folder.
    """
    best = read_json(folder.best)
    if best is None or not {"step", "metric", "value", "path"} <= set(best):
        return None
    return best if read_checkpoint(folder.root / best["path"]) is not None else None


def _folders(folder: RunFolder) -> list[Path]:
    try:
        found = [path for path in folder.checkpoints.iterdir() if path.is_dir()]
    except OSError:
        return []
    return sorted(
        path
        for path in found
        if _COMPLETE_NAME.fullmatch(path.name) or _PARTIAL_NAME.fullmatch(path.name)
    )


def _files(root: Path) -> list[Path]:
    return sorted(path for path in root.rglob("*") if path.is_file())
