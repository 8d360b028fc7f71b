"""The overlap benchmark: what it makes of runs' figures, and that a real run gives them."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import overlap
from benchmarks.loading.clips import Recipe
from benchmarks.loading.runs import WARM, Steps, loader_alone, make_data, run_tree, train


def steps(seconds: float, wait: float, pairs: float) -> Steps:
    return Steps([seconds] * 4, [wait] * 4, [wait / 4] * 4, [pairs] * 4, first_wait_s=1.5)


def test_figures_of_a_run() -> None:
    run = Steps([1.0, 3.0], [0.1, 0.3], [0.0, 0.1], [2, 6], first_wait_s=1.0)
    assert (run.pairs_per_s, run.steps_per_s, run.wait_share) == (2.0, 0.5, pytest.approx(0.1))


def test_tables_and_curve_of_runs() -> None:
    table = overlap._waiting({"one": [steps(2, 0.04, 8)], "two": [steps(3, 0.08, 8)]})
    assert table.columns == ("", "one", "two")
    assert [row[1] for row in table.rows] == [
        "2000.0 ms",
        "40.0 ms",
        "10.0 ms",
        "30.0 ms",
        "1500.0 ms",
    ]
    curve = overlap._curve({1: [steps(2, 0, 2)], 8: [steps(4, 0, 16)]})
    assert curve.lines["measured"] == [(1, 1.0), (8, 4.0)]
    assert curve.lines["if questions were free"][-1] == (8, 8.0)


def test_the_frames_share_of_the_work_is_the_plans() -> None:
    frames, question = overlap._work(
        {"preset": "instructblip", "checkpoint": "Salesforce/instructblip-flan-t5-xl"}
    )
    # ViT-g: 986 M weights, 2 FLOPs each for each of 257 tokens of 32 frames, and attention.
    assert 2 * 986e6 * 257 * 32 < frames < 1.1 * 2 * 986e6 * 257 * 32
    assert 10 < frames / question < 20


@pytest.mark.slow
def test_a_real_run_and_its_loader_alone(tmp_path: Path) -> None:
    packed = make_data(tmp_path, Recipe(240, 2, 25), overlap.TINY)
    tree = run_tree(packed, overlap.TINY, "run", WARM + 2)
    run = train(tree)
    assert len(run.seconds) == 2
    assert sum(run.pairs) == pytest.approx(2 * 2 * 4, rel=0.01)
    assert all(
        0 <= own <= wait < whole
        for own, wait, whole in zip(run.loader_s, run.wait_s, run.seconds, strict=True)
    )
    assert loader_alone(tree) > 0
    tree["optim"]["steps"] = 0
    with pytest.raises(RuntimeError, match=r"optim\.steps"):
        train(tree)
