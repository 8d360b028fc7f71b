"""The grounding study: spans, losses that were tried, and that a finished run is kept."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from benchmarks import grounding_study
from benchmarks.study.features import VERSION, Features, Question, assemble, cached, clauses_of
from benchmarks.study.heads import BETA, make_head, make_regression
from benchmarks.study.real import sentences_of
from benchmarks.study.rows import Rows, smooth, standardise
from benchmarks.study.spans import benchmark_span, judge, window_span
from benchmarks.study.table import COLUMNS, interval, markdown, read_runs
from benchmarks.study.train import Recipe, predict, train
from benchmarks.study.variants import VARIANTS, Variant
from gcg.losses import Labels
from gcg.metrics import iou_iop

T, C = 16, 256  # so wide that the words are nearly orthogonal


def texts(some: list[str]) -> tuple[list[torch.Tensor], torch.Tensor]:
    """An encoder that knows words by their letters: the same words give the same vector."""
    rows = []
    for text in some:
        vectors = [
            torch.randn(C, generator=torch.Generator().manual_seed(sum(map(ord, word))))
            for word in text.lower().strip(".").split()
        ]
        rows.append(torch.stack(vectors))
    return rows, F.normalize(torch.stack([row.mean(dim=0) for row in rows]), dim=-1)


@pytest.fixture(scope="module")
def features() -> Features:
    """Six clips of four events; a question names an event, which lasts four frames."""
    names = ["runs", "sleeps", "jumps", "eats"]
    frames, questions = [], []
    for video, order in enumerate(list(itertools.permutations(range(4)))[:12:2]):
        events = texts([names[k] for k in order])[1]
        frames.append(events.repeat_interleave(T // 4, dim=0))
        questions += [
            Question(
                video=video,
                id=f"{video}/{k}",
                type="what",
                text=f"who {names[k]}",
                options=("the dog", "the cat"),
                answer=k % 2,
                spans=((float(place), float(place + 1)),),
            )
            for place, k in enumerate(order)
        ]
    noise = torch.randn(len(frames), T, C, generator=torch.Generator().manual_seed(1))
    stacked = F.normalize(torch.stack(frames) + 0.05 * noise, dim=-1)
    splits = {"train": list(range(16)), "test": list(range(16, 24))}
    durations = torch.full((len(frames),), 4.0)
    return assemble("sample", stacked, durations, questions, texts, splits)  # type: ignore[arg-type]


def test_the_benchmarks_walk_by_hand() -> None:
    weights = np.array([0.9, 0.1, 0.5, 1.0, 0.6, 0.0, 0.0, 0.0])
    # Mean 0.3875, threshold 0.504. Frame 2: 0.5 / 1.1 fails, 1 s away, so the walk goes on; frame 1
    # fails; frame 0 is never reached. Frame 4: 0.6 / 1.1 = 0.545 joins.
    assert benchmark_span(weights, 8.0) == (3.5, 4.5)
    assert benchmark_span(np.ones(4), 8.0) == (0.0, 8.0)


def test_windows() -> None:
    weights = np.array([0.0, 1.0, 2.0, 0.0])
    assert window_span(4.0)(weights, 8.0) == (2.0, 6.0)
    assert window_span(4.0)(weights, 4.0) == (1.0, 3.0)  # at most half of the clip
    assert window_span(share=0.25)(weights, 8.0) == (4.0, 6.0)


def test_published_weights_give_the_published_figures(shared: Path) -> None:
    """NExT-GQA's own figures of its published prediction: mIoP 22.1, mIoU 7.8."""
    read = lambda name: json.loads((shared / "annotations" / name).read_text())  # noqa: E731
    gold, times = read("nextgqa/gsub_val.json"), read("nextgqa/frame2time_val.json")
    both = []
    for name, weights in read("golden/nextgqa_CRA_val_ground_att.json").items():
        video, question = name.rsplit("_", 1)
        if question not in gold[video]["location"]:
            continue
        spans = gold[video]["location"][question]
        span = benchmark_span(np.array(weights), gold[video]["duration"], np.array(times[video]))
        both.append(iou_iop(span, spans))
    iou, iop = 100 * np.mean(both, axis=0)
    assert (round(iop, 1), round(iou, 1)) == (22.1, 7.8)


def test_judge_counts_a_right_answer_in_a_right_place(features: Features) -> None:
    questions = [features.questions[q] for q in (0, 1, 2)]
    spans = [questions[0].spans[0], questions[1].spans[0], (0.0, 4.0)]
    found = judge(questions, [4.0] * 3, spans, np.array([True, False, True]))
    assert (found.miop, found.iop50, found.acc_gqa) == (75.0, 66.67, 33.33)
    assert found.length == 50.0


