"""From a data set's place to its source: which format lies there, and who reads it."""

from __future__ import annotations

import os

from dataloaders.source import Source
from dataloaders.tar_source import TarSource


def open_source(place: str | os.PathLike[str]) -> Source:
    """Open a packed data set for reading. Close it, or use it as a context manager.

    Raises:
        DataError: there is none, or it is not whole.
    """
    return TarSource(place)
