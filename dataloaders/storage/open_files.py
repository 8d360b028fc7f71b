"""Descriptors of shards, shared by threads, closed when there are too many."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager


class _Handle:
    def __init__(self, fd: int):
        self.fd = fd
        self.users = 0


class OpenFiles:
    """Holds open what is in use, what is pinned, and as much else as ``limit`` leaves room for,
    least recently used closed first.

    Args:
        open_file: a new descriptor of file number n; may take long, and be called by several
            threads at once.
        limit: files open at a time, unless more are in use or pinned.
    """

    def __init__(self, open_file: Callable[[int], int], limit: int):
        self._open_file = open_file
        self._limit = limit
        self._lock = threading.Lock()
        self._open: OrderedDict[int, _Handle] = OrderedDict()
        self._pinned: frozenset[int] = frozenset()

    @contextmanager
    def open(self, number: int) -> Iterator[int]:
        handle = self._take(number, None)
        if handle is None:
            fresh = self._open_file(number)  # not under the lock: others go on reading
            handle = self._take(number, fresh)
        assert handle is not None
        try:
            yield handle.fd
        finally:
            with self._lock:
                handle.users -= 1
                if not handle.users and self._open.get(number) is not handle:
                    os.close(handle.fd)  # dropped meanwhile
                self._close_some()

    def _take(self, number: int, fresh: int | None) -> _Handle | None:
        with self._lock:
            handle = self._open.pop(number, None)
            if handle is None:
                if fresh is None:
                    return None
                handle = _Handle(fresh)
            elif fresh is not None:
                os.close(fresh)  # another thread was faster
            handle.users += 1
            self._open[number] = handle
            self._close_some()
            return handle

    def pin(self, numbers: Collection[int]) -> None:
        """Keep these open once they have been opened, and those pinned before no longer."""
        with self._lock:
            self._pinned = frozenset(numbers)
            self._close_some()

    def drop(self, number: int) -> None:
        """Let the next reader open it anew; those that are reading it finish."""
        with self._lock:
            handle = self._open.pop(number, None)
            if handle is not None and not handle.users:
                os.close(handle.fd)

    def _close_some(self) -> None:
        idle = [n for n, each in self._open.items() if not each.users and n not in self._pinned]
        for number in idle[: max(0, len(self._open) - self._limit)]:
            os.close(self._open.pop(number).fd)

    def close(self) -> None:
        """Close all that is not in use; a later ``open`` opens again."""
        with self._lock:
            self._pinned = frozenset()
            for number in [n for n, each in self._open.items() if not each.users]:
                os.close(self._open.pop(number).fd)
