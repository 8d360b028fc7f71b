"""CPU-seconds of a clip: all contenders in turn, clip by clip and round by round."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.loading.child import Child, ChildError
from benchmarks.loading.clips import Clip
from benchmarks.loading.contenders import CONTENDERS

Say = Callable[[str], object]
OURS, REFERENCE = "ours", "torchcodec exact"
# The means of a frame's three channels over its pixels; neighbouring frames differ by more.
_SAME_LOOK = 0.004


@dataclass
class Decoding:
    """``cpu[contender][clip name]``: seconds of each round. ``missing``: why one did not run."""

    cpu: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    other_frames: dict[str, list[str]] = field(default_factory=dict)

    def median(self, contender: str, clip: str) -> float:
        return statistics.median(self.cpu[contender][clip])

    def ratio(self, contender: str, other: str, clip: str) -> float:
        """The median of the rounds' ratios: what disturbs a round disturbs both."""
        pairs = zip(self.cpu[contender][clip], self.cpu[other][clip], strict=True)
        return statistics.median(a / b for a, b in pairs)

    def mean_ratio(self, contender: str, other: str, clips: Sequence[str]) -> float:
        return statistics.geometric_mean([self.ratio(contender, other, clip) for clip in clips])


def compare(
    clips: Sequence[Clip],
    folder: Path,
    sites: Path,
    *,
    rounds: int,
    num_frames: int,
    copies: int,
    say: Say,
    contenders: Sequence[str] = tuple(CONTENDERS),
) -> Decoding:
    """Let every contender that can be imported decode every clip, ``rounds`` times.

    sites: a folder with a folder a package (`pip install --no-deps --target SITES/NAME NAME`).
    """
    result = Decoding()
    children = _start(contenders, folder, sites, result, say)
    try:
        for clip in clips:
            request = {
                "path": str(clip.path),
                "frame_count": clip.frame_count,
                "num_frames": num_frames,
            }
            looks = _warm_up(children, request | {"copies": copies}, result, clip.name)
            for number in range(rounds):
                # Who begins changes, so that no one always follows the same neighbour.
                order = list(children)
                order = order[number % len(order) :] + order[: number % len(order)]
                for name in order:
                    answer = children[name].ask(**request, copies=copies)
                    result.cpu.setdefault(name, {}).setdefault(clip.name, []).append(answer["cpu"])
            say(f"{clip.name}: {result.median(OURS, clip.name):.3f} s, {len(looks)} contenders\n")
    finally:
        for child in children.values():
            child.close()
    return result


def _start(
    contenders: Sequence[str], folder: Path, sites: Path, result: Decoding, say: Say
) -> dict[str, Child]:
    children: dict[str, Child] = {}
    for name in contenders:
        _, packages = CONTENDERS[name]
        place = folder / "formats" / name.replace(" ", "-")
        place.mkdir(parents=True, exist_ok=True)
        try:
            children[name] = Child(
                "benchmarks.loading.child",
                [name, str(place)],
                [sites / package for package in packages],
            )
        except ChildError as error:
            result.missing[name] = str(error)
            say(f"{name}: left out: {error}\n")
    return children


def _warm_up(
    children: dict[str, Child], request: dict, result: Decoding, clip: str
) -> dict[str, list[float]]:
    """Untimed: caches, formats written; and whether all see the frames that we see."""
    looks: dict[str, list[float]] = {}
    for name in list(children):
        try:
            looks[name] = children[name].ask(**request)["looks"]
        except ChildError as error:
            result.missing[name] = f"on {clip}: {error}"
            result.cpu.pop(name, None)
            children.pop(name).close()
    for name, seen in looks.items():
        apart = max(abs(a - b) for a, b in zip(seen, looks[OURS], strict=True))
        if apart > _SAME_LOOK:
            result.other_frames.setdefault(name, []).append(f"{clip} ({apart:.3f})")
    return looks
