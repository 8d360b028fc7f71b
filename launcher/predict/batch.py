"""Many videos, many questions: rows in, rows out; a bad video is a line and stops nothing."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dataloaders.errors import DataError
from dataloaders.prefetch import Job, Prefetcher
from dataloaders.time_limit import TooManyStuckError
from dataloaders.video_suffixes import VIDEO_SUFFIXES
from gcg.questions import Query
from launcher.errors import UserError
from launcher.predict.clips import ClipReader, LoadedClip
from launcher.predict.predictor import Asked, Predictor

_QUESTIONS = 16  # in one pass
_SHOWN = 10


class Line(BaseModel):
    """A line of a file of questions; ``video``'s path is relative to that file."""

    model_config = ConfigDict(extra="forbid")

    video: str = Field(min_length=1)
    question: str = Field(min_length=1, pattern=r"\S")
    options: list[Annotated[str, Field(pattern=r"\S")]] | None = Field(default=None, min_length=2)
    answer: str | None = None
    id: str | int | None = None


@dataclass(frozen=True)
class Row:
    """One question about one video; ``number``, from 1, and ``id`` come back with its answer."""

    number: int
    video: Path
    asked: Asked
    id: str | int | None = None


def rows_of_folder(folder: Path, asked: Asked) -> list[Row]:
    """The same question about every video below a folder, by name.

    Raises:
        DataError: there is none.
    """
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in VIDEO_SUFFIXES)
    if not found:
        raise DataError(
            f"{folder}: no video below it ({', '.join(VIDEO_SUFFIXES)}); name another folder"
        )
    return [Row(number, path, asked) for number, path in enumerate(found, 1)]


def rows_of_file(path: Path) -> list[Row]:
    """The lines of a JSONL file.

    Raises:
        UserError: with each line that is no question.
    """
    rows, problems = [], []
    try:
        # A text may hold other ends of line than a line of JSON ends with.
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error}); give a JSONL file") from None
    for number, text in enumerate(lines, 1):
        if not text.strip():
            continue
        try:
            line = Line.model_validate_json(text)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            problems.append(
                f"{path}:{number}: {where + ': ' if where else ''}{first['msg']}; a line is "
                '{"video": ..., "question": ..., "options": [...] or none}'
            )
            continue
        query = Query(line.question, None if line.options is None else tuple(line.options))
        video = path.parent / Path(line.video).expanduser()
        rows.append(Row(number, video, Asked(query, line.answer), line.id))
    if problems:
        more = [f"{path}: and {len(problems) - _SHOWN} more lines"] * (len(problems) > _SHOWN)
        raise UserError(problems[:_SHOWN] + more)
    if not rows:
        raise UserError(f"{path}: holds no questions; a line is a question about a video")
    return rows


def predict_rows(
    predictor: Predictor,
    rows: Sequence[Row],
    *,
    videos_per_pass: int = 4,
    threads: int = 2,
    timeout_s: float = 60.0,
    on_video: Callable[[], object] = lambda: None,
) -> Iterator[dict[str, Any]]:
    """Answer all rows, video by video in the order in which they first come.

    A video is read and decoded once, ahead of the model, in ``threads`` threads; the model answers
    up to ``videos_per_pass`` videos, and 16 questions, at once. A row has
    ``row``, ``id`` where it was given, and what :meth:`Said.row` has; or ``error``: a line saying
    why its video cannot be read.
    """
    videos: dict[Path, list[Row]] = {}
    for row in rows:
        videos.setdefault(row.video, []).append(row)
    reader = ClipReader(predictor.processor, timeout_s=timeout_s)
    jobs = (Job([partial(_load, reader, path)], lambda loaded: loaded[0]) for path in videos)
    clips: Prefetcher[LoadedClip | str] = Prefetcher(
        jobs, threads=threads, depth=threads + videos_per_pass, name="predict"
    )
    waiting: list[tuple[LoadedClip, list[Row]]] = []
    num_waiting = 0
    try:
        for own, clip in zip(videos.values(), clips, strict=True):
            on_video()
            if isinstance(clip, str):
                for row in own:
                    question = row.asked.query.question
                    yield _named(row) | {
                        "video": str(row.video), "question": question, "error": clip,
                    }  # fmt: skip
                continue
            for first in range(0, len(own), _QUESTIONS):
                some = own[first : first + _QUESTIONS]
                if num_waiting + len(some) > _QUESTIONS or len(waiting) == videos_per_pass:
                    yield from _answers(predictor, waiting)
                    waiting, num_waiting = [], 0
                waiting.append((clip, some))
                num_waiting += len(some)
        if waiting:
            yield from _answers(predictor, waiting)
    finally:
        clips.close()
        reader.close()


def _load(reader: ClipReader, path: Path) -> LoadedClip | str:
    try:
        return reader(path)
    except TooManyStuckError:  # no longer a clip's fault
        raise
    except DataError as error:
        return str(error)


def _answers(
    predictor: Predictor, waiting: Sequence[tuple[LoadedClip, list[Row]]]
) -> Iterator[dict[str, Any]]:
    rows = [row for _, own in waiting for row in own]
    found = predictor([clip for clip, _ in waiting], [[r.asked for r in own] for _, own in waiting])
    for row, said in zip(rows, found, strict=True):
        yield _named(row) | said.row()


def _named(row: Row) -> dict[str, Any]:
    return {"row": row.number} | ({} if row.id is None else {"id": row.id})


def write_rows(rows: Iterator[dict[str, Any]], write: Callable[[str], object]) -> tuple[int, int]:
    """Write rows as lines of JSON as they come; returns how many, and how many of them failed."""
    count = failed = 0
    for row in rows:
        write(json.dumps(row, ensure_ascii=False) + "\n")
        count += 1
        failed += "error" in row
    return count, failed
