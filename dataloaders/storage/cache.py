"""Shards kept on a node's disk: fetched once for all its processes, bounded, nothing left behind.

A file ``<key>-<name>`` is a whole, verified shard; its key is of URL, size and checksum, so two
data sets or two versions of a shard never mix. ``<key>-<name>.<size>.partial`` is one on its way
in. There are no lock files for shards: a downloader holds the partial file itself locked, a reader
the shard (``flock``). The kernel drops the locks of a killed process, so what it leaves is a
partial file that nobody has locked, and the next process to make room removes it. Removing a
shard takes its lock alone: one that is being read stays.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from dataloaders.errors import StorageError
from dataloaders.storage.work_folder import is_at

logger = logging.getLogger(__name__)

_PARTIAL = ".partial"
_LOCK = ".lock"
# Whatever else lies in the folder is not ours to remove.
_OURS = re.compile(r"[0-9a-f]{32}-.*?(?:\.(?P<size>\d+)\.partial)?", re.DOTALL)


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file at a URL as its index describes it; ``sha256`` None: known by its size alone."""

    url: str
    bytes: int
    sha256: str | None

    @property
    def cached_name(self) -> str:
        text = f"{self.url}\0{self.bytes}\0{self.sha256}"
        key = hashlib.sha256(text.encode()).hexdigest()[:32]
        return f"{key}-{self.url.rstrip('/').rpartition('/')[2][-100:]}"


class CacheFullError(StorageError):
    """The shards in use leave no room for another."""


class _Found(NamedTuple):
    path: Path
    bytes: int
    used: float  # when it was opened last; infinite for a partial file


