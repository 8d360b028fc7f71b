"""Questions and the files of their videos -> rows of a manifest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from pydantic import ValidationError

from dataloaders.bad_questions import BadQuestion, BadQuestions
from dataloaders.errors import DataError
from dataloaders.importers.asked import Asked
from dataloaders.manifest import Question, Video, describe


def join(
    asked: Sequence[Asked],
    find: Callable[[str], Path | None],
    annotations: Path,
    bad: BadQuestions | None = None,
) -> tuple[list[Video], list[str]]:
    """Group the questions by video and join them with the files that are there.

    Args:
        asked: a file's questions, in its order.
        find: a video's file, or None.
        annotations: the file, for messages.
        bad: takes the questions without a usable answer, which are left out, and a video with them
            if it has no other; None: such a question is an error.

    Returns:
        The videos in order of first mention, with absolute paths, and the ids of those whose file
        is missing (their questions are left out).

    Raises:
        DataError: a question or a video breaks a rule of the manifest.
    """
    grouped: dict[str, list[Asked]] = {}
    for each in asked:
        grouped.setdefault(each.video, []).append(each)
    videos, missing = [], []
    for video, members in grouped.items():
        path = find(video)
        if path is None:
            missing.append(video)
            continue
        questions = [question for each in members if (question := _question(each, bad))]
        if questions:
            videos.append(_video(members[0], path, questions))
    if bad is not None:
        bad.check(annotations, len(asked))
    return videos, missing


def _question(asked: Asked, bad: BadQuestions | None) -> Question | None:
    reason = asked.fault
    if reason is None:
        try:
            return Question(
                id=asked.id,
                question=asked.question,
                answer=asked.answer,
                options=None if asked.options is None else list(asked.options),
                answer_index=asked.answer_index,
                type=asked.type,
                split=asked.split,
                spans=None if asked.spans is None else list(asked.spans),
            )
        except ValidationError as error:
            reason = describe(error)
    if bad is None:
        raise DataError(f"{asked.place}: {reason}; correct the row")
    bad.add(BadQuestion(asked.place, asked.video, asked.id, reason))
    return None


def _video(first: Asked, path: Path, questions: list[Question]) -> Video:
    try:
        return Video(
            id=first.video,
            path=str(path),
            frame_count=first.facts.get("frame_count"),
            width=first.facts.get("width"),
            height=first.facts.get("height"),
            questions=questions,
        )
    except ValidationError as error:
        raise DataError(f"{first.place}: {describe(error)}; correct the row") from None
