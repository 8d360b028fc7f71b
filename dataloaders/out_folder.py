"""The folder that shards are written into: emptied first, complete once its index is there."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path

from dataloaders.errors import DataError
from dataloaders.index import (
    INDEX_NAME,
    OWN_INDEX_NAME,
    DatasetIndex,
    ShardInfo,
    index_path,
    read_index,
)
from dataloaders.journal import JOURNAL_NAME
from dataloaders.left_out import QUARANTINE_NAME

logger = logging.getLogger(__name__)

_SHARDS = ("shard-*.tar", "shard.*.mds", "shard[-.]*.index.jsonl")
_OURS = (*_SHARDS, "*.partial", QUARANTINE_NAME, JOURNAL_NAME)


class ShardTotals:
    """What reports about shards count alike."""

    shards: tuple[ShardInfo, ...]

    @property
    def num_samples(self) -> int:
        return sum(shard.num_samples for shard in self.shards)

    @property
    def num_questions(self) -> int:
        return sum(shard.num_questions for shard in self.shards)


def reusable(out: Path, made_of: str, overwrite: bool) -> DatasetIndex | None:
    """The index of a folder that holds what is to be written already, whole.

    Args:
        made_of: the input's fingerprint.

    Raises:
        DataError: it holds something else, which only ``overwrite`` may replace.
    """
    if not index_path(out).exists():
        return None
    try:
        index = read_index(out)
        whole = all((out / s.name).stat().st_size == s.bytes for s in index.shards)
    except (DataError, OSError):
        index, whole = None, False
    if index is None and (out / JOURNAL_NAME).exists():
        return None  # streaming's index alone: a pack that ended just before ours was written
    if index is not None and index.input_fingerprint == made_of:
        if whole:
            return index
        logger.warning("%s: shards are missing or damaged: written again", out)
    elif not overwrite:
        raise DataError(
            f"{out}: already holds shards made from another input or with other settings; choose "
            "an empty folder, or pass --overwrite"
        )
    return None


def clear(out: Path, keep: Iterable[ShardInfo] = ()) -> None:
    """Make the folder, without what an earlier attempt left in it but for the shards to keep."""
    kept = {name for shard in keep for name in (shard.name, shard.entries_name)}
    out.mkdir(parents=True, exist_ok=True)
    # The index goes first: from here on the folder is not a complete data set.
    for name in (OWN_INDEX_NAME, INDEX_NAME):
        (out / name).unlink(missing_ok=True)
    for pattern in _OURS:
        for path in out.glob(pattern):
            if path.name not in kept:
                path.unlink()
