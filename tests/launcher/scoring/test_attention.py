"""Spans from weights of frames, and how they overlap with gold ones, as in NExT-GQA's code."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gcg.metrics import iou_iop
from launcher.scoring.attention import attention_span

SECONDS = [float(t) for t in range(0, 60, 2)]


def bumps(**frames: float) -> list[float]:
    """Thirty weights: one each at a frame, zero elsewhere."""
    weights = [0.0] * 30
    for name, weight in frames.items():
        weights[int(name[1:])] = weight
    return weights


@pytest.mark.parametrize(
    ("weights", "span"),
    [
        (bumps(f10=1.0), (20, 20)),
        (bumps(f10=1.0, f11=0.5), (20, 22)),
        (bumps(f10=1.0, f9=0.5, f12=0.9), (18, 24)),
        # A gap within 10 s of the heaviest frame is stepped over, one further away ends the walk.
        (bumps(f10=1.0, f14=0.9), (20, 28)),
        (bumps(f10=1.0, f17=0.99), (20, 20)),
        # The first frame is never reached.
        (bumps(f1=1.0, f0=0.9), (2, 2)),
        (bumps(f0=1.0, f1=0.9), (0, 2)),
        # Equal weights are all at the mean, which is none.
        ([0.25] * 30, (0, 58)),
    ],
)
def test_by_hand(weights: list[float], span: tuple[float, float]) -> None:
    assert attention_span(weights, SECONDS) == span


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_a_frame_belongs_if_the_way_to_it_is_open(weights: list[float]) -> None:
    values = np.array(weights)
    values = (values - values.min()) / (values.max() - values.min() + 1e-12)
    peak = int(values.argmax())
    threshold = np.mean(values) + 0.3 * np.mean(values)
    away = [abs(t - SECONDS[peak]) for t in SECONDS[: len(values)]]
    joins = [v / (1 + d / 10) >= threshold for v, d in zip(values, away, strict=True)]
    passed = [j or d <= 10 for j, d in zip(joins, away, strict=True)]
    right = [f for f in range(peak, len(values)) if joins[f] and all(passed[peak + 1 : f])]
    left = [f for f in range(1, peak) if joins[f] and all(passed[f + 1 : peak])]
    expected = SECONDS[min([peak, *left])], SECONDS[max([peak, *right])]
    assert attention_span(weights, SECONDS) == expected


INSTANT = st.integers(0, 12).map(lambda n: n / 2)


@given(st.tuples(INSTANT, INSTANT), st.lists(st.tuples(INSTANT, INSTANT), min_size=1, max_size=3))
def test_overlaps_as_the_benchmark_counts_them(
    span: tuple[float, float], gold: list[tuple[float, float]]
) -> None:
    """Spans without length and even such as end before they start count as in its code."""
    best = [0.0, 0.0]
    for start, end in gold:
        if span[0] == span[1]:
            both = 0.0, float(start <= span[0] <= end)
        else:
            common = min(end, span[1]) - max(start, span[0])
            union = max(end, span[1]) - min(start, span[0])
            length = span[1] - span[0]
            both = common / union if union > 0 else 0.0, common / length if length > 0 else 0.0
        best = [max(old, new) for old, new in zip(best, both, strict=True)]
    assert iou_iop(span, gold) == tuple(best)
