"""Antialiased masks of the objects, as float arrays in [0, 1]; pure numpy."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from dataloaders.moments.scene import DIGITS

_SUPERSAMPLE = 3
# Seven-segment digits: top, upper left, upper right, middle, lower left, lower right, bottom.
_SEGMENTS = {2: "1011101", 3: "1011011", 4: "0111010", 7: "1010010"}
_BARS = (
    (-0.55, 0.55, -0.95, -0.67),
    (-0.6, -0.3, -0.9, 0.1),
    (0.3, 0.6, -0.9, 0.1),
    (-0.55, 0.55, -0.14, 0.14),
    (-0.6, -0.3, -0.1, 0.9),
    (0.3, 0.6, -0.1, 0.9),
    (-0.55, 0.55, 0.67, 0.95),
)


@lru_cache(maxsize=512)
def mask(kind: str, radius: int) -> np.ndarray:
    """The object's coverage, float32 (2·radius+1, 2·radius+1)."""
    size = (2 * radius + 1) * _SUPERSAMPLE
    axis = (np.arange(size) + 0.5) / size * 2 - 1
    inside = _inside(kind, axis[None, :], axis[:, None]).astype(np.float32)
    side = 2 * radius + 1
    folded = inside.reshape(side, _SUPERSAMPLE, side, _SUPERSAMPLE).mean((1, 3))
    folded.setflags(write=False)
    return folded


def _inside(kind: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    distance = np.hypot(x, y)
    if kind in DIGITS:
        on = _SEGMENTS[DIGITS[kind]]
        bars = [
            (left <= x) & (x <= right) & (top <= y) & (y <= bottom)
            for (left, right, top, bottom), lit in zip(_BARS, on, strict=True)
            if lit == "1"
        ]
        return np.logical_or.reduce(bars)
    if kind == "circle":
        return distance <= 0.95
    if kind == "ring":
        return (distance <= 0.95) & (distance >= 0.55)
    if kind == "square":
        return np.maximum(np.abs(x), np.abs(y)) <= 0.8
    if kind == "triangle":
        return (y <= 0.75) & (y >= 2 * np.abs(x) * 0.95 - 0.95)
    if kind == "cross":
        near = np.minimum(np.abs(x), np.abs(y)) <= 0.28
        return near & (np.maximum(np.abs(x), np.abs(y)) <= 0.95)
    if kind == "star":
        angle = np.arctan2(x, -y)
        fold = np.abs((angle / (2 * np.pi / 5) + 0.5) % 1 - 0.5) * 2
        return distance <= 0.95 - 0.58 * fold
    raise ValueError(f"unknown kind of object {kind!r}")
