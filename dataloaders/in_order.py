"""Work on many items in threads, with the results in the items' order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_in_order(
    work: Callable[[Item], Result], items: Iterable[Item], threads: int
) -> Iterator[Result]:
    """``map`` with ``threads`` threads, few results in memory at a time.

    An exception of ``work`` is raised when its item's turn comes.
    """
    threads = max(1, threads)
    window: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(threads, "work") as pool:
        try:
            for item in items:
                window.append(pool.submit(work, item))
                if len(window) > 2 * threads:
                    yield window.popleft().result()
            while window:
                yield window.popleft().result()
        finally:
            for future in window:
                future.cancel()
