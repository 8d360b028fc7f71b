"""Rows of an evaluation on disk: read as they were written, refused in a line where damaged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from launcher.errors import UserError
from launcher.evaluation.rows import Row, read_rows, rows_path
from tests.launcher.report.answered import answered, header, run_with, skipped

ROWS = [answered("a", "1"), skipped("b", "1"), answered("ü\u2028", "<", scores=None, gold=None)]


def test_they_are_read_as_they_were_written(tmp_path: Path) -> None:
    run_with(tmp_path / "run", ROWS)
    found = read_rows(tmp_path / "run", "test")
    assert found is not None
    assert found.header == header(questions=3)
    assert json.loads(json.dumps(found.rows)) == ROWS
    assert [row["video"] for row in found.asked] == ["a", "ü\u2028"]
    assert read_rows(tmp_path / "run", "val") is None


def spoilt(row: Row, **changes: Any) -> str:
    return json.dumps({**row, **changes})


@pytest.mark.parametrize(
    ("number", "line", "says"),
    [
        (1, "{", "test.jsonl:1: "),
        (1, header(questions=3, version=2).model_dump_json(), "version: 2: this release reads 1"),
        (1, header(questions=4).model_dump_json(), "3 rows of 4"),
        (2, '{"half', "test.jsonl:2: "),
        (2, spoilt(ROWS[0], weights=[1.0]), "test.jsonl:2: weights: 1 for 4 frames"),
        (2, spoilt(ROWS[0], selected=[4]), "frame 4: there are 4"),
        (2, spoilt(ROWS[0], scores=[1.0]), "scores: 1 for 2 options"),
        (2, spoilt(ROWS[0], weights=[0.1, 0.2, 0.3, float("nan")]), "weights[3]"),
        (2, spoilt(ROWS[0], correct=None), "correct"),
        (3, spoilt(ROWS[1], skipped=3), "test.jsonl:3: skipped"),
        (4, "", "2 rows of 3"),
    ],
)
def test_damage_is_told_in_a_line(tmp_path: Path, number: int, line: str, says: str) -> None:
    run = tmp_path / "run"
    run_with(run, ROWS)
    path = rows_path(run, "test")
    lines = path.read_bytes().splitlines()
    lines[number - 1] = line.encode()
    path.write_bytes(b"\n".join(lines))
    with pytest.raises(UserError) as refused:
        read_rows(run, "test")
    (told,) = refused.value.lines
    assert str(path) in told
    assert says in told
    assert f"gcg eval {run} --split test" in told


def test_an_empty_file_and_a_folder(tmp_path: Path) -> None:
    path = rows_path(tmp_path, "test")
    path.parent.mkdir()
    path.write_bytes(b"")
    with pytest.raises(UserError, match=r"test\.jsonl:1: "):
        read_rows(tmp_path, "test")
    rows_path(tmp_path, "val").mkdir()
    with pytest.raises(UserError, match=r"val\.jsonl: cannot be read \(Is a directory\)"):
        read_rows(tmp_path, "val")
