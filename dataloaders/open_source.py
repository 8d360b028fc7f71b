"""From a data set's place to its source, and to the format that lies there."""

from __future__ import annotations

import os

from dataloaders.index import read_index
from dataloaders.shard_source import ShardSource
from dataloaders.storage.folder import open_folder
from dataloaders.storage.options import StorageOptions


def open_source(
    place: str | os.PathLike[str],
    storage: StorageOptions | None = None,
    *,
    max_lost_share: float = 0.0,
    as_found: bool = False,
) -> ShardSource:
    """Open a packed data set for reading. Close it, or use it as a context manager.

    Args:
        place: a path or a URL.
        storage: settings for a URL.
        max_lost_share: the share of samples, 0..1, that may lie in missing or damaged shards of a
            folder: reading them fails one by one.
        as_found: open it in whatever state it is, for inspection.

    Raises:
        DataError: there is none, or more of it is lost.
        StorageError: its URL cannot be reached.
    """
    return ShardSource(place, storage, max_lost_share=max_lost_share, as_found=as_found)


def format_of(place: str | os.PathLike[str], storage: StorageOptions | None = None) -> str:
    """``wds`` or ``mds``, as the index says.

    Raises:
        DataError: there is no index.
        StorageError: its URL cannot be reached.
    """
    return read_index(open_folder(place, storage)).format
