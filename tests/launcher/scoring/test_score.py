"""`gcg score` of multiple choice: forms of result files, figures by hand, what does not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from launcher.cli import main

from .conftest import HEADER, NEXTQA, RIGHT, Score, write


def entries(**predictions: Any) -> dict[str, Any]:
    return {key: {"prediction": predictions.get(f"q{key}", RIGHT[key])} for key in RIGHT}


@pytest.mark.parametrize(
    "predictions",
    [
        {key: {"prediction": p, "answer": RIGHT[key]} for key, p in RIGHT.items()},
        {key: {"prediction": str(p), "answer": str(RIGHT[key])} for key, p in RIGHT.items()},
        {key: {"pred": float(p)} for key, p in RIGHT.items()},
        RIGHT,
        {key: "ABCDE"[p] for key, p in RIGHT.items()},
        {"11_0": "Run", "11_1": "b", "11_2": "c", "22_0": "d"},
        {"11": {"0": 0, "1": 1, "2": {"prediction": 2}}, "22": {"0": 3}},
        [{"video": key[:2], "qid": int(key[3:]), "prediction": p} for key, p in RIGHT.items()],
        [{"question_id": key, "answer": p} for key, p in RIGHT.items()],
    ],
    ids=["published", "texts", "floats", "bare", "letters", "options", "nested", "list", "keys"],
)
def test_forms_of_predictions(nextqa: Path, score: Score, predictions: Any) -> None:
    path = write(nextqa.with_name("p.json"), predictions)
    found = score("nextqa", "--annotations", nextqa, "--predictions", path)
    assert found["printed"]["Acc"] == "100.00"
    assert found["files"]["predictions"]["fit"] == 4
    assert found["notes"] == []


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("p.csv", "video,qid,prediction\n11,0,0\n11,1,1\n11,2,2\n22,0,3\n"),
        ("p.jsonl", '{"id": "11_0", "pred": 0}\n{"id": "11_1", "pred": 1}\n\n'
                    '{"id": "11_2", "pred": 2}\n{"id": "22_0", "pred": 3}\n'),
    ],
)  # fmt: skip
def test_tables_of_predictions(nextqa: Path, score: Score, name: str, text: str) -> None:
    path = write(nextqa.with_name(name), text)
    assert score("nextqa", "--annotations", nextqa, "--predictions", path)["figures"]["Acc"] == 100


def test_figures_by_hand(nextqa: Path, score: Score) -> None:
    path = write(nextqa.with_name("p.json"), {**RIGHT, "11_1": 0, "22_0": 9})
    found = score("nextqa", "--annotations", nextqa, "--predictions", path)
    assert found["printed"] == {
        "Why": "100.00", "How": "0.00", "Bef&Aft": "100.00", "When": "-", "Cnt": "-", "Loc": "0.00",
        "Other": "-", "Acc_C": "50.00", "Acc_T": "100.00", "Acc_D": "0.00", "Acc": "50.00",
    }  # fmt: skip
    assert found["notes"] == ["1 predictions are none of their question's options: wrong"]


@pytest.mark.parametrize("others", [{"11_1": "1", "11_2": "2"}, {"11_1": "B", "11_2": "C"}])
@pytest.mark.parametrize("blank", ["", "  "])
def test_a_blank_prediction_is_no_option(
    nextqa: Path, score: Score, others: dict[str, str], blank: str
) -> None:
    """Whether the others are digits or letters; nor are more digits than any place has."""
    path = write(nextqa.with_name("p.json"), {"11_0": blank, **others, "22_0": blank})
    found = score("nextqa", "--annotations", nextqa, "--predictions", path)
    assert found["printed"]["Acc"] == "50.00"
    write(path, {**others, "11_0": "1" * 5000, "22_0": blank})
    found = score("nextqa", "--annotations", nextqa, "--predictions", path)
    assert "predictions are none of their question's options: wrong" in found["notes"][0]


def test_what_does_not_fit_is_counted_and_said(
    nextqa: Path, score: Score, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (
        '{"11_0": {"prediction": 3}, "11_0": {"prediction": 0}, "33_1": {"prediction": 1}, '
        '"22_0": {"prediction": 3, "answer": 2}, "11_2": {"prediction": null}}'
    )
    path = write(nextqa.with_name("p.json"), text)
    found = score("nextqa", "--annotations", nextqa, "--predictions", path)
    assert found["files"]["predictions"] == {
        "fit": 3, "missing": ["11_1"], "unknown": ["33_1"], "duplicate": ["11_0"],
    }  # fmt: skip
    assert found["printed"]["Acc"] == "50.00"  # of the same question's entries the last counts
    assert "1 entries name another right answer" in found["notes"][0]
    arguments = ["score", "nextqa", "--annotations", str(nextqa), "--predictions", str(path)]
    assert main(arguments) == 0
    said = capsys.readouterr().out
    assert "predictions: 3 fit; 1 missing, 1 unknown, 1 duplicate" in said
    assert "missing (counted as wrong): 11_1" in said
    assert "unknown (in no figure): 33_1" in said
    assert "duplicate (the last entry counts): 11_0" in said
    assert main([*arguments, "--strict"]) == 1
    write(path, RIGHT)
    assert main([*arguments, "--strict"]) == 0


def test_two_options_with_one_text(tmp_path: Path, score: Score) -> None:
    nextqa = write(tmp_path / "val.csv", HEADER + "11,1,1,1,q,1,0,CW,a,a,b,c,d\n")
    given = ["nextqa", "--annotations", nextqa, "--predictions"]
    assert score(*given, write(tmp_path / "t.json", {"11_0": "a"}))["figures"]["Acc"] == 100
    # By number only one of them is right, as in the benchmark's script.
    assert score(*given, write(tmp_path / "n.json", {"11_0": 0}))["figures"]["Acc"] == 0


def test_intentqa_prints_the_types_it_has(tmp_path: Path, score: Score) -> None:
    path = write(tmp_path / "test.csv", NEXTQA.replace("video", "video_id"))
    found = score("intentqa", "--annotations", path, "--predictions",
                  write(tmp_path / "p.json", RIGHT))  # fmt: skip
    assert list(found["figures"]) == [
        "Why",
        "How",
        "Bef&Aft",
        "Loc",
        "Acc_C",
        "Acc_T",
        "Acc_D",
        "Acc",
    ]
