"""Where an attempt's time goes, as it goes: sums between two events, and the run's goodput so far.

Rank 0's clock stands for all: ranks wait for each other in every step.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from launcher.observe.events import Event, EventFile, read_events
from launcher.observe.goodput import USEFUL, Accountant
from launcher.storage.run_folder import RunFolder

# Longer than this is not lost from the account when a worker is killed; a day of steps makes less
# than 2 MB.
_FLUSH_EVERY_S = 10.0


class Ledger:
    """Writes the events of an attempt.

    Args:
        folder: the run's, on rank 0; None on others, where nothing is written.
        attempt: this attempt's number.
        flush_every_s: seconds after which steps are written at the latest.
    """

    def __init__(
        self, folder: RunFolder | None, attempt: int, flush_every_s: float = _FLUSH_EVERY_S
    ) -> None:
        self._file = EventFile(None if folder is None else folder.events)
        self._accountant = Accountant([] if folder is None else read_events(folder.events))
        self._attempt = attempt
        self._flush_every_s = flush_every_s
        self._restart()

    def _restart(self) -> None:
        self._first: int | None = None
        self._last = self._count = self._skipped = 0
        self._wait_s = self._step_s = self._skipped_s = 0.0
        self._flushed = time.monotonic()

    def step(self, number: int, wait_s: float, step_s: float, *, made: bool) -> None:
        """Update ``number`` (from 1) was made, or computed and left out."""
        if self._first is None:
            self._first = number
        self._last = number
        self._count += 1
        self._wait_s += wait_s
        if made:
            self._step_s += step_s
        else:
            self._skipped_s += step_s
            self._skipped += 1
        if time.monotonic() - self._flushed >= self._flush_every_s:
            self.flush()

    def flush(self) -> None:
        """Write the steps since the last event."""
        if self._first is not None:
            event = self._file.add(
                "steps",
                attempt=self._attempt,
                first=self._first,
                last=self._last,
                count=self._count,
                wait_s=round(self._wait_s, 4),
                step_s=round(self._step_s, 4),
                skipped_s=round(self._skipped_s, 4),
                skipped=self._skipped,
            )
            self._accountant.add(event)
        self._restart()

    def record(self, kind: str, **values: object) -> Event:
        """Write an event that happens now, after the steps before it."""
        self.flush()
        event = self._file.add(kind, attempt=self._attempt, **values)
        self._accountant.add(event)
        return event

    @contextmanager
    def pause(self, kind: str, step: int) -> Iterator[None]:
        """Training stands still while this is entered: ``saved`` or ``val`` at a step."""
        self.flush()
        began = time.monotonic()
        yield
        self.record(kind, step=step, seconds=round(time.monotonic() - began, 4))

    def goodput(self) -> float | None:
        """Of the run until now, all attempts together; None before any time has passed."""
        so_far = self._accountant.result()
        wall_s = so_far.wall_s + max(0.0, time.time() - so_far.end)
        return (so_far.parts[USEFUL] + self._step_s) / wall_s if wall_s > 0 else None
