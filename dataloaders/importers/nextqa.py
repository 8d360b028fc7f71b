"""NExT-QA (multiple choice and open), NExT-GQA and IntentQA: one style of CSV.

https://github.com/doc-doc/NExT-QA, NExT-OE and NExT-GQA, https://github.com/JoseponLee/IntentQA.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from dataloaders.bad_questions import BadQuestions
from dataloaders.errors import DataError
from dataloaders.importers.asked import Asked, Files, Spans
from dataloaders.importers.files import Row, cell, needed, read_csv, read_json, whole_number
from dataloaders.importers.join import join
from dataloaders.importers.videos import VideoFinder, read_mapping
from dataloaders.manifest import Video

STYLE = "a NExT-QA style CSV"
_COLUMNS = ("video|video_id", "question", "answer", "qid", "type")


def read_nextqa(
    annotations: str | os.PathLike[str],
    videos_dir: str | os.PathLike[str],
    *,
    split: str | None = None,
    mapping: str | os.PathLike[str] | None = None,
    grounding: str | os.PathLike[str] | None = None,
    bad: BadQuestions | None = None,
) -> tuple[list[Video], list[str]]:
    """Join annotations with the video files that are there (``join``).

    Args:
        annotations: as of ``read_rows``.
        videos_dir: searched at any depth for ``<video>.mp4`` (or another video suffix), then for
            the path that ``mapping`` gives.
        split: written into every question; by default what the file's name says.
        mapping: JSON ``{video: "0101/2909445186"}``; by default ``map_vid_vidorID.json`` beside
            the CSV or in ``videos_dir``, if it is there.
        grounding: NExT-GQA's ``gsub_*.json`` with gold spans.
        bad: takes the questions without a usable answer; None: such a question is an error.

    Raises:
        DataError: the CSV, the folder, the mapping or the spans cannot be used.
    """
    annotations, videos_dir = Path(annotations), Path(videos_dir)
    paths = read_mapping(Path(mapping) if mapping else None, annotations.parent, videos_dir)
    find = VideoFinder(videos_dir, paths)
    asked = read_rows(Files(annotations, Path(grounding) if grounding else None, split=split))
    return join(asked, find, annotations, bad)


def read_rows(files: Files) -> list[Asked]:
    """The questions of a CSV with ``video`` (or ``video_id``), ``question``, ``answer``, ``qid``,
    ``type`` and, if multiple-choice, ``a0``, ``a1``, ...; ``answer`` is then an index in every row
    or the text of an option in every row.

    Raises:
        DataError: the CSV or the spans cannot be used.
    """
    rows = read_csv(files.annotations, _COLUMNS, STYLE)
    by_index = answers_are_indices([row.cells["answer"] for row in rows])
    gold = _gold(files, rows)
    uses: Counter[tuple[str, str]] = Counter()
    return [_asked(row, files, by_index, gold, uses) for row in rows]


def read_grounded(files: Files) -> list[Asked]:
    """NExT-GQA: as ``read_rows``, with the gold spans of ``gsub_<split>.json`` beside the CSV if
    no other file of them is given; without such a file (train has none) there are no spans."""
    beside = files.annotations.with_name(f"gsub_{files.annotations.stem}.json")
    if files.spans is None and beside.is_file():
        files = replace(files, spans=beside)
    return read_rows(files)


def answers_are_indices(answers: Sequence[str]) -> bool:
    """Whether a file's answers are places of options; decided for the whole file, for a single
    "2" may well be the text of a counting answer."""
    given = [answer for answer in answers if answer]
    return bool(given) and all(answer.isdecimal() for answer in given)


def option_of(
    answer: str, options: tuple[str, ...], by_index: bool
) -> tuple[str, int | None, str | None]:
    """An answer as text and as index, and what is wrong with it."""
    if not answer:
        return answer, None, "answer: empty; every question needs one"
    if by_index:
        index = int(answer)
        if index >= len(options):
            return answer, None, f"answer: {index}: not in 0..{len(options) - 1}"
        return options[index], index, None
    if answer in options:
        return answer, options.index(answer), None
    return answer, None, f"answer: {answer!r}: not one of the options"


def _asked(
    row: Row, files: Files, by_index: bool, gold: dict[str, Any], uses: Counter[tuple[str, str]]
) -> Asked:
    video, number = needed(row, "video", "video_id"), cell(row, "qid")
    names = [f"a{i}" for i in range(len(row.cells)) if f"a{i}" in row.cells]
    options = tuple(row.cells[name] for name in names) or None
    answer, index = row.cells["answer"], None
    fault = None if answer else "answer: empty; every question needs one"
    if options is not None:
        answer, index, fault = option_of(answer, options, by_index)
    uses[video, number] += 1
    # NExT-OE numbers a few questions of a video alike; the second gets a number of its own.
    count = uses[video, number]
    own = number if count == 1 else f"{number}-{count}"
    return Asked(
        row.place,
        video,
        own,
        f"{video}_{own}",
        row.cells["question"],
        answer,
        options,
        index,
        row.cells["type"],
        files.split_name,
        _spans(files.spans, video, number, gold),
        fault,
        f"{video}_{number}" if count > 1 else None,
        {name: whole_number(row, name) for name in ("frame_count", "width", "height")},
    )


def _gold(files: Files, rows: Sequence[Row]) -> dict[str, Any]:
    if files.spans is None:
        return {}
    gold = read_json(files.spans)
    if not gold.keys() & {cell(row, "video", "video_id") for row in rows}:
        raise DataError(
            f"{files.spans}: has spans of none of the videos in {files.annotations}; give those of "
            "the same split"
        )
    return gold


def _spans(path: Path | None, video: str, number: str, gold: dict[str, Any]) -> Spans | None:
    try:
        found = gold.get(video, {}).get("location", {}).get(number)
        return None if found is None else tuple((float(s), float(e)) for s, e in found)
    except (AttributeError, TypeError, ValueError):
        raise DataError(
            f"{path}: spans of question {number} of {video}: not pairs of seconds; give NExT-GQA's "
            "gsub_*.json"
        ) from None
