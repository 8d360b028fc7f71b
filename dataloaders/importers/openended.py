"""MSVD-QA, MSRVTT-QA and ActivityNet-QA: questions with one short answer and no options.

https://github.com/xudejing/video-question-answering (``train_qa.json``: a list of ``video_id``,
``question``, ``answer``, ``id``; also a CSV of the same columns, or with ``video`` and ``qid``),
https://github.com/MILVLG/activitynet-qa (``train_q.json`` and ``train_a.json``).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dataloaders.errors import DataError
from dataloaders.importers.asked import Asked, Files
from dataloaders.importers.files import Row, cell, needed, read_csv, read_json

FIRST_WORDS = ("what", "who", "how", "when", "where")
# ActivityNet-QA's numbers of types; 3 to 8 are its free questions, by kind of answer.
ACTIVITYNET_TYPES = (
    "motion", "spatial", "temporal", "yes-no", "color", "object", "location", "number", "other",
)  # fmt: skip
_COLUMNS = ("video|video_id", "question", "answer", "qid|id|question_id")
_NO_ANSWER = "answer: empty; every question needs one"


def read_msvd(files: Files) -> list[Asked]:
    """MSVD-QA or MSRVTT-QA. The type is the question's first word (``FIRST_WORDS``, or other).

    Raises:
        DataError: not such a file.
    """
    path = files.annotations
    if path.suffix.lower() == ".json":
        items = read_json(path, list, "a list of questions")
        rows = [Row(f"{path}[{i}]", item) for i, item in enumerate(items)]
        wrong = next((row.place for row in rows if not isinstance(row.cells, dict)), None)
        if wrong is not None or not rows:
            raise DataError(f"{wrong or path}: not a question; give train_qa.json or its like")
    else:
        rows = read_csv(path, _COLUMNS, "a CSV of video, question, answer and qid")
    return [_of_row(row, files.split_name) for row in rows]


def _of_row(row: Row, split: str | None) -> Asked:
    key = needed(row, "id", "qid", "question_id")
    video, question = needed(row, "video_id", "video"), needed(row, "question")
    answer = cell(row, "answer")
    word = question.split()[0].lower()
    return Asked(
        row.place,
        video,
        key,
        key,
        question,
        answer,
        type=word if word in FIRST_WORDS else "other",
        split=split,
        fault=None if answer else _NO_ANSWER,
    )


def read_activitynet(files: Files) -> list[Asked]:
    """ActivityNet-QA, from ``*_q.json`` or ``*_a.json``: the other lies beside it.

    Raises:
        DataError: not such files, a question without an entry in the other, or the same one twice.
    """
    questions = _entries(_beside(files.annotations, "q"), ("video_name", "question"))
    answers = _entries(_beside(files.annotations, "a"), ("answer", "type"))
    split = files.split_name
    found = []
    for key, (place, item) in questions.items():
        if key not in answers:
            raise DataError(f"{place}: {key}: has no answer beside it; give both of one split")
        answer_place, right = answers[key]
        found.append(
            Asked(
                place,
                str(item["video_name"]),
                key,
                key,
                str(item["question"]),
                str(right["answer"]).strip(),
                type=activitynet_type(answer_place, right["type"]),
                split=split,
                fault=None if str(right["answer"]).strip() else _NO_ANSWER,
            )
        )
    return found


def read_activitynet_answers(files: Files) -> list[Asked]:
    """The right answers alone, which is all that scoring needs; questions are empty texts."""
    answers = _entries(_beside(files.annotations, "a"), ("answer", "type"))
    return [
        Asked(place, "", key, key, "", str(item["answer"]),
              type=activitynet_type(place, item["type"]), split=files.split_name)
        for key, (place, item) in answers.items()
    ]  # fmt: skip


def activitynet_type(place: str, number: Any) -> str:
    if not isinstance(number, int) or not 0 <= number < len(ACTIVITYNET_TYPES):
        raise DataError(f"{place}: type {number!r}: not in 0..8; get the file again")
    return ACTIVITYNET_TYPES[number]


def _beside(path: Path, letter: str) -> Path:
    """``val_q.json`` for ``val_a.json`` and the other way round."""
    stem = path.stem
    if stem[-2:] not in ("_q", "_a"):
        raise DataError(f"{path}: neither *_q.json nor *_a.json; ActivityNet-QA has one of each")
    return path.with_name(f"{stem[:-1]}{letter}{path.suffix}")


def _entries(path: Path, fields: tuple[str, ...]) -> dict[str, tuple[str, dict[str, Any]]]:
    found: dict[str, tuple[str, dict[str, Any]]] = {}
    for number, item in enumerate(read_json(path, list, "a list of entries")):
        place = f"{path}[{number}]"
        missing = [
            f for f in ("question_id", *fields) if not isinstance(item, dict) or f not in item
        ]
        if missing:
            raise DataError(f"{place}: has no {missing[0]!r}; give ActivityNet-QA's files")
        key = str(item["question_id"])
        if key in found:
            raise DataError(f"{place}: {key} is already at {found[key][0]}; ids are unique")
        found[key] = (place, item)
    if not found:
        raise DataError(f"{path}: has no entries; give ActivityNet-QA's files")
    return found
