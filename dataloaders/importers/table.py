"""Anyone's own questions: CSV, TSV or JSON Lines with the columns below (docs/benchmarks.md)."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

from dataloaders.errors import DataError
from dataloaders.importers.asked import Asked, Files, Spans
from dataloaders.importers.files import Row, cell, needed, read_csv
from dataloaders.importers.nextqa import answers_are_indices, option_of

_VIDEO = ("video", "video_id")
_ID = ("id", "qid", "question_id")
_STYLE = "a table of video, question and answer"
_LINES = (".jsonl", ".ndjson")


def read_rows(files: Files) -> list[Asked]:
    """The questions of a table.

    Columns: ``video``, ``question``, ``answer``; if there, ``a0``, ``a1``, ... or ``options`` (a
    JSON list), ``id`` (unique in its video; by default its number there), ``type``, ``split``,
    and ``start`` and ``end`` (seconds) or ``spans`` (a JSON list of pairs). With options,
    ``answer`` is a place (from 0) in every row or an option's text in every row; in JSON Lines a
    number is a place and a text is a text.

    Raises:
        DataError: with file, line and column.
    """
    path = files.annotations
    suffix = path.suffix.lower()
    if suffix in _LINES:
        rows = _read_lines(path)
    else:
        tab = "\t" if suffix == ".tsv" else ","
        rows = read_csv(path, ("|".join(_VIDEO), "question", "answer"), _STYLE, tab)
    texts = [cell(row, "answer") for row in rows if isinstance(row.cells.get("answer"), str)]
    by_index = suffix not in _LINES and answers_are_indices(texts)
    numbers: Counter[str] = Counter()
    found = [_asked(row, by_index, files.split_name, numbers) for row in rows]
    _check_unique(found)
    return found


def _asked(row: Row, by_index: bool, split: str | None, numbers: Counter[str]) -> Asked:
    video = needed(row, *_VIDEO)
    number = cell(row, *_ID) or str(numbers[video])
    numbers[video] += 1
    options, answer = _options(row), cell(row, "answer")
    index, fault = None, None if answer else "answer: empty; every question needs one"
    if options is not None:
        given = row.cells.get("answer")
        place = by_index or (isinstance(given, int) and not isinstance(given, bool))
        if place and not answer.isdecimal():  # an empty cell, or a negative number
            fault = f"answer: {answer!r}: not in 0..{len(options) - 1}"
        else:
            answer, index, fault = option_of(answer, options, place)
    return Asked(
        row.place,
        video,
        number,
        f"{video}_{number}",
        needed(row, "question"),
        answer,
        options,
        index,
        cell(row, "type"),
        cell(row, "split") or split,
        _spans(row),
        fault,
    )


def _options(row: Row) -> tuple[str, ...] | None:
    if "options" in row.cells:
        value = _json(row, "options")
        if value is None:
            return None
        if not isinstance(value, list) or any(isinstance(v, dict | list) for v in value):
            raise DataError(f'{row.place}: options: not a list of texts; write ["a", "b"]')
        return tuple(str(option) for option in value)
    names = [f"a{i}" for i in range(len(row.cells)) if f"a{i}" in row.cells]
    options = [cell(row, name) for name in names]
    while options and not options[-1]:  # rows may have fewer options than there are columns
        options.pop()
    if "" in options:
        raise DataError(f"{row.place}: {names[options.index('')]}: empty before an option; fill it")
    return tuple(options) or None


def _spans(row: Row) -> Spans | None:
    if "spans" in row.cells:
        value = _json(row, "spans")
        if value is None:
            return None
        try:
            return tuple((_seconds(s), _seconds(e)) for s, e in value)
        except (TypeError, ValueError):
            raise DataError(f"{row.place}: spans: not pairs of seconds; write [[1, 2.5]]") from None
    start, end = cell(row, "start"), cell(row, "end")
    if not start and not end:
        return None
    for name, value in (("start", start), ("end", end)):
        try:
            _seconds(value)
        except ValueError:
            raise DataError(f"{row.place}: {name}: {value!r}: not seconds; write 1.5") from None
    return ((float(start), float(end)),)


def _seconds(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError("not a number")
    return number


def _json(row: Row, name: str) -> Any:
    """A column whose value is JSON: as it is in JSON Lines, written out in a CSV's cell."""
    value = row.cells[name]
    if not isinstance(value, str):
        return value
    if not value:
        return None
    try:
        return json.loads(value)
    except ValueError as error:
        raise DataError(f"{row.place}: {name}: not JSON ({error}); correct the cell") from None


def _read_lines(path: Path) -> list[Row]:
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error}); give {_STYLE}") from None
    rows = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except ValueError as error:
            raise DataError(f"{path}:{number}: not JSON ({error}); correct the line") from None
        if not isinstance(value, dict):
            raise DataError(f"{path}:{number}: not an object; give {_STYLE}")
        rows.append(Row(f"{path}:{number}", value))
    if not rows:
        raise DataError(f"{path}: has no rows; give a file with at least one question")
    return rows


def _check_unique(asked: list[Asked]) -> None:
    first: dict[tuple[str, str], str] = {}
    for each in asked:
        place = first.setdefault((each.video, each.id), each.place)
        if place != each.place:
            raise DataError(
                f"{each.place}: id: {each.id!r} of {each.video} is already at {place}; ids are "
                "unique in a video"
            )
