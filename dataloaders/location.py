"""Where data lie: a local path, or a URL such as ``s3://bucket/data``. Kept as text."""

from __future__ import annotations

import os
from pathlib import Path


def is_url(location: str | os.PathLike[str]) -> bool:
    return "://" in os.fspath(location)


def absolute(location: str) -> str:
    """The same place for a process that runs in another folder."""
    return location if is_url(location) else str(Path(location).absolute())


def join(location: str | os.PathLike[str], *parts: str) -> str:
    """A place below ``location``."""
    base = os.fspath(location)
    if is_url(base):
        return "/".join([base.rstrip("/"), *parts])
    return str(Path(base, *parts))


def last_part(location: str | os.PathLike[str]) -> str:
    """The folder's own name."""
    return os.fspath(location).rstrip("/").rpartition("/")[2]
