"""Annotation files into Python values; what is wrong with one is a line that names it."""

from __future__ import annotations

import csv
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from dataloaders.errors import DataError


class Row(NamedTuple):
    """A row of a table: where it stands (``file:line``) and its cells by column."""

    place: str
    cells: dict[str, Any]


def read_json(path: Path, kind: type = dict, what: str = "an object by video id") -> Any:
    """The value of a JSON file, which has to be of a kind.

    Raises:
        DataError: no such file, not JSON, or another kind of value.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); give a JSON file") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not JSON ({error}); give a JSON file") from None
    if not isinstance(value, kind):
        raise DataError(f"{path}: holds a {type(value).__name__}; {what} is needed")
    return value


def read_csv(path: Path, required: Collection[str], style: str, delimiter: str = ",") -> list[Row]:
    """The rows of a CSV file with a header; cells are stripped.

    A name in ``required`` may be several with ``|`` between them: one of these has to be there.

    Raises:
        DataError: no such file, not a UTF-8 CSV, no row, a column missing, or a row that has
            another number of cells than the header.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as lines:
            reader = csv.DictReader(lines, delimiter=delimiter, strict=True)
            columns = list(reader.fieldnames or [])
            _check_columns(path, columns, required, style)
            rows = [_row(path, reader.line_num, cells) for cells in reader]
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); give a CSV") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: not a UTF-8 CSV ({error}); give {style}") from None
    if not rows:
        raise DataError(f"{path}: has no rows; give a file with at least one question")
    return rows


def _check_columns(path: Path, columns: list[str], required: Collection[str], style: str) -> None:
    for name in required:
        if not set(name.split("|")) & set(columns):
            raise DataError(
                f"{path}:1: no column {name.split('|')[0]!r} among "
                f"{', '.join(columns) or 'none'}; give {style}"
            )
    twice = next((name for name in columns if columns.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"{path}:1: column {twice!r} is there twice; give each name once")


def _row(path: Path, line: int, cells: Mapping[Any, Any]) -> Row:
    place = f"{path}:{line}"
    if None in cells or None in cells.values():
        raise DataError(f"{place}: another number of cells than the header; correct the row")
    return Row(place, {name: value.strip() for name, value in cells.items()})


def cell(row: Row, *names: str) -> str:
    """The first of these columns that has a value, as text; empty if none has."""
    for name in names:
        value = row.cells.get(name)
        if value is not None and str(value).strip():
            return str(value).strip()
    return ""


def needed(row: Row, *names: str) -> str:
    """As ``cell``, for what no row goes without. Raises DataError where it is empty."""
    value = cell(row, *names)
    if not value:
        raise DataError(f"{row.place}: {names[0]}: empty; every question needs one")
    return value


def whole_number(row: Row, name: str) -> int | None:
    value = cell(row, name)
    return int(value) if value.isdecimal() and int(value) > 0 else None
