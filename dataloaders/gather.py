"""Calls of many threads, answered in batches by one thread."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class Gatherer(Generic[Item, Result]):
    """A function of one item whose calls from several threads are worked on together.

    While one batch is worked on, the calls that come in wait; then the first ``limit`` of them are
    the next batch. Nothing waits for a batch to fill, so there is no time limit to choose, and a
    lone caller is served at once. The order inside a batch is that of the calls.

    Args:
        work: answers a batch of 1 to ``limit`` items, in order; called in one thread of its own.
            What it raises is raised to each caller of the batch.
        limit: the most items of a batch.
    """

    def __init__(
        self, work: Callable[[list[Item]], Sequence[Result]], *, limit: int, name: str = "batches"
    ) -> None:
        self._work = work
        self._limit = limit
        self._lock = threading.Lock()
        self._waiting: deque[tuple[Item, Future[Result]]] = deque()
        self._worker = ThreadPoolExecutor(1, name)

    def __call__(self, item: Item) -> Result:
        answer: Future[Result] = Future()
        with self._lock:
            self._waiting.append((item, answer))
        # One turn a call: the turns of those that an earlier turn has served find nothing to do.
        self._worker.submit(self._turn)
        return answer.result()

    def _turn(self) -> None:
        with self._lock:
            count = min(self._limit, len(self._waiting))
            batch = [self._waiting.popleft() for _ in range(count)]
        if not batch:
            return
        try:
            results = self._work([item for item, _ in batch])
            assert len(results) == len(batch), (len(results), len(batch))
        except BaseException as error:  # a caller left without an answer would wait for ever
            for _, answer in batch:
                answer.set_exception(error)
            return
        for (_, answer), result in zip(batch, results, strict=True):
            answer.set_result(result)

    def close(self) -> None:
        """Wait for the batch at work and end the thread; no calls may follow."""
        self._worker.shutdown(wait=True)
