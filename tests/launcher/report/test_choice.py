"""What a page shows of an evaluation: which examples, which failures, which figures."""

from __future__ import annotations

import random
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gcg.metrics import cluster_interval
from launcher.evaluation.rows import Row
from launcher.report.clips import Strip
from launcher.report.comparison import compare, figures_of
from launcher.report.examples import choose_examples
from launcher.report.failures import same_spans
from launcher.report.shown import example
from launcher.report.timeline import HEIGHT, WIDTH, gaussians, overlaid, timeline, whisker
from tests.launcher.report.answered import answered, header, skipped

OFF = {"correct": False, "predicted": "b", "choice": 1, "gold": [[6.0, 8.0]]}
ROWS = [
    answered(f"v{video}", f"q{question}", **(OFF if (video + question) % 3 == 0 else {}))
    for video in range(6)
    for question in range(4)
]


def keys(rows: list[Row]) -> list[tuple[str, str]]:
    return [(row["video"], row["question"]) for row in rows]


def test_examples_do_not_depend_on_the_order_of_the_rows() -> None:
    chosen = choose_examples(ROWS, 1, 4)
    shuffled = random.Random(0).sample(ROWS, len(ROWS))
    assert choose_examples(shuffled, 1, 4) == chosen
    assert choose_examples(ROWS, 2, 4) != chosen
    assert all(row["correct"] for row in chosen["right"])
    assert not any(row["correct"] for row in chosen["wrong"])
    for group in chosen.values():
        assert len({row["video"] for row in group}) == 4  # of different videos


def test_the_worst_grounded_have_the_least_iop() -> None:
    rows = [
        answered("a", "1"),
        answered("b", "1", span=[0.0, 4.0]),
        answered("c", "1", span=[5.0, 6.0]),
        answered("d", "1", span=[0.0, 8.0]),
        answered("e", "1", gold=None),
        answered("f", "1", span=None),
    ]
    assert [row["video"] for row in choose_examples(rows, 0, 9)["worst grounded"]] == [
        "c", "d", "b", "a"
    ]  # fmt: skip


def test_more_examples_than_there_are() -> None:
    chosen = choose_examples(ROWS[:4], 0, 50)
    assert sorted(keys(chosen["right"]) + keys(chosen["wrong"])) == keys(ROWS[:4])
    assert choose_examples(ROWS, 0, 0) == {"right": [], "wrong": [], "worst grounded": []}


def test_questions_of_a_video_that_get_the_same_span() -> None:
    far, near = [[6.0, 8.0]], [[2.0, 4.1]]
    rows = [
        answered("same", "1"), answered("same", "2", gold=far), answered("same", "3", gold=far),
        answered("nearly", "1"), answered("nearly", "2", gold=far, span=[2.0, 4.1]),
        answered("some", "1"), answered("some", "2", gold=far), answered("some", "3", span=[5, 8]),
        answered("other", "1"), answered("other", "2", gold=far, span=[2.0, 5.0]),
        answered("asked-alike", "1"), answered("asked-alike", "2", gold=near),
        answered("one", "1"), answered("unknown", "1", gold=None), answered("unknown", "2"),
        answered("spanless", "1", span=None), answered("spanless", "2", span=None),
    ]  # fmt: skip
    found = same_spans(rows, 0)
    assert found == same_spans(rows[::-1], 0)
    assert found.found[0].video == "same"
    assert found.found[-1].video == "nearly"
    assert found.found[-1].least_iou == pytest.approx(2 / 2.1)
    groups = {each.video: (len(each.rows), each.of) for each in found.found}
    assert groups == {"same": (3, 3), "some": (2, 3), "unknown": (2, 2), "nearly": (2, 2)}
    assert (found.num_videos, found.num_questions, found.num_shared) == (6, 14, 9)


def test_figures_have_intervals_over_videos() -> None:
    rows = [*ROWS, skipped("w", "1"), answered("w", "2", type="why", gold=None)]
    figures = figures_of(rows)
    right = [float(row["correct"]) for row in ROWS]
    assert figures["by_type"]["what"]["interval"] == list(
        cluster_interval(right, [row["video"] for row in ROWS])
    )
    low, high = figures["intervals"]["accuracy"]
    assert low < figures["accuracy"] < high
    low, high = figures["intervals"]["acc_gqa"]
    assert low < figures["acc_gqa"] < high
    assert figures["span_overlap"] == 1.0
    assert figures["num_skipped"] == 1


def test_figures_of_nothing_and_of_no_pairs() -> None:
    assert figures_of([skipped("w", "1")])["intervals"] == {}
    assert figures_of([answered("w", "1")])["span_overlap"] is None  # no number is no JSON


def test_runs_are_compared_over_what_both_answered() -> None:
    other = [answered(row["video"], row["question"], correct=False) for row in ROWS[4:]]
    found = compare(ROWS, [*other, answered("z", "1")])
    assert found["questions"] == 20
    assert found["accuracy"] == pytest.approx(sum(row["correct"] for row in ROWS[4:]) / 20)
    assert found["interval"][0] <= found["accuracy"] <= found["interval"][1]
    assert compare(ROWS, []) == {"questions": 0, "accuracy": None, "interval": None}


SHARES = st.floats(0, 1)


@given(
    st.lists(SHARES, min_size=1, max_size=40),
    st.lists(SHARES, max_size=5),
    st.floats(1e-4, 2),
    st.lists(st.tuples(st.floats(0, 20), st.floats(0, 20)), max_size=2),
)
def test_a_timeline_stays_in_its_chart(
    weights: list[float], centers: list[float], sigma: float, spans: list[tuple[float, float]]
) -> None:
    grid = [(t + 1) / len(weights) for t in range(len(weights))]
    row = answered(
        "v", "q", weights=weights, centers=centers, selected=[0], moments=None,
        gold=[sorted(each) for each in spans], span=sorted(spans[0]) if spans else None,
    )  # fmt: skip
    about = header(sigma=sigma, grid=grid)
    for chart in (timeline(row, about, "<words>"), overlaid([row, row], "words")):
        for element in ElementTree.fromstring(chart):
            for pair in element.attrib.get("points", "").split():
                x, y = map(float, pair.split(","))
                assert 0 <= x <= WIDTH
                assert 0 <= y <= HEIGHT
            if element.tag == "rect":
                x, width = float(element.attrib["x"]), float(element.attrib["width"])
                assert 0 <= x <= x + width <= WIDTH + 1.1  # a span of no length is drawn, too


def test_gaussians_are_where_the_frames_they_choose_are() -> None:
    (points,) = gaussians([0.5], header())
    part, height = max(points, key=lambda point: point[1])
    assert part == pytest.approx(1.5 / 4)  # the middle of the second frame, whose x is 0.5
    assert height == pytest.approx(1.0)
    assert gaussians([], header()) == []


def test_a_whisker_lies_between_its_ends() -> None:
    svg = ElementTree.fromstring(whisker(0.5, (0.4, 0.7), "w"))
    _, ends, value = svg
    low = float(ends.attrib["x"])
    assert (low, low + float(ends.attrib["width"])) == (40, pytest.approx(70))
    assert float(value.attrib["x"]) == pytest.approx(49.6)


def test_of_two_options_with_one_text_the_chosen_one_is_marked():
    row = answered("a", "1", options=["run", "run"], predicted="run", answer="run", choice=1)
    shown = example(row, header(), "mine", Strip([]), {})["options"]
    assert [(each["chosen"], each["right"]) for each in shown] == [(False, True), (True, False)]
