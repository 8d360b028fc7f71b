"""What happens in one clip: a size, a length and a row of events that do not overlap."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

COLOURS = {
    "red": (225, 45, 45),
    "green": (45, 190, 70),
    "blue": (50, 90, 235),
    "yellow": (240, 220, 50),
    "purple": (165, 60, 205),
    "white": (245, 245, 245),
}
SHAPES = ("circle", "square", "triangle", "star", "ring", "cross")
DIGITS = {"two": 2, "three": 3, "four": 4, "seven": 7}
KINDS = (*SHAPES, *DIGITS)
ACTIONS = (
    "moves left",
    "moves right",
    "moves up",
    "moves down",
    "pulses",
    "sparkles",
    "splits in two",
    "jumps over a bar",
)
SIZES = ((160, 120), (208, 160), (240, 180), (320, 180), (180, 240), (256, 192))
FRAME_RATES = (10, 12, 15)


@dataclass(frozen=True)
class Event:
    """One object doing one thing between ``start`` and ``end`` (seconds)."""

    colour: str
    kind: str
    action: str
    start: float
    end: float
    is_long: bool = False

    @property
    def actor(self) -> str:
        return f"the {self.colour} {self.kind}"

    @property
    def sentence(self) -> str:
        return f"{self.actor} {self.action}"


@dataclass(frozen=True)
class Scene:
    """A clip before it is drawn. Times in seconds, sizes in pixels."""

    key: str
    seed: int
    width: int
    height: int
    frame_rate: int
    duration: float
    codec: str
    events: tuple[Event, ...]

    @property
    def num_frames(self) -> int:
        return round(self.duration * self.frame_rate)

    def event_at(self, time: float) -> Event | None:
        """The event on screen at ``time`` (seconds), or None between events."""
        return next((e for e in self.events if e.start <= time < e.end), None)


def rng_for(*parts: object) -> np.random.Generator:
    """A generator keyed by names, so that no clip depends on how many were made before it."""
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "big")))


def make_scene(seed: int, key: str) -> Scene:
    """Draw the scene of clip ``key``; a pure function of its arguments."""
    rng = rng_for("moments", seed, key, "scene")
    width, height = SIZES[rng.integers(len(SIZES))]
    duration = round(float(rng.uniform(8, 24)), 1)
    has_long = bool(rng.random() < 0.4)
    return Scene(
        key=key,
        seed=seed,
        width=width,
        height=height,
        frame_rate=int(rng.choice(FRAME_RATES)),
        duration=duration,
        codec="vp9" if rng.random() < 0.12 else "h264",
        events=_draw_events(rng, duration, has_long),
    )


def _draw_events(rng: np.random.Generator, duration: float, has_long: bool) -> tuple[Event, ...]:
    # An event is a little longer than four of 32 frames (K of T), so that the K most similar
    # frames can all lie inside it; a long one covers about a third of the clip.
    if has_long:
        num_events = int(rng.integers(5, 7))
        shares = rng.uniform(0.105, 0.125, num_events)
        long_at = int(rng.integers(1, num_events - 1))
        shares[long_at] = rng.uniform(0.30, 0.34)
    else:
        num_events, long_at = int(rng.integers(6, 8)), -1
        shares = rng.uniform(0.118, 0.138, num_events)
    gaps = rng.dirichlet(np.full(num_events + 1, 2.0)) * (1.0 - shares.sum())
    actors = rng.choice(len(COLOURS) * len(KINDS), num_events, replace=False)
    # Actions repeat now and then: having seen another object do it rules nothing out.
    actions = rng.choice(len(ACTIONS), num_events)
    colours, events, cursor = tuple(COLOURS), [], 0.0
    for i in range(num_events):
        start = cursor + gaps[i]
        cursor = start + shares[i]
        events.append(
            Event(
                colour=colours[actors[i] % len(colours)],
                kind=KINDS[actors[i] // len(colours)],
                action=ACTIONS[actions[i]],
                start=round(float(start * duration), 3),
                end=round(float(cursor * duration), 3),
                is_long=i == long_at,
            )
        )
    return tuple(events)
