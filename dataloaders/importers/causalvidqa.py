"""Causal-VidQA: six questions a video, two of them asked in two steps (an answer, its reason).

https://github.com/bcmi/Causal-VidQA: a folder for each video with ``text.json`` (questions and five
choices each) and ``answer.json`` (the right places); splits are pickled lists of videos.
"""

from __future__ import annotations

import io
import json
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dataloaders.errors import DataError
from dataloaders.importers.asked import Asked, Files
from dataloaders.importers.files import read_json

# In the order of the benchmark's numbers, which end the ids of its result files: <video>_3 is a
# video's predictive reason. The type's name, and where question and choices stand.
KINDS = (
    ("description", "descriptive", "answer"),
    ("explanation", "explanatory", "answer"),
    ("predictive-answer", "predictive", "answer"),
    ("predictive-reason", "predictive", "reason"),
    ("counterfactual-answer", "counterfactual", "answer"),
    ("counterfactual-reason", "counterfactual", "reason"),
)


def read_rows(files: Files) -> list[Asked]:
    """The questions of every video in a folder, or of those that ``files.ids`` lists.

    The question of a reason is that of its answer, as in the benchmark's own code; each is a
    question of its own here, with id 0 to 5 (see ``KINDS``).

    Raises:
        DataError: no such folder, none of the listed videos, or a file without what it needs.
    """
    folder = files.annotations
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; give the one that holds <video>/text.json")
    if files.ids is not None:
        videos = read_ids(files.ids)
    else:
        videos = sorted(path.parent.name for path in folder.glob("*/text.json"))
    if not videos:
        raise DataError(f"{files.ids or folder}: has no videos; give those of one split")
    return [each for video in videos for each in _of_video(folder / video, files.split_name)]


def read_ids(path: Path) -> list[str]:
    """A list of videos: JSON, lines of text, or a pickle of nothing but texts in a list.

    Raises:
        DataError: none of these.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); give a split") from None
    try:
        if path.suffix in (".pkl", ".pickle"):
            found = _Unpickler(io.BytesIO(data)).load()
        elif path.suffix == ".json":
            found = json.loads(data)
        else:
            found = data.decode("utf-8").split()
    except Exception as error:  # a pickle of anything can raise anything
        raise DataError(f"{path}: not a list of videos ({error}); give JSON or text") from None
    if not isinstance(found, list | tuple) or any(not isinstance(v, str) for v in found):
        raise DataError(f"{path}: not a list of texts; give the videos of one split")
    if any("/" in video or video in ("", ".", "..") for video in found):
        raise DataError(f"{path}: a name in it is a path; give names of videos")
    return list(found)


class _Unpickler(pickle.Unpickler):
    """Loads lists and texts and refuses to look up any class: a pickle from elsewhere runs code."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it names {module}.{name}, which is not loaded")


def _of_video(folder: Path, split: str | None) -> list[Asked]:
    texts, answers = read_json(folder / "text.json"), read_json(folder / "answer.json")
    found = []
    for number, (name, group, part) in enumerate(KINDS):
        place = f"{folder / 'text.json'}: {group}.{part}"
        question, options = _text(texts, group, "question"), _text(texts, group, part)
        index = _text(answers, group, part)
        if not isinstance(question, str) or not _is_texts(options):
            raise DataError(f"{place}: no question with a list of choices; get the file again")
        fault = None
        if not isinstance(index, int) or not 0 <= index < len(options):
            fault = f"answer: {index}: not in 0..{len(options) - 1}"
        found.append(
            Asked(
                place,
                folder.name,
                str(number),
                f"{folder.name}_{number}",
                question,
                "" if fault else options[index],
                tuple(options),
                None if fault else index,
                name,
                split,
                fault=fault,
            )
        )
    return found


def _text(value: Any, group: str, part: str) -> Any:
    inner = value.get(group)
    return inner.get(part) if isinstance(inner, dict) else None


def _is_texts(value: Any) -> bool:
    return isinstance(value, Sequence) and bool(value) and all(isinstance(v, str) for v in value)
