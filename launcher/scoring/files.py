"""Result files as other people write them, read without losing what Python's reader drops."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launcher.errors import UserError

# The names that the benchmarks' repositories and their users give to the same thing.
IDS = ("question_id", "key", "qid", "id")
VIDEOS = ("video", "video_id", "video_name", "vid")
PREDICTIONS = ("prediction", "pred", "predicted")
SPANS = ("span", "location")


class Pairs(list[tuple[str, Any]]):
    """A JSON object as it stands in the file: a key that is there twice is here twice."""

    @property
    def last(self) -> dict[str, Any]:
        return dict(self)

    @property
    def repeats(self) -> bool:
        return len(self.last) < len(self)


@dataclass(frozen=True)
class Given:
    """One entry of a result file: its id, its video where it says so apart, and its value.

    ``right`` is the answer that the file itself takes for the right one. ``repeated``: the entry
    gives a field twice.
    """

    id: str
    value: Any
    video: str | None = None
    right: Any = None
    repeated: bool = False


def read_json(path: Path) -> Any:
    """The value of a JSON file; objects are ``Pairs``. Raises UserError: it cannot be read."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        return json.loads(text, object_pairs_hook=Pairs)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); give a file") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON ({error}); give the benchmark's result file") from None


def read_given(path: Path, wanted: tuple[str, ...] = PREDICTIONS) -> list[Given]:
    """The entries of a result file in its order.

    Read are: an object by id whose values are bare or objects with one of the names ``wanted`` (or
    ``answer``); an object by video, and in it by question; an object of lists (STAR's, by type); a
    list of objects with an id; the same as JSON Lines or as a CSV with a header.

    Raises:
        UserError: none of these.
    """
    suffix = path.suffix.lower()
    if suffix in (".csv", ".tsv", ".jsonl", ".ndjson"):
        value: Any = list(_rows(path, suffix))
    else:
        value = read_json(path)
    if not isinstance(value, list):
        raise UserError(f"{path}: holds a {type(value).__name__}; an object or a list is needed")
    if isinstance(value, Pairs):
        found = [each for key, item in value for each in _of_key(path, key, item, wanted)]
    else:
        found = [_of_item(f"{path}[{i}]", item, wanted) for i, item in enumerate(value)]
    if not found:
        raise UserError(f"{path}: has no predictions; give the benchmark's result file")
    return found


def _rows(path: Path, suffix: str) -> Iterator[Pairs]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as lines:
            if suffix in (".csv", ".tsv"):
                tab = "\t" if suffix == ".tsv" else ","
                for cells in csv.DictReader(lines, delimiter=tab, strict=True):
                    yield Pairs((str(name), value) for name, value in cells.items())
                return
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield _line(f"{path}:{number}", line)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); give a file") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: not a UTF-8 table ({error}); give a result file") from None


def _line(place: str, line: str) -> Any:
    try:
        return json.loads(line, object_pairs_hook=Pairs)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{place}: not JSON ({error}); correct the line") from None


def _of_key(path: Path, key: str, item: Any, wanted: tuple[str, ...]) -> Iterator[Given]:
    """What an object has under one key: an entry, or the entries of a video or of a type."""
    if isinstance(item, Pairs):
        fields = item.last
        if any(name in fields for name in (*wanted, "answer")):
            yield _entry(key, item, wanted)
            return
        for inner, value in item:
            if isinstance(value, Pairs):
                yield _entry(inner, value, wanted, video=key)
            else:
                yield Given(inner, value, video=key)
    elif isinstance(item, list) and item and all(isinstance(each, Pairs) for each in item):
        for i, each in enumerate(item):
            yield _of_item(f"{path}: {key}[{i}]", each, wanted)
    else:
        yield Given(key, item)


def _of_item(place: str, item: Any, wanted: tuple[str, ...]) -> Given:
    """An entry of a list, which names its question itself."""
    fields = item.last if isinstance(item, Pairs) else {}
    key = next((fields[name] for name in IDS if fields.get(name) not in (None, "")), None)
    if key is None or isinstance(key, bool | float | list):
        raise UserError(f"{place}: names no question; each entry needs one of {', '.join(IDS)}")
    video = next((str(fields[name]) for name in VIDEOS if fields.get(name) is not None), None)
    return _entry(str(key), item, wanted, video)


def _entry(key: str, item: Pairs, wanted: tuple[str, ...], video: str | None = None) -> Given:
    fields = item.last
    name = next((name for name in wanted if name in fields), None)
    if name is None:  # STAR's, MSVD-QA's and ActivityNet-QA's call what was predicted the answer
        return Given(key, fields.get("answer"), video, None, item.repeats)
    return Given(key, fields[name], video, fields.get("answer"), item.repeats)
