from __future__ import annotations

import pytest

from launcher.evaluation.scores import summarise, table


def row(video: str, correct: bool, span: tuple[float, float] | None, kind: str = "what") -> dict:
    return {
        "video": video,
        "question": "q",
        "type": kind,
        "correct": correct,
        "span": span,
        "gold": [[2.0, 4.0]],
        "duration": 10.0,
    }


ROWS = [
    row("a", True, (2.0, 4.0)),
    row("a", True, (0.0, 10.0), "which"),
    row("b", False, (3.0, 4.0)),
    row("b", False, (6.0, 8.0)),
    {"video": "c", "question": "q", "type": "what", "skipped": "no frames"},
]


def test_figures() -> None:
    figures = summarise(ROWS)
    assert figures["num_questions"] == 4
    assert figures["num_skipped"] == 1
    assert figures["accuracy"] == 0.5
    assert figures["by_type"]["what"] == {"accuracy": pytest.approx(1 / 3), "num_questions": 3}
    assert figures["miop"] == pytest.approx((1 + 0.2 + 1 + 0) / 4)
    assert figures["miou"] == pytest.approx((1 + 0.2 + 0.5 + 0) / 4)
    assert figures["iop@0.5"] == 0.5
    assert figures["iou@0.3"] == 0.5
    assert figures["acc_gqa"] == 0.25
    # Spans of one video: (2,4) with (0,10) → 0.2; (3,4) with (6,8) → 0.
    assert figures["span_overlap"] == pytest.approx(0.1)


def test_a_random_window_of_the_whole_clip_scores_its_share() -> None:
    assert summarise([ROWS[1]])["random_window_miop"] == pytest.approx(0.2)


def test_without_gold_there_is_no_grounding() -> None:
    figures = summarise([{**ROWS[0], "gold": None}])
    assert figures["accuracy"] == 1.0
    assert "miop" not in figures
    assert "-" in table({"uniform": figures}).splitlines()[-1]


def test_nothing_answered() -> None:
    figures = summarise([ROWS[-1]])
    assert figures["accuracy"] is None
    assert figures["num_skipped"] == 1
    assert table({"grounding": figures})


def test_table_has_a_line_a_run() -> None:
    text = table({"uniform": summarise(ROWS), "grounding": summarise(ROWS[:2])})
    lines = text.splitlines()
    assert len(lines) == 4
    assert lines[2].split()[:2] == ["uniform", "50.0"]
    assert lines[3].split()[:2] == ["grounding", "100.0"]
