"""Which checkpoints stay: the newest few and the best. No torch in here."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from launcher.checkpoints.commit import COMMIT, Checkpoint, parse_name
from launcher.checkpoints.fence import assert_current, read_lineage
from launcher.checkpoints.find import entries, read_checkpoint
from launcher.checkpoints.universal import cache_of, caches
from launcher.storage.places import remove_tree
from launcher.storage.run_folder import RunFolder, read_json, write_json

logger = logging.getLogger(__name__)


def superseded(folder: RunFolder, keep: int, attempt: int) -> list[Path]:
    """The folders that are no longer needed when the newest ``keep`` and the best stay.

    What attempts before ``attempt`` left unfinished, damaged or too late is not needed either; what
    this attempt or a later one has not finished may still be being written.
    """
    found = [entry for entry in entries(folder) if parse_name(entry.path.name)]
    whole = [entry for entry in found if entry.checkpoint is not None]
    best = read_best(folder)
    stay = {entry.path.name for entry in whole[-keep:]}
    if best is not None:
        stay.add(Path(best["path"]).name)
    stay |= {e.path.name for e in found if e.checkpoint is None and e.attempt >= attempt}
    gone = [entry.path for entry in found if entry.path.name not in stay]
    return gone + [cache for cache in caches(folder) if cache_of(cache) not in stay]


def prune(folder: RunFolder, keep: int, attempt: int) -> list[Path]:
    """Delete what :func:`superseded` lists; return the folders that went. Rank 0, after a commit.

    Raises:
        StaleAttemptError: a newer attempt owns the run; it may go on from what would be deleted.
    """
    assert_current(folder, attempt)
    gone = []
    for path in superseded(folder, keep, attempt):
        assert_current(folder, attempt)
        discard(path)
        gone.append(path)
    return gone


def discard(path: Path) -> None:
    """Delete a checkpoint, its commit record first: a half-deleted one must not look complete."""
    (path / COMMIT).unlink(missing_ok=True)
    remove_tree(path)
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
    found = read_checkpoint(folder.root / best["path"])
    if found is None or read_lineage(folder).stale(found.attempt, found.step) is not None:
        return None
    return best
