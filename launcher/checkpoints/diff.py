"""In what two checkpoints differ: what their ``meta.json`` say, and their trained weights."""

from __future__ import annotations

import math
from dataclasses import dataclass

from launcher.checkpoints.commit import Checkpoint

_SHOWN = ("step", "attempt", "world_size", "zero", "config", "data")


@dataclass(frozen=True)
class WeightDiff:
    """``relative``: ‖a − b‖ / ‖b‖, infinite where b is 0 and a is not."""

    name: str
    relative: float
    largest: float


def meta_differences(one: Checkpoint, other: Checkpoint) -> list[str]:
    """A line for each fact that differs, package versions included."""
    facts = [_facts(one), _facts(other)]
    names = sorted(facts[0].keys() | facts[1].keys())
    return [
        f"{name}: {facts[0].get(name)} | {facts[1].get(name)}"
        for name in names
        if facts[0].get(name) != facts[1].get(name)
    ]


def weight_differences(one: Checkpoint, other: Checkpoint) -> list[WeightDiff]:
    """Of each trained parameter (fp32 masters) that is not bit-equal, and of all together first.

    A parameter that only one of them holds counts as infinitely different.
    """
    from launcher.training.weights import load_trained_weights

    left, right = load_trained_weights(one.path), load_trained_weights(other.path)
    found, gap, size = [], 0.0, 0.0
    for name in sorted(left.keys() | right.keys()):
        if name not in left or name not in right or left[name].shape != right[name].shape:
            found.append(WeightDiff(name, math.inf, math.inf))
            gap = math.inf
            continue
        a, b = left[name].double(), right[name].double()
        apart, norm = float((a - b).square().sum()), float(b.square().sum())
        gap, size = gap + apart, size + norm
        if apart:
            largest = float((a - b).abs().max())
            found.append(WeightDiff(name, _relative(apart, norm), largest))
    found.sort(key=lambda each: -each.relative)
    largest = max((each.largest for each in found), default=0.0)
    return [WeightDiff("all weights", _relative(gap, size), largest), *found]


def _relative(gap: float, size: float) -> float:
    if gap == 0:
        return 0.0
    return math.inf if size == 0 else math.sqrt(gap / size)


def _facts(checkpoint: Checkpoint) -> dict[str, object]:
    meta = checkpoint.meta
    metric = meta.get("metric") or {}
    return {
        **{name: meta.get(name) for name in _SHOWN},
        **{f"versions.{name}": value for name, value in meta.get("versions", {}).items()},
        "metric": metric.get("value"),
    }
