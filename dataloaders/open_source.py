"""From a data set's place to its source: which format lies there, and who reads it."""

from __future__ import annotations

import os

from dataloaders.source import Source
from dataloaders.storage.options import StorageOptions
from dataloaders.tar_source import TarSource


def open_source(
    place: str | os.PathLike[str],
    storage: StorageOptions | None = None,
    *,
    max_lost_share: float = 0.0,
) -> Source:
    """Open a packed data set for reading. Close it, or use it as a context manager.

    Args:
        place: a path or a URL.
        storage: settings for a URL.
        max_lost_share: the share of samples, 0..1, that may lie in missing or damaged shards of a
            folder: reading them fails one by one.

    Raises:
        DataError: there is none, or more of it is lost.
        StorageError: its URL cannot be reached.
    """
    return TarSource(place, storage, max_lost_share=max_lost_share)
