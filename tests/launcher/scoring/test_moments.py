"""NExT-GQA's figures of moments by hand: spans, weights, both."""

from __future__ import annotations

import json
from pathlib import Path

from .conftest import RIGHT, Score, write


def test_spans_by_hand(nextgqa: Path, score: Score) -> None:
    predictions = write(nextgqa.with_name("p.json"), {**RIGHT, "22_0": 0})
    # IoP and IoU are maximised each on its own: 5/15 and 5/20; one instant inside; 1/2 and 1/3.
    spans = {"11_0": [5, 20], "11_1": [5.5, 5.5], "22_0": {"span": [3, 5]}, "11_2": [0, 1]}
    path = write(nextgqa.with_name("s.json"), spans)
    given = ["nextgqa", "--annotations", nextgqa, "--predictions", predictions, "--spans", path]
    found = score(*given)
    assert found["printed"] == {
        "Why": "100.00", "How": "100.00", "Loc": "0.00", "Acc_C": "100.00", "Acc_D": "0.00",
        "Acc": "66.67", "Acc@GQA": "33.3", "mIoP": "61.1", "IoP@0.3": "100.0", "IoP@0.5": "66.7",
        "mIoU": "19.4", "IoU@0.3": "33.3", "IoU@0.5": "0.0",
    }  # fmt: skip
    assert found["files"]["spans"]["unknown"] == ["11_2"]  # without gold spans
    assert found["notes"] == ["1 questions without gold spans are in no figure"]
    # A question without a span is in no figure of moments, but its answer counts.
    write(path, {"22_0": [0, 10]})
    found = score(*given)
    assert (found["counts"]["mIoP"], found["counts"]["Acc"]) == (1, 3)
    assert found["files"]["spans"]["missing"] == ["11_0", "11_1"]
    assert found["rules"]["spans"].startswith("in no figure of moments")
    assert found["printed"]["mIoP"] == "20.0"


def test_answers_and_spans_in_one_file(nextgqa: Path, score: Score) -> None:
    both = {k: {"prediction": p, "answer": p, "location": [1, 3, 9]} for k, p in RIGHT.items()}
    path = write(nextgqa.with_name("both.json"), both)
    found = score("nextgqa", "--annotations", nextgqa, "--predictions", path, "--spans", path)
    assert found["counts"]["Acc@GQA"] == 3


def test_weights_with_fewer_values_than_times(nextgqa: Path, score: Score) -> None:
    write(nextgqa.with_name("frame2time_val.json"), {"11": [1, 2, 3, 4], "22": [1, 2, 3]})
    weights = write(
        nextgqa.with_name("w.json"), {"11_0": [0, 0, 1], "22_0": [0, 1, 0], "11_1": [1]}
    )
    found = score("nextgqa", "--annotations", nextgqa, "--weights", weights)
    assert found["notes"][-1].startswith("2 questions have fewer weights than frame times")


def test_spans_and_weights_merged(nextgqa: Path, score: Score, tmp_path: Path) -> None:
    write(tmp_path / "frame2time_val.json", {"11": [1, 2, 3, 4], "22": [1, 2, 3, 4]})
    spans = write(tmp_path / "s.json", {"11_0": [0, 0.05], "11_1": [0.5, 1]})
    weights = write(
        tmp_path / "w.json", {"11_0": [0, 1, 1, 0], "11_1": [0, 1, 1, 0], "22_0": [0, 1, 1, 0]}
    )
    given = ["nextgqa", "--annotations", nextgqa, "--spans", spans, "--share", "--weights", weights]
    out = tmp_path / "merged.json"
    score(*given, "--merge", "--write-spans", out)
    # 0 to 2 s and 2 to 3 s; 20 to 40 s has nothing of it; no mask at all.
    assert json.loads(out.read_text()) == {"11_0": [2, 2], "11_1": [2, 3], "22_0": [2, 3]}
