"""Work ahead of the consumer in threads, in order and within a bound."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Job(Generic[T]):
    """Parts that may run side by side, and what makes one result of theirs, in order."""

    parts: Sequence[Callable[[], Any]]
    join: Callable[[list[Any]], T]


class Prefetcher(Generic[T]):
    """Runs at most ``depth`` jobs ahead and hands their results over in order.

    Parts run in ``threads`` threads (FFmpeg, torch and file reads release the GIL). Joins run one
    after the other in a thread of their own, so what they count is counted in job order. An
    exception of a part, a join or of ``jobs`` itself is raised to the consumer when its turn
    comes, and again at every later call.
    """

    def __init__(self, jobs: Iterator[Job[T]], *, threads: int, depth: int, name: str = "data"):
        self._jobs = jobs
        self._depth = depth
        self._exhausted = False
        self._pending: deque[tuple[Future[T], list[Future[Any]]]] = deque()
        self._workers = ThreadPoolExecutor(threads, f"{name}-decode")
        self._joiner = ThreadPoolExecutor(1, f"{name}-collate")
        self.last_wait_s = 0.0

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        started = time.perf_counter()
        self._fill()
        if not self._pending:
            raise StopIteration
        result = self._pending[0][0].result()
        with suppress(IndexError):  # closed meanwhile, by another thread
            self._pending.popleft()
        self.last_wait_s = time.perf_counter() - started
        self._fill()
        return result

    def _fill(self) -> None:
        while len(self._pending) < self._depth and not self._exhausted:
            try:
                job = next(self._jobs)
            except StopIteration:
                self._exhausted = True
            except Exception as error:
                self._exhausted = True
                failed: Future[T] = Future()
                failed.set_exception(error)
                self._pending.append((failed, []))
            else:
                parts = [self._workers.submit(part) for part in job.parts]
                self._pending.append((self._joiner.submit(_join, job.join, parts), parts))

    def close(self) -> None:
        """Drop what was not handed over and wait for the threads; may be called twice.

        A thread that waits for a result meanwhile gets a ``CancelledError``.
        """
        self._exhausted = True
        for joined, parts in list(self._pending):
            joined.cancel()
            for part in list(parts):
                part.cancel()
        self._workers.shutdown(wait=True, cancel_futures=True)
        self._joiner.shutdown(wait=True, cancel_futures=True)
        self._pending.clear()


def _join(join: Callable[[list[Any]], T], parts: list[Future[Any]]) -> T:
    results = [part.result() for part in parts]
    # The futures would keep every clip alive beside the batch that is made of them.
    parts.clear()
    return join(results)
