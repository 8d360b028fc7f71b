"""From a data set's place to its source: which format lies there, and who reads it."""

from __future__ import annotations

import os
from pathlib import Path

from dataloaders.index import read_index
from dataloaders.location import is_url
from dataloaders.mds_source import MdsSource
from dataloaders.source import Source
from dataloaders.tar_source import TarSource


def open_source(place: str | os.PathLike[str]) -> Source:
    """Open a packed data set for reading. Close it, or use it as a context manager.

    Raises:
        DataError: there is none, or it is not whole.
    """
    return MdsSource(place) if format_of(place) == "mds" else TarSource(place)


def format_of(place: str | os.PathLike[str]) -> str:
    """``wds`` or ``mds``, as the index says.

    Raises:
        DataError: there is no index.
    """
    if is_url(place):
        return "mds"
    return read_index(Path(place)).format
