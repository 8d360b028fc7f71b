"""Published result files give the published figures, to the digit that was printed."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from .conftest import Score, write

CRA = {
    "Acc": "71.26", "Acc@GQA": "15.6", "mIoP": "22.1", "IoP@0.3": "25.6", "IoP@0.5": "21.0",
    "mIoU": "7.8", "IoU@0.3": "10.5", "IoU@0.5": "4.3",
}  # fmt: skip


@pytest.fixture
def real(shared: Path) -> Path:
    folder = shared / "annotations"
    if not (folder / "golden").is_dir():
        pytest.skip(f"no published results: {folder / 'golden'} is absent")
    return folder


def test_hga_on_nextqa(real: Path, score: Score) -> None:
    found = score(
        "nextqa",
        *("--annotations", real / "nextqa" / "val.csv"),
        *("--predictions", real / "golden" / "nextqa_val_HGA_pred.json"),
    )
    names = ("Acc", "Acc_C", "Acc_T", "Acc_D")
    assert [found["printed"][n] for n in names] == ["49.74", "46.26", "50.74", "59.33"]
    assert [found["counts"][n] for n in names] == [4996, 2607, 1612, 777]
    assert found["counts"]["Bef&Aft"] == 895 + 54  # TP counts as TN
    matched = found["files"]["predictions"]
    assert matched == {"fit": 4996, "missing": [], "unknown": [], "duplicate": []}


@pytest.mark.parametrize("named", ["val.csv", "gsub_val.json", ""])
def test_cra_on_nextgqa_from_weights_and_from_spans(
    real: Path, score: Score, tmp_path: Path, named: str
) -> None:
    gold, published = real / "nextgqa", real / "golden"
    given = ["--annotations", gold / named, "--predictions", published / "nextgqa_CRA_val-res.json"]
    spans = tmp_path / "spans.json"
    weights = ["--weights", published / "nextgqa_CRA_val_ground_att.json"]
    times = ["--frame-times", gold / "frame2time_val.json"]
    found = score("nextgqa", *given, *weights, *times, "--write-spans", spans)
    assert {name: found["printed"][name] for name in CRA} == CRA
    assert found["questions"] == found["counts"]["mIoP"] == 3358
    assert score("nextgqa", *given, "--spans", spans)["printed"] == found["printed"]
    nested: dict[str, dict[str, list[float]]] = {}
    for key, span in json.loads(spans.read_text()).items():
        video, number = key.split("_")
        nested.setdefault(video, {})[number] = span
    write(spans, nested)
    assert score("nextgqa", *given, "--spans", spans)["printed"] == found["printed"]


def test_the_whole_video_and_the_gold_span_as_predictions(
    real: Path, score: Score, tmp_path: Path
) -> None:
    gold = json.loads((real / "nextgqa" / "gsub_val.json").read_text())
    pairs = [(video, entry, q) for video, entry in gold.items() for q in entry["location"]]
    whole = {f"{video}_{q}": [0, entry["duration"]] for video, entry, q in pairs}
    first = {f"{video}_{q}": entry["location"][q][0] for video, entry, q in pairs}
    given = ["nextgqa", "--annotations", real / "nextgqa" / "val.csv", "--spans"]
    printed = score(*given, write(tmp_path / "whole.json", whole))["printed"]
    assert printed["mIoP"] == printed["mIoU"] == "21.3"
    assert printed["IoP@0.5"] == "10.6"
    assert "Acc@GQA" not in printed  # nothing was answered
    printed = score(*given, write(tmp_path / "first.json", first))["printed"]
    assert set(printed.values()) == {"100.0"}
    # Gaussian masks are shares of the video.
    shares = {key: [0.0, 1.0] for key in whole}
    found = score(*given, write(tmp_path / "shares.json", shares), "--share")
    assert found["printed"]["mIoP"] == "21.3"


def test_activitynet_and_msvd_with_their_own_answers(
    real: Path, score: Score, tmp_path: Path
) -> None:
    path = real / "activitynetqa" / "val_a.json"
    entries = json.loads(path.read_text())
    found = score("activitynetqa", "--annotations", path, "--predictions", path)
    assert set(found["printed"].values()) == {"1.0000"}
    assert found["counts"]["Free"] == sum(entry["type"] >= 3 for entry in entries)
    # All free questions right and no other: what the benchmark's script divides by is not theirs.
    right = [e if e["type"] >= 3 else {**e, "answer": "?"} for e in entries]
    found = score(
        "activitynetqa", "--annotations", path, "--predictions", write(tmp_path / "p.json", right)
    )
    assert (found["printed"]["Free"], found["printed"]["All"]) == ("1.0000", "0.7000")
    assert "prints Free 1.5002" in found["notes"][0]

    path = real / "msvdqa" / "val.csv"
    with path.open(newline="") as lines:
        answers = [{"id": int(r["qid"]), "answer": r["answer"]} for r in csv.DictReader(lines)]
    found = score(
        "msvdqa", "--annotations", path, "--predictions", write(tmp_path / "m.json", answers)
    )
    assert found["printed"]["All"] == "100.00"
    assert found["counts"]["What"] == 3995
