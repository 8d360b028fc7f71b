"""The shards of a data set as open files: local ones as they are, remote ones through the cache."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from dataloaders.errors import DataError, StorageError
from dataloaders.index import sha256_of
from dataloaders.storage.ahead import Ahead
from dataloaders.storage.cache import CacheFullError, NodeCache, RemoteFile
from dataloaders.storage.folder import LocalFolder, RemoteFolder
from dataloaders.storage.open_files import OpenFiles
from dataloaders.storage.options import StorageOptions
from dataloaders.storage.remote import copy_file, storage_error
from dataloaders.storage.retry import BUGS, Stopped, with_retries

logger = logging.getLogger(__name__)


class ShardFiles(Protocol):
    """Shards by number. Safe from several threads."""

    def open(self, number: int) -> AbstractContextManager[int]:
        """A descriptor for ``pread``, valid inside the ``with``."""
        ...

    def prefetch(self, current: Sequence[int], upcoming: Sequence[int]) -> None:
        """Keep the current shards, and get what comes next in the background."""
        ...

    def refetch(self, number: int) -> bool:
        """After bytes that fail their checksum: forget the copy; False where there is none."""
        ...

    def take_as_found(self, number: int, size: int) -> None:
        """From now on read a damaged file as it lies there: ``size`` bytes, of unknown checksum."""
        ...

    def close(self) -> None: ...


class LocalShards:
    """Files in a local folder. ``max_open``: how many stay open."""

    def __init__(self, folder: LocalFolder, names: Sequence[str], max_open: int):
        self._paths = [folder.path / name for name in names]
        flags = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0)
        self._files = OpenFiles(lambda number: os.open(self._paths[number], flags), max_open)

    def open(self, number: int) -> AbstractContextManager[int]:
        return self._files.open(number)

    def prefetch(self, current: Sequence[int], upcoming: Sequence[int]) -> None:
        pass

    def refetch(self, number: int) -> bool:
        return False

    def take_as_found(self, number: int, size: int) -> None:
        pass

    def close(self) -> None:
        self._files.close()


class Download(Protocol):
    """Fetches a file into a path and verifies it; ``stop`` asks it to end early."""

    stop: threading.Event

    def __call__(self, file: RemoteFile, path: Path) -> None: ...


class CachedShards:
    """Files fetched whole into the node's cache and verified on arrival.

    Args:
        files: what the index says of each.
        download: brings one to a path.
        warm: called with a number once its shard is here ahead of time, to get what else
            belongs to it.
    """

    def __init__(
        self,
        files: Sequence[RemoteFile],
        options: StorageOptions,
        download: Download,
        warm: Callable[[int], object] = lambda number: None,
    ):
        self._download = download
        self._shards = list(files)
        self._cache = NodeCache(options.cache_dir, options.cache_bytes)
        self._warm = warm
        self._current: frozenset[int] = frozenset()
        self._warned = False
        # None stay open but those that are pinned: an open file cannot be removed from the cache.
        self._files = OpenFiles(self._open, 0)
        self._ahead = Ahead(self._fetch, options.threads, "fetch")

    def _open(self, number: int, needed: bool = True) -> int:
        file = self._shards[number]
        let_go = self._unpin if needed else None
        try:
            return self._cache.open(file, lambda path: self._download(file, path), let_go)
        except OSError as error:
            raise storage_error(file.url, "kept in data.cache_dir", error, 1) from error

    def _unpin(self) -> None:
        self._files.pin(())
        if not self._warned:
            self._warned = True
            logger.warning(
                "data.cache_gb = %g: too little for the shards that are read from at a time: some "
                "are fetched again and again; raise it, or lower data.block_shards",
                self._cache.limit / 1e9,
            )

    def _fetch(self, number: int) -> None:
        try:
            if number in self._current:
                with self._files.open(number):  # pinned, so it stays open
                    pass
            else:
                os.close(self._open(number, needed=False))
            self._warm(number)
        except CacheFullError as error:
            logger.debug("ahead of time: %s", error)
        except Stopped:
            pass

    def open(self, number: int) -> AbstractContextManager[int]:
        return self._files.open(number)

    def prefetch(self, current: Sequence[int], upcoming: Sequence[int]) -> None:
        self._current = frozenset(current)
        self._files.pin(current)
        self._ahead.replace([*current, *upcoming])

    def refetch(self, number: int) -> bool:
        if self._shards[number].sha256 is None:
            return False  # it would come again as it is
        self._cache.discard(self._shards[number])
        self._files.drop(number)
        return True

    def take_as_found(self, number: int, size: int) -> None:
        # Another name in the cache: it never passes for the whole one.
        self._shards[number] = replace(self._shards[number], bytes=size, sha256=None)
        self._files.drop(number)

    def close(self) -> None:
        """End the threads, a download in the middle of a shard included."""
        self._download.stop.set()
        self._ahead.close()
        self._download.stop.clear()
        self._files.close()


class Downloader:
    """Fetches a file into a path and verifies it; ``stop`` ends it early with ``Stopped``."""

    def __init__(self, folder: RemoteFolder, options: StorageOptions):
        self._system = folder.system
        self._options = options
        self.stop = threading.Event()

    def __call__(self, file: RemoteFile, path: Path) -> None:
        """
        Raises:
            StorageError: it is not there, may not be read, or did not arrive whole, however often
                it was tried.
        """
        try:
            with_retries(lambda: self._once(file, path), file.url, self._options, self.stop)
        except _NotWhole as error:
            raise StorageError(
                f"{file.url}: {error}, {self._options.retries + 1} tries; it is not the file that "
                "was packed: upload it again, or run `gcg pack` again"
            ) from None
        except (DataError, Stopped, *BUGS):
            raise
        except Exception as error:
            raise storage_error(file.url, "fetched", error, self._options.retries + 1) from error

    def _once(self, file: RemoteFile, path: Path) -> None:
        def interrupt() -> None:
            if self.stop.is_set():
                raise _Interrupted

        try:
            copy_file(self._system, file.url, path, interrupt)
        except _Interrupted:
            raise Stopped(file.url) from None
        size = path.stat().st_size
        if size != file.bytes:
            raise _NotWhole(f"{size} bytes arrived, its index says {file.bytes}")
        if file.sha256 is not None and (found := sha256_of(path)) != file.sha256:
            raise _NotWhole(f"arrived with SHA-256 {found[:16]}…, its index says "
                            f"{file.sha256[:16]}…")  # fmt: skip


class _NotWhole(OSError):
    """What arrived is not what the index describes: perhaps a broken transfer."""


class _Interrupted(Exception):
    pass


def open_shards(
    folder: LocalFolder | RemoteFolder,
    files: Sequence[tuple[str, int, str | None]],
    *,
    max_open: int = 64,
    warm: Callable[[int], object] = lambda number: None,
) -> ShardFiles:
    """The shards of a folder.

    Args:
        files: name, bytes and SHA-256 (None: unknown) of each, in the order of their numbers.
        max_open, warm: as of ``LocalShards`` and ``CachedShards``.

    Raises:
        StorageError: the cache's folder cannot be used.
    """
    if isinstance(folder, LocalFolder):
        return LocalShards(folder, [name for name, _, _ in files], max_open)
    remote = [RemoteFile(folder.at(name), size, sha256) for name, size, sha256 in files]
    options = folder.options
    return CachedShards(remote, options, Downloader(folder, options), warm)
