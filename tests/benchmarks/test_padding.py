"""The padding benchmark counts what it says, also where the real questions are absent."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import padding
from benchmarks.padding import Rows


def test_positions_of_a_small_case() -> None:
    rows = Rows(10, [1, 9, 1, 9])
    visits = [[0], [1], [2], [3]]
    assert padding._padding(rows, visits, 4, 2, 1, rows) == {
        "needed": 60, "in_order": 4 * 19, "by_length": 2 * 19 + 2 * 11,
    }  # fmt: skip
    whole = padding._padding(rows, visits, 4, 2, 2, rows)
    assert whole["by_length"] == whole["in_order"]


def test_visits_ask_each_question_once() -> None:
    visits = padding._visits([1, 6, 4])
    assert sorted(q for visit in visits for q in visit) == list(range(11))
    assert sorted(map(len, visits)) == [1, 2, 4, 4]


def test_without_the_real_questions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(padding, "SHARED", tmp_path)
    result = padding.measure(tmp_path, quick=True)
    (table,) = result.tables
    assert "absent" in table.title
    assert all("→" in row[4] for row in table.rows)  # a micro-batch of two
    assert not any("→" in row[3] for row in table.rows)  # of one
