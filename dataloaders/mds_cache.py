"""A bounded folder of fetched MDS shards, which all processes of a machine share."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from dataloaders.errors import DataError


def default_cache() -> Path:
    """``GCG_CACHE``, or a folder of this user's below the temporary one."""
    place = os.environ.get("GCG_CACHE")
    return Path(place) if place else Path(tempfile.gettempdir(), f"gcg-cache-{os.getuid()}")


class ShardCache:
    """Shards of one data set, fetched when asked for, the least recently used dropped first.

    A process that is killed leaves nothing locked: the locks are the kernel's (``flock``), and end
    with the process. A shard that another process drops while it is read here stays readable until
    its file is closed.

    Args:
        folder: of this data set alone; made if missing.
        limit: bytes of shards kept; while one is fetched there may be that one more.
        fetch: brings the shard of a name and number into the folder. It must appear under its name
            whole (written elsewhere and renamed); its size is checked.

    Raises:
        DataError: the folder cannot be made.
    """

    def __init__(self, folder: Path, limit: int, fetch: Callable[[int], None]):
        self._folder = folder
        self._limit = limit
        self._fetch = fetch
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(
                f"{folder}: cannot be made ({error.strerror}); set GCG_CACHE to a folder that can"
            ) from None

    @contextmanager
    def open(self, number: int, name: str, size: int) -> Iterator[int]:
        """A descriptor of the shard's file, fetched first if it is not here.

        Raises:
            DataError: what was fetched has another size. It is not kept.
        """
        path = self._folder / name
        fd = self._open_whole(path, size)
        if fd is None:
            with self._locked(name):
                fd = self._open_whole(path, size)  # another may have fetched it meanwhile
                if fd is None:
                    path.unlink(missing_ok=True)
                    self._evict(self._limit - size)
                    self._fetch(number)
                    fd = self._open_whole(path, size)
        if fd is None:
            found = path.stat().st_size if path.exists() else "no"
            path.unlink(missing_ok=True)
            raise DataError(f"{path}: fetched {found} bytes, its index says {size}")
        try:
            os.utime(path if os.utime not in os.supports_fd else fd)  # recently used
            yield fd
        finally:
            os.close(fd)

    def drop(self, name: str) -> None:
        """Forget a shard, so that it is fetched again."""
        (self._folder / name).unlink(missing_ok=True)

    @staticmethod
    def _open_whole(path: Path, size: int) -> int | None:
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        if os.fstat(fd).st_size == size:
            return fd
        os.close(fd)
        return None

    @contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        with (self._folder / f"{name}.lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _evict(self, limit: int) -> None:
        with self._locked("evict"):
            files = []
            for path in self._folder.glob("*.mds*"):
                with suppress(FileNotFoundError):
                    if path.suffix != ".lock":
                        found = path.stat()
                        files.append((found.st_mtime_ns, found.st_size, path))
            total = sum(size for _, size, _ in files)
            for _, size, path in sorted(files):
                if total <= limit:
                    break
                path.unlink(missing_ok=True)
                total -= size
