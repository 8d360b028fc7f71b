"""A bounded folder of fetched MDS shards, which all processes of a machine share."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from dataloaders.errors import DataError
from dataloaders.index import ShardInfo, sha256_of


class ShardCache:
    """Shards of one data set, fetched when asked for, the least recently used dropped first.

    A process that is killed leaves nothing locked: the locks are the kernel's (``flock``), and end
    with the process. A shard that another process drops while it is read here stays readable until
    its file is closed.

    Args:
        folder: of this data set alone; made if missing.
        limit: bytes of shards kept; those that are being fetched come on top.
        fetch: brings a shard into the empty folder it is given, and returns the file.

    Raises:
        DataError: the folder cannot be made.
    """

    def __init__(self, folder: Path, limit: int, fetch: Callable[[ShardInfo, Path], Path]):
        self._folder = folder
        self._limit = limit
        self._fetch = fetch
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(
                f"{folder}: cannot be made ({error.strerror}); set data.cache_dir to a folder that "
                "can"
            ) from None

    @contextmanager
    def open(self, shard: ShardInfo) -> Iterator[int]:
        """A descriptor of the shard's file, fetched first if it is not here.

        Raises:
            DataError: it cannot be fetched, or what came is not what the index says.
        """
        path = self._path(shard)
        fd = self._open_whole(path, shard.bytes)
        if fd is None:
            with self._locked(shard.stem):
                fd = self._open_whole(path, shard.bytes)  # another may have fetched it meanwhile
                if fd is None:
                    fd = self._fetched(shard, path)
        try:
            if os.utime in os.supports_fd:
                os.utime(fd)  # recently used
            yield fd
        finally:
            os.close(fd)

    def _fetched(self, shard: ShardInfo, path: Path) -> int:
        # What a killed run left here is cleared by the next to fetch the same shard.
        work = self._folder / f"{shard.stem}.work"
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        try:
            arrived = self._fetch(shard, work)
            size, digest = arrived.stat().st_size, sha256_of(arrived)
            if (size, digest) != (shard.bytes, shard.sha256):
                raise DataError(
                    f"{shard.name}: fetched {size} bytes with SHA-256 {digest[:12]}..., its index "
                    f"says {shard.bytes} with {shard.sha256[:12]}...: the shard is damaged where "
                    "it comes from; copy it there again, or run `gcg index` there if it is new"
                )
            with self._locked("evict"):
                self._evict(self._limit - shard.bytes)
                fd = os.open(arrived, os.O_RDONLY | os.O_CLOEXEC)
                arrived.replace(path)
        finally:
            shutil.rmtree(work, ignore_errors=True)
        return fd

    def drop(self, shard: ShardInfo) -> None:
        """Forget a shard, so that it is fetched again."""
        self._path(shard).unlink(missing_ok=True)

    def _path(self, shard: ShardInfo) -> Path:
        return self._folder / f"{shard.stem}.mds"

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
        files = []
        for path in self._folder.glob("*.mds"):
            with suppress(FileNotFoundError):
                found = path.stat()
                files.append((found.st_mtime_ns, found.st_size, path))
        total = sum(size for _, size, _ in files)
        for _, size, path in sorted(files):
            if total <= limit:
                break
            path.unlink(missing_ok=True)
            total -= size
