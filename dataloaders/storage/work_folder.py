"""Folders to work in that a killed process may leave behind: locked while in use, else removed.

The lock is on the folder itself (``flock``), as the cache's are on its files: the kernel drops it
with the process, so a folder that nobody has locked is a dead one's.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def work_folder(path: Path) -> Iterator[Path]:
    """An empty folder, ours alone; removed at the end. Waits for another that works in it."""
    fd = _claim(path)
    try:
        for left in path.iterdir():
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        os.close(fd)


def _claim(path: Path) -> int:
    while True:
        path.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):  # removed in between
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            fcntl.flock(fd, fcntl.LOCK_EX)
            if is_at(fd, path):
                return fd
            os.close(fd)


def remove_dead(parent: Path) -> int:
    """Remove the folders in ``parent`` that no process works in; how many there were."""
    removed = 0
    with suppress(FileNotFoundError):
        for entry in os.scandir(parent):
            with suppress(FileNotFoundError, NotADirectoryError):
                removed += _remove_unlocked(Path(entry.path))
    return removed


def _remove_unlocked(path: Path) -> bool:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not is_at(fd, path):
            return False
        # Under the lock: who waits for it finds that the folder is gone, and makes another.
        shutil.rmtree(path, ignore_errors=True)
        return True
    except BlockingIOError:
        return False
    finally:
        os.close(fd)


def is_at(fd: int, path: Path) -> bool:
    """Whether an open file is still the one at a path, and not one that was deleted meanwhile."""
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except FileNotFoundError:
        return False
