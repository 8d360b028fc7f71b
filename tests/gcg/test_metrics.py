from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gcg.metrics import (
    cluster_interval,
    iou_iop,
    random_window_iop,
    span_iou,
    span_of_weights,
)

SPANS = st.tuples(st.floats(0, 50), st.floats(0.1, 50)).map(lambda p: (p[0], p[0] + p[1]))


@pytest.mark.parametrize(
    ("predicted", "gold", "expected"),
    [
        ((0, 10), [(0, 10)], (1.0, 1.0)),
        ((2, 4), [(0, 10)], (0.2, 1.0)),
        ((0, 10), [(8, 12)], (2 / 12, 0.2)),
        ((0, 2), [(5, 6)], (0.0, 0.0)),
        # IoU and IoP each take the segment that is best for them.
        ((0, 4), [(0, 1), (2, 12)], (0.25, 0.5)),
        # A span without length: in or out, as the benchmark counts it.
        ((3, 3), [(0, 10)], (0.0, 1.0)),
        ((3, 3), [(4, 10)], (0.0, 0.0)),
    ],
)
def test_iou_and_iop(predicted, gold, expected) -> None:
    assert iou_iop(predicted, gold) == pytest.approx(expected)


@given(SPANS, st.lists(SPANS, min_size=1, max_size=4))
def test_bounds(predicted, gold) -> None:
    iou, iop = iou_iop(predicted, gold)
    assert 0 <= iou <= 1 + 1e-9
    assert iou <= iop + 1e-9


def nextgqa(shared):
    folder = shared / "annotations" / "nextgqa"
    gold = json.loads((folder / "gsub_val.json").read_text())
    with (folder / "val.csv").open() as lines:
        asked = {(row["video_id"], row["qid"]) for row in csv.DictReader(lines)}
    for video, entry in gold.items():
        for question, spans in entry["location"].items():
            if (video, question) in asked:
                yield float(entry["duration"]), [tuple(span) for span in spans]


def test_whole_videos_score_what_the_benchmark_says(shared) -> None:
    scores = np.array([iou_iop((0, duration), spans) for duration, spans in nextgqa(shared)])
    assert len(scores) == 3358
    assert round(100 * scores[:, 0].mean(), 1) == 21.3
    assert round(100 * scores[:, 1].mean(), 1) == 21.3
    assert round(100 * (scores[:, 1] >= 0.5).mean(), 1) == 10.6


def test_first_gold_segments_score_hundred(shared) -> None:
    scores = np.array([iou_iop(spans[0], spans) for _, spans in nextgqa(shared)])
    assert np.allclose(scores, 1.0)


def test_span_is_the_run_around_the_peak() -> None:
    weights = [0.0, 0.6, 1.0, 0.5, 0.2, 0.9]
    assert span_of_weights(weights, duration=12.0) == (2.0, 8.0)


def test_equal_weights_are_the_whole_clip() -> None:
    assert span_of_weights([1.0] * 5, 7.5) == (0.0, 7.5)


def test_random_windows_match_a_simulation() -> None:
    rng = np.random.default_rng(0)
    gold = [(3.0, 5.0)]
    drawn = [iou_iop((s, s + 2.5), gold)[1] for s in rng.uniform(0, 17.5, 20_000)]
    assert random_window_iop(2.5, 20.0, gold) == pytest.approx(np.mean(drawn), abs=0.01)


def test_overlap_of_predictions() -> None:
    assert span_iou((0, 2), (1, 3)) == pytest.approx(1 / 3)


def test_interval_widens_when_questions_of_a_video_agree() -> None:
    rng = np.random.default_rng(1)
    alike = np.repeat(rng.random(40) < 0.6, 10)
    mixed = rng.permutation(alike)
    videos = np.repeat(np.arange(40), 10).astype(str)
    narrow, wide = cluster_interval(mixed, videos), cluster_interval(alike, videos)
    assert wide[1] - wide[0] > 1.5 * (narrow[1] - narrow[0])
    assert wide[0] < alike.mean() < wide[1]
    assert cluster_interval(alike, videos) == wide


def test_interval_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="no values"):
        cluster_interval([], [])
