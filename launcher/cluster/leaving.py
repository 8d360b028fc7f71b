"""Workers that are asked to leave: SIGTERM, a node that is about to go, a wish of the driver.

Whoever is asked, all ranks leave together after the same step, with a checkpoint of it. Ray's
worker loop waits in C++, where a handler written in Python would not run before the next remote
call: so a thread reads the file descriptor that the interpreter writes to when the signal comes.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from launcher.storage.places import is_remote, refused

_POLL_S = 0.5
_POLL_REMOTE_S = 5.0  # each is a few requests
_PREEMPTION_EVERY_S = 2.0

_signalled = threading.Event()


class LeaveRun(Exception):
    """Ends training on every rank alike, after a checkpoint of ``step``."""

    def __init__(self, step: int, reason: str) -> None:
        super().__init__(f"step {step}: {reason}")
        self.step, self.reason = step, reason


def watch_sigterm() -> None:
    """From now on SIGTERM is a request. Call it in the process's main thread; again is harmless."""
    if signal.getsignal(signal.SIGTERM) is _note:
        return
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    signal.signal(signal.SIGTERM, _note)

    def read() -> None:
        while received := os.read(reader, 64):
            if signal.SIGTERM in received:
                _signalled.set()

    threading.Thread(target=read, name="sigterm", daemon=True).start()


def _note(number: int, frame: object) -> None:
    _signalled.set()


class LeaveRequests:
    """What one worker has been asked.

    Args:
        wish: a file that the driver writes to ask all workers; only watched where it is given, by
            one rank, so that the storage is asked by one.
        growth: likewise, and removed again, to ask that they leave at their next checkpoint; it
            says why.
        preempted: says why a node is about to go, or None. Every rank must call it equally often.
    """

    def __init__(
        self,
        wish: Path | None = None,
        growth: Path | None = None,
        preempted: Callable[[], str | None] | None = None,
    ) -> None:
        self._wish, self._growth = wish, growth
        self._growth_reason: str | None = None
        self._wished = threading.Event()
        self._ended = threading.Event()
        self._preempted = preempted
        self._asked_at = time.monotonic()
        self.preempted_because: str | None = None
        if wish is not None:
            threading.Thread(target=self._watch, name="leave", daemon=True).start()

    def _watch(self) -> None:
        assert self._wish is not None
        while True:
            if _read(self._wish) is not None:
                self._wished.set()
                return
            if self._growth is not None:
                self._growth_reason = _read(self._growth)
            if self._ended.wait(_POLL_REMOTE_S if is_remote(self._wish) else _POLL_S):
                return

    def reason(self) -> str | None:
        """Why this worker is asked to leave; None if it is not."""
        if _signalled.is_set():
            return "a worker received SIGTERM"
        if self._wished.is_set():
            return "the command was asked to stop"
        return None

    def growth_reason(self) -> str | None:
        """Why this worker should leave at the next checkpoint; None if it should not, any more."""
        return self._growth_reason

    def due(self) -> bool:
        """Whether it is time to ask :meth:`preemption` again, by this rank's clock."""
        if self._preempted is None:
            return False
        return time.monotonic() - self._asked_at >= _PREEMPTION_EVERY_S

    def preemption(self) -> str | None:
        """Why a node is about to go. Waits for all ranks: they must agree on when they ask."""
        self._asked_at = time.monotonic()
        if self._preempted is not None:
            self.preempted_because = self._preempted()
        return self.preempted_because

    def close(self) -> None:
        self._ended.set()


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8").strip() or None
    except Exception as error:
        if refused(error) is None:
            raise
        return None  # not there, or to be seen at the next look


def ray_preemption() -> str | None:
    """Ray's notice that nodes with workers are about to go, for :class:`LeaveRequests`."""
    import ray.train

    info: Any = ray.train.get_preemption_info()
    if info is None:
        return None
    return f"Ray takes nodes away, with ranks {info.preempted_ranks}"
