"""The page of a run that was evaluated: what it says, and of whom."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from launcher.cli import main
from launcher.evaluation.rows import Row, rows_path
from launcher.storage.run_folder import RunFolder
from tests.launcher.pages import Page, check_page
from tests.launcher.report.answered import answered, run_with, skipped

Said = pytest.CaptureFixture[str]
ROWS = [
    answered("a", "1"),
    answered("a", "2", gold=[[6.0, 8.0]], correct=False, predicted="b", choice=1),
    answered(
        "b",
        "1",
        type="why",
        options=None,
        scores=None,
        predicted="so",
        answer="so",
        choice=None,
        answer_index=None,
    ),
    skipped("c", "1"),
]


def page_of(run: Path, *arguments: object) -> Page:
    assert main(["report", str(run), *map(str, arguments)]) == 0
    return check_page((run / "report.html").read_text(encoding="utf-8"))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return run_with(tmp_path / "mine", ROWS).root


def other(tmp_path: Path, rows: list[Row] = ROWS, **changes: Any) -> Path:
    return run_with(tmp_path / "other", rows, **{"mode": "uniform", **changes}).root


def test_it_tells_of_the_answers(run: Path, tmp_path: Path, capsys: Said) -> None:
    wrong = [{**row, "correct": False} for row in ROWS[:3]]
    page = page_of(run, "--against", other(tmp_path, wrong))
    for words in (
        "Answers to the test questions",
        "1 skipped",
        "+66.7 points of accuracy against uniform",
        "question by question over the 3 that both",
        "Accuracy by type",
        "why 1 questions",
        "Answered rightly",
        "Answered wrongly",
        "Worst grounded",
        "chosen frames at 3.0 s",
        "pseudo-labels at 3.0 s",
        "span looked at 2.0 to 4.0 s",
        "gold span 6.0 to 8.0 s",
        "IoP, IoU 0.00, 0.00",
        "73.1 %",
        "uniform a (wrong)",
        "2 of 2 questions, in 1 of 1 videos, share their span",
        "2 of 2 questions, least IoU 1.00",
        "Clips that could not be used",
        "Run file run:",
    ):
        assert words in page.text, words
    assert "Without film strips: nowhere/index.json: missing" in page.text
    said = capsys.readouterr().out
    assert f"{run / 'report.html'} (" in said
    assert "note: " not in said


def test_the_same_page_whatever_the_order_of_the_rows(run: Path) -> None:
    page = page_of(run)
    run_with(run, ROWS[::-1])
    assert page_of(run).text == page.text


def test_figures_as_json(run: Path, tmp_path: Path, capsys: Said) -> None:
    assert main(["report", str(run), "--json", "--against", str(other(tmp_path))]) == 0
    found = json.loads(capsys.readouterr().out)["evaluation"]
    assert [each["name"] for each in found["runs"]] == ["grounding", "uniform"]
    assert found["runs"][0]["num_skipped"] == 1
    assert found["differences"] == [
        {"against": "uniform", "questions": 3, "accuracy": 0.0, "interval": [0.0, 0.0]}
    ]


def test_runs_of_one_mode_go_by_their_names(run: Path, tmp_path: Path) -> None:
    page = page_of(run, "--against", other(tmp_path, mode="grounding"))
    assert "points of accuracy against other" in page.text


def test_a_run_that_was_not_evaluated(run: Path, tmp_path: Path, capsys: Said) -> None:
    others = other(tmp_path)
    rows_path(run, "test").unlink()
    page = page_of(run, "--against", others)
    note = f"gcg eval {run} --split test makes them"
    assert note in page.text
    assert note in capsys.readouterr().out
    assert "uniform final weights" in page.text  # the other's figures are there all the same
    assert "Answered rightly" not in page.text
    assert page_of(run, "--split", "val", "--against", others).text.count("val makes them") == 2


def test_the_first_split_that_was_evaluated(run: Path) -> None:
    rows_path(run, "test").unlink()
    run_with(run, ROWS[:1], split="train")
    assert "Answers to the train questions" in page_of(run).text
    run_with(run, ROWS[:2], split="val")
    assert "Answers to the val questions" in page_of(run).text
    assert "Answers to the train questions" in page_of(run, "--split", "train").text


def test_what_does_not_fit_is_said(run: Path, tmp_path: Path) -> None:
    final = RunFolder(run).final / "meta.json"
    final.parent.mkdir()
    final.write_text('{"step": 8}')
    page = page_of(run, "--against", other(tmp_path, fingerprint="g", data="other/clips"))
    assert "the answers are those of step 4, its final weights are of step 8 now" in page.text
    assert "answered other data (other/clips)" in page.text
    rows_path(run, "test").write_text("{")
    page = page_of(run)
    assert "test.jsonl:1: " in page.text
    assert "Losses" in page.text


def test_nothing_to_choose_from(run: Path) -> None:
    run_with(run, [answered("a", "1", gold=None, span=None, duration=None, moments=None)])
    page = page_of(run)
    assert "Answered wrongly None." in page.text
    assert "No question has a gold span." in page.text
    assert "No two questions of a video share their span" in page.text
    run_with(run, [skipped("a", "1")])
    assert "1 skipped" in page_of(run).text
    run_with(run, ROWS)
    assert "Answered rightly None." in page_of(run, "--examples", 0).text


def test_what_others_wrote_is_text(run: Path) -> None:
    hostile = "<script>alert(1)</script><img src=x onerror=alert(2)>{{ 7*7 }}</style>"
    changes = dict.fromkeys(("text", "type", "predicted", "answer", "question"), hostile)
    run_with(run, [answered(hostile, **changes, options=[hostile, "<b>"])])  # type: ignore[misc]
    page = page_of(run)  # checked to have no script, and no image from elsewhere
    assert page.text.count(hostile) >= 5
    assert page.images == 0
    assert (run / "report.html").read_text().count("</style>") == 1


@pytest.mark.parametrize("count", ["-1", "51", "many"])
def test_a_number_of_examples_that_is_none(count: str, capsys: Said) -> None:
    with pytest.raises(SystemExit):
        main(["report", "run", "--examples", count])
    assert "must be a number from 0 to 50" in capsys.readouterr().err


def test_other_runs_that_are_none(run: Path, capsys: Said) -> None:
    assert main(["report", str(run), "--against", "a", str(run), "b"]) == 2
    assert capsys.readouterr().err.splitlines() == [
        f"error: --against {name}: no config.yaml there; name a run's folder" for name in "ab"
    ]
