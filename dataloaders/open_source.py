"""From a data set's place to its source: which format lies there, and who reads it."""

from __future__ import annotations

import os

from dataloaders.source import Source
from dataloaders.storage.options import StorageOptions
from dataloaders.tar_source import TarSource


def open_source(place: str | os.PathLike[str], storage: StorageOptions | None = None) -> Source:
    """Open a packed data set for reading. Close it, or use it as a context manager.

    Args:
        place: a path or a URL.
        storage: settings for a URL.

    Raises:
        DataError: there is none, or it is not whole.
        StorageError: its URL cannot be reached.
    """
    return TarSource(place, storage)
