"""Grounding metrics, as NExT-GQA defines them, and from frame weights to a time span.

A span is (start, end) in seconds.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Span = tuple[float, float]
THRESHOLDS = (0.3, 0.5)


def span_of_weights(weights: Sequence[float], duration: float, threshold: float = 0.5) -> Span:
    """The run of frames around the heaviest one whose weights reach ``threshold`` of it.

    Frame t of T stands for the t-th of T equal parts of the clip (it was sampled from that part's
    middle), so the run covers those parts whole. Equal weights everywhere give the whole clip.
    """
    values = np.asarray(weights, dtype=np.float64)
    enough = values >= threshold * values.max()
    peak = int(values.argmax())
    first = last = peak
    while first > 0 and enough[first - 1]:
        first -= 1
    while last + 1 < len(values) and enough[last + 1]:
        last += 1
    part = duration / len(values)
    return first * part, (last + 1) * part


def iou_iop(predicted: Span, gold: Sequence[Span]) -> tuple[float, float]:
    """Best IoU and best IoP over the gold segments, each maximised on its own, floored at 0.

    ``inter = min(ends) - max(starts)``, ``IoU = inter / (max end - min start)``,
    ``IoP = inter / predicted length``; of a span without length it is 1 inside a gold segment and 0
    elsewhere, as in the benchmark's code.
    """
    start, end = predicted
    iou = iop = 0.0
    for gold_start, gold_end in gold:
        inter = min(end, gold_end) - max(start, gold_start)
        union = max(end, gold_end) - min(start, gold_start)
        if union > 0:
            iou = max(iou, inter / union)
        if end > start:
            iop = max(iop, inter / (end - start))
        elif inter == 0:
            iop = 1.0
    return iou, iop


def random_window_iop(length: float, duration: float, gold: Sequence[Span]) -> float:
    """Expected IoP of a window of ``length`` seconds placed uniformly in the clip.

    Exact up to a grid of 200 places; the mean over them needs no seed.
    """
    room = max(duration - length, 0.0)
    starts = (np.arange(200) + 0.5) / 200 * room
    return float(np.mean([iou_iop((s, s + length), gold)[1] for s in starts]))


def span_iou(one: Span, other: Span) -> float:
    """Overlap of two predicted spans: how alike the answers to two questions are grounded."""
    return iou_iop(one, [other])[0]


def cluster_interval(
    values: npt.ArrayLike, clusters: npt.ArrayLike, draws: int = 2000, level: float = 0.95
) -> tuple[float, float]:
    """Bootstrap interval of the mean of ``values``, resampling whole ``clusters`` (videos).

    Questions of one video are not independent; an interval over questions would be too narrow.
    Seeded, so the same rows give the same interval. Raises ValueError without values.
    """
    weights = np.asarray(values, dtype=np.float64)
    if not len(weights):
        raise ValueError("no values to take an interval of")
    names, place = np.unique(np.asarray(clusters), return_inverse=True)
    sums = np.bincount(place, weights=weights)
    counts = np.bincount(place)
    rng = np.random.Generator(np.random.Philox(key=0))
    picks = rng.integers(len(names), size=(draws, len(names)))
    means = sums[picks].sum(axis=1) / counts[picks].sum(axis=1)
    tail = (1 - level) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)
