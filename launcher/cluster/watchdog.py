"""A worker that makes no progress says where it hangs and ends, so that Ray starts it again.

Two lines of defence. The first is `faulthandler`'s thread, written in C: it needs no interpreter
lock, writes the stacks of all threads into the run's folder and ends the process. Should that
storage be what hangs, a thread of ours ends the process later, without touching any.
"""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
import time
from pathlib import Path

EXIT_HUNG = 70
_SECOND_LINE = 1.5


class Watchdog:
    """Ends this process when nobody calls :meth:`beat` for too long.

    Args:
        limit_s: seconds between two beats; 0 watches nothing.
        report: where the stacks are written to. It is removed again by :meth:`close` if empty.
    """

    def __init__(self, limit_s: float, report: Path) -> None:
        self._limit_s = limit_s
        self._report = report
        self._last = time.monotonic()
        self._ended = threading.Event()
        if not limit_s:
            return
        report.parent.mkdir(parents=True, exist_ok=True)
        self._file = report.open("w", encoding="utf-8")
        self.beat()
        threading.Thread(target=self._second_line, name="watchdog", daemon=True).start()

    def beat(self) -> None:
        """There is progress."""
        self._last = time.monotonic()
        if self._limit_s and not self._ended.is_set():
            faulthandler.dump_traceback_later(self._limit_s, file=self._file, exit=True)

    def _second_line(self) -> None:
        limit = _SECOND_LINE * self._limit_s
        while not self._ended.wait(min(limit / 10, 5.0)):
            if time.monotonic() - self._last > limit:
                sys.stderr.write(f"no progress for {limit:g} s, not even in writing a report\n")
                os._exit(EXIT_HUNG)

    def close(self) -> None:
        """Stop watching."""
        self._ended.set()
        if not self._limit_s:
            return
        faulthandler.cancel_dump_traceback_later()
        self._file.close()
        if self._report.stat().st_size == 0:
            self._report.unlink()
