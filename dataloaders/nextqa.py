"""A NExT-QA style CSV and a folder of videos -> rows of a manifest.

Reads the multiple-choice files (NExT-QA, NExT-GQA, IntentQA) and the open-ended one (NExT-OE).
"""

from __future__ import annotations

import csv
import json
import logging
import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from dataloaders.bad_questions import BadQuestion, BadQuestions
from dataloaders.errors import DataError
from dataloaders.manifest import Question, Video, describe

logger = logging.getLogger(__name__)

VIDEO_SUFFIXES = (".mp4", ".webm", ".mkv", ".avi", ".mov", ".m4v", ".mpeg", ".mpg")
MAPPING_NAME = "map_vid_vidorID.json"
_REQUIRED = ("question", "answer", "qid", "type")


class _Row(NamedTuple):
    line: int
    cells: dict[str, str]


def read_nextqa(
    annotations: str | os.PathLike[str],
    videos_dir: str | os.PathLike[str],
    *,
    split: str | None = None,
    mapping: str | os.PathLike[str] | None = None,
    grounding: str | os.PathLike[str] | None = None,
    bad: BadQuestions | None = None,
) -> tuple[list[Video], list[str]]:
    """Join annotations with the video files that are there.

    Args:
        annotations: CSV with ``video`` (or ``video_id``), ``question``, ``answer``, ``qid``,
            ``type`` and, if multiple-choice, ``a0``, ``a1``, ...; ``answer`` is then an index
            in every row or the text of an option in every row.
        videos_dir: searched at any depth for ``<video>.mp4`` (or another video suffix), then for
            the path that ``mapping`` gives.
        split: written into every question.
        mapping: JSON ``{video: "0101/2909445186"}``; by default ``map_vid_vidorID.json`` beside
            the CSV or in ``videos_dir``, if it is there.
        grounding: NExT-GQA's ``gsub_*.json`` with gold spans.
        bad: takes the questions without a usable answer, which are left out, and a video with them
            if it has no other; None: such a question is an error.

    Returns:
        The videos in order of first mention, with absolute paths, and the ids of those whose file
        is missing (their questions are left out).

    Raises:
        DataError: the CSV, the folder, the mapping or the spans cannot be used.
    """
    annotations, videos_dir = Path(annotations), Path(videos_dir)
    if not videos_dir.is_dir():
        raise DataError(f"{videos_dir}: no such folder; give the folder that holds the videos")
    rows = _read_rows(annotations)
    by_index = _answers_are_indices(rows)
    spans = _read_json(Path(grounding)) if grounding is not None else {}
    find = _FileFinder(videos_dir, _load_mapping(annotations, videos_dir, mapping))

    grouped: dict[str, list[_Row]] = {}
    for row in rows:
        grouped.setdefault(row.cells["video"], []).append(row)
    if grounding is not None and not spans.keys() & grouped.keys():
        raise DataError(
            f"{grounding}: has spans of none of the videos in {annotations}; give those of the "
            "same split"
        )
    videos, missing = [], []
    for video_id, members in grouped.items():
        path = find(video_id)
        if path is None:
            missing.append(video_id)
            continue
        gold = spans.get(video_id, {}).get("location", {})
        questions = _questions(annotations, members, by_index, split, gold, bad)
        if questions:
            videos.append(_video(annotations, video_id, path, members, questions))
    if bad is not None:
        bad.check(annotations, len(rows))
    if missing:
        logger.warning(
            "%s: %d of %d videos are not under %s (first: %s)",
            annotations, len(missing), len(grouped), videos_dir, missing[0],
        )  # fmt: skip
    return videos, missing


def _read_rows(path: Path) -> list[_Row]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as lines:
            reader = csv.DictReader(lines)
            columns = reader.fieldnames or []
            missing = [name for name in _REQUIRED if name not in columns]
            if "video" not in columns and "video_id" not in columns:
                missing.insert(0, "video")
            if missing:
                raise DataError(
                    f"{path}:1: no column {missing[0]!r} among {', '.join(columns) or 'none'}; "
                    "give a NExT-QA style CSV"
                )
            rows = [_row(path, reader.line_num, cells) for cells in reader]
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); give a CSV") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: not a UTF-8 CSV ({error}); give a NExT-QA style CSV") from None
    if not rows:
        raise DataError(f"{path}: has no rows; give a CSV with at least one question")
    return rows


def _row(path: Path, line: int, cells: Mapping[Any, Any]) -> _Row:
    if None in cells or None in cells.values():
        raise DataError(f"{path}:{line}: another number of cells than the header; correct the row")
    named = {name: value.strip() for name, value in cells.items()}
    named["video"] = named.get("video") or named.get("video_id", "")
    if not named["video"]:
        raise DataError(f"{path}:{line}: video: empty; every question names its video")
    return _Row(line, named)


