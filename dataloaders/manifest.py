"""The manifest: JSON Lines, one video a row, with the list of its questions."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from dataloaders.bad_questions import BadQuestion, BadQuestions
from dataloaders.errors import DataError

_FROZEN = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
_REMEDY = "correct the row, or write the manifest again"


class Question(BaseModel):
    """One question about a video.

    ``options`` is None for an open-ended question; otherwise ``answer_index`` is the right one's
    place. ``spans`` are gold time spans (start, end) in seconds: evaluation reads them, training
    never does.
    """

    model_config = _FROZEN

    id: str = Field(min_length=1)
    question: str = Field(min_length=1)
    answer: str = Field(min_length=1)
    options: list[str] | None = None
    answer_index: int | None = None
    type: str = ""
    split: str | None = None
    statement: str | None = None
    spans: list[tuple[float, float]] | None = None

    @model_validator(mode="after")
    def _check_options(self) -> Question:
        if self.options is None:
            if self.answer_index is not None:
                raise ValueError("answer_index needs options")
            return self
        if len(self.options) < 2:
            raise ValueError(f"options needs at least 2 entries, has {len(self.options)}")
        if self.answer_index is None:
            raise ValueError("options needs answer_index")
        if not 0 <= self.answer_index < len(self.options):
            raise ValueError(f"answer_index {self.answer_index} not in 0..{len(self.options) - 1}")
        if self.options[self.answer_index] != self.answer:
            right = self.options[self.answer_index]
            raise ValueError(f"answer {self.answer!r} is not options[answer_index], {right!r}")
        return self

    @field_validator("spans")
    @classmethod
    def _check_spans(cls, spans: list[tuple[float, float]] | None):
        for start, end in spans or []:
            if not 0 <= start <= end:
                raise ValueError(f"span ({start}, {end}) needs 0 <= start <= end, in seconds")
        return spans


class Video(BaseModel):
    """One video and everything that is asked about it.

    ``path`` is relative to the manifest's folder, or absolute. ``duration`` is in seconds,
    ``rotation`` in degrees; ``transcoded`` says what packing made of the clip. What is unknown is
    None; packing fills it in from the file itself.
    """

    model_config = _FROZEN

    id: str = Field(min_length=1)
    path: str = Field(min_length=1)
    duration: float | None = Field(default=None, ge=0)
    frame_count: int | None = Field(default=None, ge=0)
    width: int | None = Field(default=None, ge=1)
    height: int | None = Field(default=None, ge=1)
    rotation: int | None = None
    codec: str | None = None
    transcoded: str | None = None
    questions: list[Question] = Field(min_length=1)

    @field_validator("questions")
    @classmethod
    def _check_ids(cls, questions: list[Question]) -> list[Question]:
        seen: set[str] = set()
        for question in questions:
            if question.id in seen:
                raise ValueError(f"question id {question.id!r} occurs twice in one video")
            seen.add(question.id)
        return questions


def describe(error: ValidationError) -> str:
    """The first fault of a row on one line, as ``field: value: rule``, and how many there are."""
    faults = error.errors(include_url=False)
    text = _fault_text(faults[0])
    return text if len(faults) == 1 else f"{text} (and {len(faults) - 1} more in this row)"


def _fault_text(first: Mapping[str, Any]) -> str:
    field = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in first["loc"]).lstrip(".")
    rule = first["msg"].removeprefix("Value error, ").replace("\n", " ")
    if first["type"] in ("missing", "json_invalid", "value_error"):
        return f"{field}: {rule}" if field else rule
    value = repr(first["input"]).replace("\n", " ")
    return f"{field}: {value if len(value) <= 60 else value[:57] + '...'}: {rule}"


def read_manifest(path: str | os.PathLike[str], bad: BadQuestions | None = None) -> Iterator[Video]:
    """Yield the videos of a manifest in file order; empty lines are skipped.

    Args:
        bad: takes the questions that break a rule (no answer, an ``answer_index`` that is none of
            the options'), and the row goes on without them; a video that has no other is left out.
            None: such a question is an error.

    Raises:
        DataError: no such file, no row at all, a row that breaks a rule elsewhere, a video id that
            occurs twice, or more bad questions than ``bad`` allows. The message starts with the
            file, and its line where there is one.
    """
    path = Path(path)
    try:
        lines = path.open(encoding="utf-8")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); give a manifest") from None
    first_line: dict[str, int] = {}
    num_questions = 0
    with lines:
        try:
            for number, line in enumerate(lines, start=1):
                if line.isspace():
                    continue
                video, num_asked = _parse(line, f"{path}:{number}", bad)
                num_questions += num_asked
                if video is None:
                    continue
                if video.id in first_line:
                    raise DataError(
                        f"{path}:{number}: id: {video.id!r} is already on line "
                        f"{first_line[video.id]}; a video is one row with all its questions: "
                        "join the rows"
                    )
                first_line[video.id] = number
                yield video
        except UnicodeDecodeError as error:
            raise DataError(f"{path}: not UTF-8 at byte {error.start}; {_REMEDY}") from None
    if bad is not None:
        bad.check(path, num_questions)
    if not first_line:
        raise DataError(f"{path}: has no rows; a manifest needs at least one video; {_REMEDY}")


def _parse(line: str, where: str, bad: BadQuestions | None) -> tuple[Video | None, int]:
    """The row, and how many questions it lists; None where every one of them is bad."""
    try:
        video = Video.model_validate_json(line)
        return video, len(video.questions)
    except ValidationError as error:
        faults = _question_faults(error)
        if bad is None or not faults:
            raise DataError(f"{where}: {describe(error)}; {_REMEDY}") from None
    row = json.loads(line)
    questions = row["questions"]
    for number, reason in faults.items():
        question = questions[number]
        name = question.get("id") if isinstance(question, dict) else None
        bad.add(BadQuestion(where, str(row.get("id")), str(name or f"#{number}"), reason))
    row["questions"] = [q for number, q in enumerate(questions) if number not in faults]
    if not row["questions"]:
        return None, len(questions)
    return _parse(json.dumps(row), where, None)[0], len(questions)


def _question_faults(error: ValidationError) -> dict[int, str]:
    """What is wrong with which question, by its place; empty if other fields have faults too."""
    found: dict[int, str] = {}
    for fault in error.errors(include_url=False):
        match fault["loc"]:
            case ("questions", int(number), *_):
                found.setdefault(number, _fault_text(fault))
            case _:
                return {}
    return found


def write_manifest(path: str | os.PathLike[str], videos: Iterable[Video]) -> int:
    """Write a manifest, whole or not at all; returns the number of rows.

    Raises:
        DataError: a video id occurs twice.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    seen: set[str] = set()
    with partial.open("w", encoding="utf-8") as out:
        for video in videos:
            if video.id in seen:
                raise DataError(f"{path}: id: {video.id!r} occurs twice; video ids are unique")
            seen.add(video.id)
            out.write(video.model_dump_json(exclude_none=True) + "\n")
    partial.replace(path)
    return len(seen)