def test_matched_targets_are_the_cheapest_assignment() -> None:
    centers = torch.tensor([[0.9, 0.1, 0.5, 0.3]])
    labels = Labels(torch.tensor([[1, 4, 7, 14]]), None)
    log_weights = torch.zeros(1, T)
    of = lambda target: make_regression(Variant(target=target))  # noqa: E731
    wanted = (labels.moments[0].float() + 1) / T
    every = [
        F.smooth_l1_loss(centers[0], wanted[list(order)], beta=BETA, reduction="sum").item()
        for order in itertools.permutations(range(4))
    ]
    matched = of("matched")(centers, log_weights, labels).item()
    assert matched == pytest.approx(min(every))
    assert of("sorted")(centers, log_weights, labels).item() == pytest.approx(min(every))
    assert of("points")(centers, log_weights, labels).item() > 2 * matched


def test_learned_widths_begin_as_the_plain_mixture(features: Features) -> None:
    rows = Rows(features)
    results = []
    for name in ("similarity", "widths"):
        torch.manual_seed(0)
        head = make_head(VARIANTS[name], C, T).eval()
        results.append(predict(rows, VARIANTS[name], head, [0, 5])[0])
    torch.testing.assert_close(results[0], results[1])


def test_common_mode_is_the_mean_of_the_clips_labels(features: Features) -> None:
    rows = Rows(features)
    row = rows.label(Variant(common=1.0))
    for video in range(6):
        torch.testing.assert_close(row[rows.video == video].mean(dim=0), torch.zeros(T))
    plain = rows.label(Variant())
    torch.testing.assert_close(plain, rows.row("description"))


def test_rows() -> None:
    row = torch.tensor([[0.0, 0.0, 3.0, 0.0]])
    assert standardise(row).mean().abs() < 1e-6
    torch.testing.assert_close(smooth(torch.ones(1, 5), 2.0), torch.ones(1, 5))
    assert smooth(row, 1.0).argmax() == 2
    assert clauses_of("what does he do after he fell?") == ("what does he do", "he fell")
    assert sentences_of("One. Two! ")[:3] == ["One.", "Two!", "Two!"]


def test_plus_learns_and_is_repeatable(features: Features) -> None:
    rows, plus = Rows(features), VARIANTS["plus"]
    test = features.splits["test"]
    recipe = Recipe(steps=60, batch=16, lr=3e-3)
    first, again = (
        predict(rows, plus, train(rows, plus, 0, features.splits["train"], recipe), test)[0]
        for _ in range(2)
    )
    torch.testing.assert_close(first, again, rtol=0, atol=0)
    middles = [(row.argmax().item() + 0.5) / 4 for row in first]
    spans = [features.questions[q].spans[0] for q in test]
    hits = [a <= middle <= b for middle, (a, b) in zip(middles, spans, strict=True)]
    assert sum(hits) >= 6  # of 8; by chance 2


def test_a_finished_run_is_not_repeated(
    features: Features, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"version": VERSION, "features": features}, tmp_path / "sample.pt")
    words = ["--data", "sample", "--seeds", "3", "--variants", "zero-shot", "--out", str(tmp_path)]
    assert grounding_study.main(words) == 0
    kept = read_runs(tmp_path / "sample-test.jsonl")
    assert [(run["variant"], run["seed"]) for run in kept] == [("zero-shot", 0)]
    assert "| zero-shot | 1 |" in capsys.readouterr().out
    with (tmp_path / "sample-test.jsonl").open("a") as file:
        file.write('{"variant": "zero')  # a run that was killed while it wrote
    assert grounding_study.main(words) == 0
    assert read_runs(tmp_path / "sample-test.jsonl") == kept


def test_missing_data_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--data", "real", "--annotations", str(tmp_path), "--out", str(tmp_path)]
    assert grounding_study.main(words) == 2
    assert "nextqa/val.csv: is not there" in capsys.readouterr().err


def test_old_features_are_made_again(features: Features, tmp_path: Path) -> None:
    torch.save({"version": -1, "features": None}, tmp_path / "f.pt")
    assert cached(tmp_path / "f.pt", lambda: features).name == "sample"
    assert cached(tmp_path / "f.pt", lambda: pytest.fail("kept")).name == "sample"


def test_intervals_over_seeds() -> None:
    mean, half = interval([1.0, 2.0, 3.0, 4.0, 5.0])
    assert (mean, round(half, 3)) == (3.0, 1.963)  # 2.776 * 1.5811 / sqrt(5)
    figures = {"x": dict.fromkeys(COLUMNS, 1.0)}
    lines = markdown([{"variant": "a", "seed": s, "figures": figures} for s in (0, 1)], "x")
    assert lines.splitlines()[-1].startswith("| a | 2 | 1.0 ± 0.0 |")