def _options(cells: Mapping[str, str]) -> list[str] | None:
    names = [f"a{i}" for i in range(len(cells)) if f"a{i}" in cells]
    return [cells[name] for name in names] or None


def _answers_are_indices(rows: list[_Row]) -> bool:
    # Decided for the whole file: a single "2" may well be the text of a counting answer.
    answers = [row.cells["answer"] for row in rows if row.cells["answer"]]
    return bool(answers) and all(answer.isdecimal() for answer in answers)


def _load_mapping(
    annotations: Path, videos_dir: Path, mapping: str | os.PathLike[str] | None
) -> Mapping[str, str]:
    if mapping is not None:
        return _read_json(Path(mapping))
    for folder in (annotations.parent, videos_dir):
        if (folder / MAPPING_NAME).is_file():
            return _read_json(folder / MAPPING_NAME)
    return {}


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); give a JSON file") from None
    except ValueError as error:
        raise DataError(f"{path}: not JSON ({error}); give a JSON file") from None
    if not isinstance(value, dict):
        raise DataError(f"{path}: holds a {type(value).__name__}; an object by video id is needed")
    return value


class _FileFinder:
    """Finds a video's file: by its name anywhere below the folder, else by the mapping."""

    def __init__(self, folder: Path, mapping: Mapping[str, str]):
        self._folder = folder
        self._mapping = mapping
        self._by_stem: dict[str, Path] = {}
        # Sorted, so that of two files with one name it is always the same that is taken.
        for path in sorted(folder.rglob("*")):
            if path.suffix.lower() in VIDEO_SUFFIXES and path.is_file():
                self._by_stem.setdefault(path.stem, path)

    def __call__(self, video_id: str) -> Path | None:
        if video_id in self._by_stem:
            return self._by_stem[video_id].absolute()
        if video_id not in self._mapping:
            return None
        base = self._folder / self._mapping[video_id]
        candidates = (base.with_name(base.name + suffix) for suffix in VIDEO_SUFFIXES)
        return next((path.absolute() for path in candidates if path.is_file()), None)


def _questions(
    annotations: Path,
    rows: list[_Row],
    by_index: bool,
    split: str | None,
    gold: Mapping[str, Any],
    bad: BadQuestions | None,
) -> list[Question]:
    uses: Counter[str] = Counter()
    questions = []
    for line, cells in rows:
        place = f"{annotations}:{line}"
        try:
            questions.append(_question(cells, by_index, split, gold.get(cells["qid"]), uses))
            continue
        except ValidationError as error:
            reason = describe(error)
        except ValueError as error:
            reason = str(error)
        if bad is None:
            raise DataError(f"{place}: {reason}; correct the row")
        bad.add(BadQuestion(place, cells["video"], cells["qid"], reason))
    return questions


def _video(
    annotations: Path, video_id: str, path: Path, rows: list[_Row], questions: list[Question]
) -> Video:
    first = rows[0].cells
    try:
        return Video(
            id=video_id,
            path=str(path),
            frame_count=_number(first, "frame_count"),
            width=_number(first, "width"),
            height=_number(first, "height"),
            questions=questions,
        )
    except ValidationError as error:
        raise DataError(f"{annotations}:{rows[0].line}: {describe(error)}") from None


def _question(
    cells: Mapping[str, str], by_index: bool, split: str | None, spans: Any, uses: Counter[str]
) -> Question:
    options = _options(cells)
    answer, index = cells["answer"], None
    if not answer:
        raise ValueError("answer: empty; every question needs one")
    if options is not None:
        if by_index:
            index = int(answer)
            if index >= len(options):
                raise ValueError(f"answer: {index}: not in 0..{len(options) - 1}")
            answer = options[index]
        elif answer in options:
            index = options.index(answer)
        else:
            raise ValueError(f"answer: {answer!r}: not one of the options")
    uses[cells["qid"]] += 1
    # NExT-OE numbers a few questions of a video alike; the second gets a number of its own.
    count = uses[cells["qid"]]
    return Question(
        id=cells["qid"] if count == 1 else f"{cells['qid']}-{count}",
        question=cells["question"],
        answer=answer,
        options=options,
        answer_index=index,
        type=cells["type"],
        split=split,
        spans=spans,
    )


def _number(cells: Mapping[str, str], name: str) -> int | None:
    value = cells.get(name, "")
    return int(value) if value.isdecimal() and int(value) > 0 else None
