"""Where a run's wall time went: steps that count, and what was lost to each cause.

A fold over ``events.jsonl``. The wall time of a run goes from its first event to its last; every
moment of it belongs to one cause, so the parts sum to the whole. Goodput is the part of it in which
updates were computed that the run is made of.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from launcher.observe.events import Event

USEFUL = "step"
# In the order in which a page shows them.
CAUSES: dict[str, str] = {
    USEFUL: "computing steps that count",
    "data_wait": "waiting for data",
    "checkpoint": "standing still for a checkpoint",
    "validation": "validating",
    "skipped": "computing updates that were left out",
    "lost": "done again: since the checkpoint that an attempt or a roll-back went back to",
    "startup": "starting for the first time",
    "restart": "starting again after an attempt had ended, until the weights were restored",
    "down": "no command was running",
    "other": "the rest: logging, agreeing between ranks, writing the final weights",
}


@dataclass
class Attempt:
    """One start of the workers. Times in seconds since 1970; ``how`` it ended: complete, left,
    stopped, failed, or None while it runs and where it was killed."""

    number: int
    began: float
    world_size: int
    first_step: int | None = None
    last_step: int | None = None
    ended: float = 0.0
    how: str | None = None
    reason: str | None = None


@dataclass(frozen=True)
class Goodput:
    """The account of a run; all times in seconds. ``parts``: by :data:`CAUSES`.

    ``lost_steps``, ``skipped_steps``: updates that were made for nothing, and left out.
    """

    begin: float
    end: float
    parts: dict[str, float]
    attempts: list[Attempt]
    lost_steps: int
    skipped_steps: int

    @property
    def wall_s(self) -> float:
        return sum(self.parts.values())

    @property
    def share(self) -> float | None:
        """Useful step time / wall time; None before any time has passed."""
        return self.parts[USEFUL] / self.wall_s if self.wall_s > 0 else None


@dataclass
class _Span:
    cause: str
    seconds: float


@dataclass
class _Stretch:
    """Time within an attempt up to an update, which is lost if the run goes back before it."""

    step: int
    spans: list[_Span]
    steps: int = 0


class Accountant:
    """Adds up events as they come."""

    def __init__(self, events: Iterable[Event] = ()) -> None:
        self._parts = dict.fromkeys(CAUSES, 0.0)
        self._stretches: list[_Stretch] = []  # those that may still be lost
        self._attempts: list[Attempt] = []
        self._begin: float | None = None
        self._last = 0.0
        self._lost_steps = self._skipped_steps = 0
        for event in events:
            self.add(event)

    def add(self, event: Event) -> None:
        """The next event of the run. One of an unknown kind only lets time pass."""
        now = event["time"]
        if self._begin is None:
            self._begin = self._last = now
        # Two machines' clocks may differ: time never runs backwards here.
        passed = max(0.0, now - self._last)
        self._last = max(now, self._last)
        handler = getattr(self, f"_on_{event['kind']}", None)
        if handler is None:
            self._spend("other", passed)
        else:
            handler(event, passed)
        if self._attempts and event["kind"] not in ("launch", "over"):
            attempt = self._attempts[-1]
            attempt.ended = self._last
            if isinstance(event.get("step"), int) and event["kind"] != "start":
                attempt.last_step = event["step"]

    def result(self) -> Goodput:
        return Goodput(
            begin=self._begin or 0.0,
            end=self._last,
            # A sum that was taken back leaves a rounding error.
            parts={cause: max(0.0, seconds) for cause, seconds in self._parts.items()},
            attempts=list(self._attempts),
            lost_steps=self._lost_steps,
            skipped_steps=self._skipped_steps,
        )

    def _on_launch(self, event: Event, passed: float) -> None:
        self._spend("down", passed)

    def _on_start(self, event: Event, passed: float) -> None:
        self._spend("restart" if self._attempts else "startup", passed)
        number, world_size = int(event.get("attempt", 0)), int(event.get("world_size", 0))
        self._attempts.append(Attempt(number, event["time"], world_size))

    def _on_ready(self, event: Event, passed: float) -> None:
        self._spend("restart" if len(self._attempts) > 1 else "startup", passed)
        self._rewind(event["step"])
        if self._attempts:
            self._attempts[-1].first_step = event["step"]

    def _on_steps(self, event: Event, passed: float) -> None:
        parts = {
            USEFUL: event["step_s"],
            "data_wait": event["wait_s"],
            "skipped": event["skipped_s"],
        }
        self._stretch(event["last"], passed, parts, event["count"] - event["skipped"])
        self._skipped_steps += event["skipped"]
        if self._attempts:
            self._attempts[-1].last_step = event["last"]

    def _on_saved(self, event: Event, passed: float) -> None:
        self._stretch(event["step"], passed, {"checkpoint": event["seconds"]})

    def _on_val(self, event: Event, passed: float) -> None:
        self._stretch(event["step"], passed, {"validation": event["seconds"]})

    def _on_roll_back(self, event: Event, passed: float) -> None:
        self._spend("lost", passed)
        self._rewind(event["step"])

    def _on_left(self, event: Event, passed: float) -> None:
        self._ending(event, passed, "left")

    def _on_end(self, event: Event, passed: float) -> None:
        self._ending(event, passed, event.get("how"))

    def _ending(self, event: Event, passed: float, how: Any) -> None:
        self._spend("other", passed)
        if self._attempts:
            attempt = self._attempts[-1]
            attempt.how, attempt.reason = how, event.get("reason")

    def _spend(self, cause: str, seconds: float) -> _Span:
        self._parts[cause] += seconds
        return _Span(cause, seconds)

    def _stretch(self, step: int, passed: float, parts: dict[str, float], steps: int = 0) -> None:
        """``passed`` seconds, of which ``parts`` were measured and the rest is ``other``."""
        measured = sum(parts.values())
        # Measured by another clock than the time of day, which may have been set meanwhile.
        scale = min(1.0, passed / measured) if measured > 0 else 1.0
        spans = [self._spend(cause, scale * seconds) for cause, seconds in parts.items()]
        spans.append(self._spend("other", max(0.0, passed - scale * measured)))
        self._stretches.append(_Stretch(step, spans, steps))

    def _rewind(self, step: int) -> None:
        """All that was done past ``step`` was for nothing."""
        while self._stretches and self._stretches[-1].step > step:
            gone = self._stretches.pop()
            self._lost_steps += gone.steps
            for span in gone.spans:
                self._parts[span.cause] -= span.seconds
                self._parts["lost"] += span.seconds


def account(events: Iterable[Event]) -> Goodput:
    """Where the time of a run went."""
    return Accountant(events).result()
