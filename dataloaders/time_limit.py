"""A time limit for decoding: a clip whose decoder hangs is given up, and the work goes on.

A thread cannot be killed. Work that outlives its limit is left to a thread of its own, which ends
as soon as the decoder comes back to Python (:func:`end_if_given_up`); one that hangs inside a
single call of a C library stays until the process ends. All are daemons: none holds up that end.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

from dataloaders.errors import DataError

T = TypeVar("T")

DECODE_TIMEOUT_S = 60.0
MAX_STUCK = 16

_current = threading.local()


class TimeLimitError(DataError):
    """This one piece of work took too long."""


class TooManyStuckError(DataError):
    """So many threads hang that going on would exhaust the machine: no longer a clip's fault."""


class GivenUpError(RuntimeError):
    """Ends the thread of work that nobody waits for any more; no one else sees it."""


def end_if_given_up() -> None:
    """Called now and then by long work.

    Raises:
        GivenUpError: in a thread whose work was given up.
    """
    task = getattr(_current, "task", None)
    if task is not None and task.given_up:
        raise GivenUpError


class TimeLimit:
    """Runs work in threads of its own and waits for it no longer than ``limit_s``.

    Args:
        limit_s: seconds; 0 runs the work in the caller's thread, without a limit.
        max_stuck: the most threads that may hang at a time.
        setting: what the user changes the limit with, for messages.

    Safe from several threads. ``timeouts`` counts work that was given up, ``stuck`` the threads
    that still hang.

    Raises:
        DataError: a limit that is negative or no number.
    """

    def __init__(
        self,
        limit_s: float = DECODE_TIMEOUT_S,
        *,
        max_stuck: int = MAX_STUCK,
        setting: str = "data.decode_timeout_s",
    ):
        if not (math.isfinite(limit_s) and 0 <= limit_s <= threading.TIMEOUT_MAX):
            raise DataError(f"{setting}: {limit_s}: must be seconds, 0 for no limit")
        self._limit_s = limit_s
        self._max_stuck = max_stuck
        self._setting = setting
        self._lock = threading.Lock()
        self._idle: list[_Worker] = []
        self.timeouts = 0
        self.stuck = 0

    def run(self, work: Callable[[], T], name: str) -> T:
        """The result of ``work``, or its exception.

        Args:
            name: of the clip, for messages.

        Raises:
            TimeLimitError: it took longer than the limit.
            TooManyStuckError: it did, and more than ``max_stuck`` threads hang now.
        """
        if self._limit_s == 0:
            return work()
        with self._lock:
            worker = self._idle.pop() if self._idle else _Worker()
        task: _Task[T] = _Task(work)
        worker.tasks.put((task, self._finished))
        task.ended.wait(self._limit_s)
        with self._lock:
            if task.ended.is_set():
                self._idle.append(worker)
                return task.outcome()
            task.given_up = True
            self.timeouts += 1
            self.stuck += 1
            stuck = self.stuck
        worker.close()  # it ends when the work does
        rule = f"took longer than {self._setting} = {self._limit_s:g} s"
        if stuck > self._max_stuck:
            raise TooManyStuckError(
                f"{name}: {rule}, as did others: {stuck} threads hang, at most {self._max_stuck} "
                "may; find the clips with `gcg inspect`, or raise the limit on a slow machine"
            )
        raise TimeLimitError(
            f"{name}: decoding {rule}: given up; re-encode the clip or remove it, or raise the "
            "limit if the machine is slow"
        )

    def _finished(self, task: _Task[Any]) -> None:
        with self._lock:
            task.ended.set()
            if task.given_up:
                self.stuck -= 1

    def close(self) -> None:
        """End the idle threads; later work starts new ones."""
        with self._lock:
            idle, self._idle = self._idle, []
        for worker in idle:
            worker.close()
        for worker in idle:
            worker.thread.join()


class _Task(Generic[T]):
    """Work on its way through a thread."""

    def __init__(self, work: Callable[[], T]):
        self._work: Callable[[], T] | None = work
        self._result: list[T] = []
        self._error: BaseException | None = None
        self.ended = threading.Event()
        self.given_up = False

    def __call__(self) -> None:
        assert self._work is not None
        try:
            self._result.append(self._work())
        except BaseException as error:  # raised where the result is awaited
            self._error = error
        # What the work holds on to, an encoded clip, must not live as long as an idle thread.
        self._work = None

    def outcome(self) -> T:
        error, self._error = self._error, None
        if error is not None:
            raise error
        return self._result.pop()


class _Worker:
    """A daemon thread that takes one task after the other until it is closed."""

    def __init__(self) -> None:
        self.tasks: SimpleQueue[tuple[_Task[Any], Callable[[_Task[Any]], None]] | None]
        self.tasks = SimpleQueue()
        self.thread = threading.Thread(target=self._run, name="decode", daemon=True)
        self.thread.start()

    def _run(self) -> None:
        while (item := self.tasks.get()) is not None:
            task, finished = item
            _current.task = task
            task()
            _current.task = None
            finished(task)
            del item, task, finished

    def close(self) -> None:
        self.tasks.put(None)