class NodeCache:
    """A folder of shards that all processes of a node share.

    Args:
        folder: on a local disk; made if missing.
        limit: bytes of shards in it, those on their way in included. Processes may have
            different limits; each keeps to its own when it fetches.
        patience: how often room is looked for while all is in use, waiting 50 ms, 100 ms, ...
            between: most uses are one read long.

    Raises:
        StorageError: the folder cannot be made, or its file system has no locks.
    """

    def __init__(self, folder: Path, limit: int, patience: int = 6):
        self._folder = folder
        self.limit = limit
        self._patience = patience
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with self._locked():
                pass
        except OSError as error:
            raise StorageError(
                f"data.cache_dir = {folder}: cannot be used ({error.strerror}): shards at a URL "
                "are kept there; set it to a folder on a local disk"
            ) from None

    def open(
        self,
        file: RemoteFile,
        download: Callable[[Path], None],
        let_go: Callable[[], object] | None = None,
    ) -> int:
        """A descriptor of the whole file, fetched if need be. While it is open the file stays.

        Args:
            download: fetches into an existing path, verifies, and raises if it cannot. Called by
                one process of the node at a time; the others wait for it.
            let_go: called when all is in use, to close what need not be; None: the file is not
                needed yet, so nothing is waited for.

        Raises:
            CacheFullError: what is in use and this file do not fit into the limit together.
            Exception: what ``download`` raised.
        """
        final = self._folder / file.cached_name
        partial = self._folder / f"{file.cached_name}.{file.bytes}{_PARTIAL}"
        full = 0
        while True:
            fd = self._open_whole(final, file.bytes)
            if fd is not None:
                return fd
            with _claimed(partial) as claim:
                if claim is None or final.exists():
                    continue
                try:
                    waiting_for = self._make_room(file, partial)
                except CacheFullError:
                    full += 1
                    if let_go is None or full >= self._patience or file.bytes > self.limit:
                        raise
                    let_go()
                    waiting_for = partial
                if waiting_for is None:
                    download(partial)
                    # Not synced first: what a power cut spoils, the samples' checksums notice.
                    with self._locked():  # who lists the folder meanwhile may see neither name
                        partial.replace(final)
                    if not is_at(claim, final):
                        continue  # the library put a file of its own there
                    fcntl.flock(claim, fcntl.LOCK_SH)
                    return os.dup(claim)  # which has the same lock
            if waiting_for == partial:
                time.sleep(0.05 * 2 ** (full - 1))
            else:
                _wait_for(waiting_for)

    def discard(self, file: RemoteFile) -> None:
        """Forget a file whose bytes went bad on this disk; it is fetched again when asked for."""
        (self._folder / file.cached_name).unlink(missing_ok=True)

    def _open_whole(self, path: Path, size: int) -> int | None:
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        fcntl.flock(fd, fcntl.LOCK_SH)
        facts = os.fstat(fd)
        if facts.st_nlink and facts.st_size == size:
            os.utime(fd)  # when it was used last
            return fd
        os.close(fd)
        if facts.st_nlink:
            logger.warning("%s: %d bytes, must be %d: fetched again", path, facts.st_size, size)
            path.unlink(missing_ok=True)
        return None

    def _make_room(self, file: RemoteFile, own: Path) -> Path | None:
        """Remove what was not used for longest until the file fits.

        Returns:
            None if it fits now, else another's partial file whose end is worth waiting for.

        Raises:
            CacheFullError: nothing more can be removed, and nothing is on its way in.
        """
        with self._locked():
            found = sorted(self._scan(own), key=lambda each: each.used)
            total = file.bytes + sum(each.bytes for each in found)
            for each in found:
                stale = each.path.suffix == _PARTIAL
                if (stale or total > self.limit) and _remove_unlocked(each.path):
                    total -= each.bytes
            if total <= self.limit:
                return None
            arriving = [each.path for each in found if each.path.suffix == _PARTIAL]
            arriving = [path for path in arriving if path.exists()]
            if arriving and file.bytes <= self.limit:
                return arriving[0]
        raise CacheFullError(
            f"data.cache_gb = {self.limit / 1e9:g}: {self._folder}: {file.url} has "
            f"{file.bytes / 1e9:.3g} GB, other shards in use on this node "
            f"{(total - file.bytes) / 1e9:.3g} GB: together they must fit; raise data.cache_gb, or "
            "lower data.block_shards, or pack smaller shards"
        )

    def _scan(self, own: Path) -> Iterator[_Found]:
        for entry in os.scandir(self._folder):
            path, ours = Path(entry.path), _OURS.fullmatch(entry.name)
            if path == own or ours is None:
                continue
            with suppress(FileNotFoundError):
                if ours["size"]:
                    # What it is going to be: room is taken when a download begins.
                    yield _Found(path, int(ours["size"]), float("inf"))
                else:
                    facts = entry.stat()
                    yield _Found(path, facts.st_size, facts.st_mtime)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Held for the moment of making room, so that two processes do not both take the last."""
        fd = os.open(self._folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)


@contextmanager
def _claimed(partial: Path) -> Iterator[int | None]:
    """The partial file, locked by us alone, or None once another has finished or given up.

    It is removed again unless it was renamed. Each opening has its own lock, so this also holds
    between threads of one process.
    """
    fd = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        if not _try_lock(fd):
            # Not for a lock of our own: once whole, the file may be read, and locked, for hours.
            fcntl.flock(fd, fcntl.LOCK_SH)
            yield None
            return
        if not is_at(fd, partial):
            yield None
            return
        try:
            yield fd
        finally:
            if is_at(fd, partial):
                partial.unlink(missing_ok=True)
    finally:
        os.close(fd)


def _remove_unlocked(path: Path) -> bool:
    """Remove a file unless somebody reads or writes it; whether it is gone."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    try:
        if not _try_lock(fd):
            return False
        path.unlink(missing_ok=True)
        return True
    finally:
        os.close(fd)


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _wait_for(partial: Path) -> None:
    """Until the download that writes this file has ended, whichever way."""
    with suppress(FileNotFoundError):
        fd = os.open(partial, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_SH)
        finally:
            os.close(fd)
