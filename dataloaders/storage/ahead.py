"""Work done ahead in background threads, from a list that changes."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Hashable, Iterable
from typing import Generic, TypeVar

logger = logging.getLogger(__name__)

K = TypeVar("K", bound=Hashable)


class Ahead(Generic[K]):
    """Does ``work`` for each item of a list, in order, in ``threads`` threads.

    A new list replaces what has not begun; nothing is done twice at a time. A failure is logged:
    who needs the result meets it again and can say so. Threads begin with the first list and end
    with ``close``.
    """

    def __init__(self, work: Callable[[K], object], threads: int, name: str):
        self._work = work
        self._num_threads = threads
        self._name = name
        self._changed = threading.Condition()
        self._todo: deque[K] = deque()
        self._active: set[K] = set()
        self._closed = False
        self._threads: list[threading.Thread] = []

    def replace(self, items: Iterable[K]) -> None:
        """What comes next, soonest first."""
        with self._changed:
            self._closed = False
            self._todo = deque(item for item in items if item not in self._active)
            self._changed.notify_all()
            while len(self._threads) < min(self._num_threads, len(self._todo)):
                name = f"{self._name}-{len(self._threads)}"
                thread = threading.Thread(target=self._run, name=name, daemon=True)
                self._threads.append(thread)
                thread.start()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._todo or self._closed)
                if self._closed:
                    return
                item = self._todo.popleft()
                self._active.add(item)
            try:
                self._work(item)
            except Exception as error:
                logger.warning("ahead of time: %s", error)
            finally:
                with self._changed:
                    self._active.discard(item)

    def close(self) -> None:
        """Forget the list and wait for the threads."""
        with self._changed:
            self._closed = True
            self._todo.clear()
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()
        self._threads = []
