"""The folder that shards are written into: emptied first, complete once its index is there."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from dataloaders.index import INDEX_NAME, OWN_INDEX_NAME, ShardInfo
from dataloaders.journal import JOURNAL_NAME
from dataloaders.left_out import QUARANTINE_NAME

_SHARDS = ("shard-*.tar", "shard.*.mds", "shard[-.]*.index.jsonl")
_OURS = (*_SHARDS, "*.partial", QUARANTINE_NAME, JOURNAL_NAME)


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
