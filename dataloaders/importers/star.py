"""STAR: situated reasoning on Charades, four options a question.

https://github.com/csbobby/STAR_Benchmark: ``STAR_train.json``, ``STAR_val.json``, a list of
questions. Each is about a part of a Charades video, from ``start`` to ``end``.
"""

from __future__ import annotations

from typing import Any

from dataloaders.errors import DataError
from dataloaders.importers.asked import Asked, Files, Spans
from dataloaders.importers.files import read_json

TYPES = ("Interaction", "Sequence", "Prediction", "Feasibility")


def read_rows(files: Files) -> list[Asked]:
    """The questions of a file; ``start`` and ``end`` are the gold span.

    Raises:
        DataError: not such a file. A question without answer (STAR_test.json) is a fault of its
            own.
    """
    path = files.annotations
    items = read_json(path, list, "a list of questions")
    if not items:
        raise DataError(f"{path}: has no questions; give STAR_train.json or STAR_val.json")
    return [_asked(f"{path}[{i}]", item, files.split_name) for i, item in enumerate(items)]


def _asked(place: str, item: Any, split: str | None) -> Asked:
    try:
        key, video, question = item["question_id"], item["video_id"], item["question"]
        # Their order in the file is not that of their numbers everywhere.
        choices = sorted(item["choices"], key=lambda choice: int(choice["choice_id"]))
        options = tuple(str(choice["choice"]) for choice in choices)
        spans = _window(item)
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{place}: not a STAR question ({type(error).__name__}: {error}); give "
            "STAR_train.json or STAR_val.json"
        ) from None
    answer, fault, index = str(item.get("answer") or ""), None, None
    if not answer:
        fault = "answer: empty; every question needs one"
    elif answer not in options:
        fault = f"answer: {answer!r}: not one of the options"
    else:
        index = options.index(answer)
    kind = str(key).split("_")[0]
    return Asked(
        place, str(video), str(key), str(key), str(question), answer, options, index, kind, split,
        spans, fault,
    )  # fmt: skip


def _window(item: dict[str, Any]) -> Spans | None:
    if item.get("start") is None or item.get("end") is None:
        return None
    return ((float(item["start"]), float(item["end"])),)
