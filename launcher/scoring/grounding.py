"""NExT-GQA: answers to questions whose moment has to be found too.

https://github.com/doc-doc/NExT-GQA/blob/main/code/TempGQA/eval_ground.py and eval_next.py.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dataloaders.importers.asked import Asked
from gcg.metrics import iou_iop
from launcher.errors import UserError
from launcher.scoring.attention import attention_span
from launcher.scoring.files import Given, Pairs, read_json
from launcher.scoring.match import Matched
from launcher.scoring.result import Figure

Span = tuple[float, float]


@dataclass(frozen=True)
class Overlap:
    """The best IoU and IoP of a question's span over its gold segments."""

    iou: float
    iop: float
    right: bool


def figures(overlaps: Sequence[Overlap], answered: bool) -> list[Figure]:
    """The figures of the questions that have a span, in percent with one digit.

    ``answered``: Acc@GQA too, the share that is right with an IoP of at least 0.5.
    """
    count = len(overlaps)
    miou = sum(o.iou for o in overlaps) / count * 100 if count else None
    miop = sum(o.iop for o in overlaps) / count * 100 if count else None

    def share(name: str, hits: int) -> Figure:
        return Figure(name, hits * 1.0 / count * 100 if count else None, count, 1)

    trusted = [share("Acc@GQA", sum(o.right and o.iop >= 0.5 for o in overlaps))]
    return [
        *(trusted if answered else []),
        Figure("mIoP", miop, count, 1),
        share("IoP@0.3", sum(o.iop >= 0.3 for o in overlaps)),
        share("IoP@0.5", sum(o.iop >= 0.5 for o in overlaps)),
        Figure("mIoU", miou, count, 1),
        share("IoU@0.3", sum(o.iou >= 0.3 for o in overlaps)),
        share("IoU@0.5", sum(o.iou >= 0.5 for o in overlaps)),
    ]


def overlaps(
    asked: Sequence[Asked], spans: Mapping[str, Span], right: Sequence[bool]
) -> list[Overlap]:
    """Of each question with gold spans that a span was given for: the others count nowhere."""
    return [
        Overlap(*iou_iop(spans[each.key], each.spans), correct)
        for each, correct in zip(asked, right, strict=True)
        if each.spans and each.key in spans
    ]


def read_durations(path: Path) -> dict[str, float]:
    """Seconds of each video, from ``gsub_*.json``. Raises UserError: not such a file."""
    found = read_json(path)
    try:
        return {video: float(entry.last["duration"]) for video, entry in found}
    except (AttributeError, KeyError, TypeError, ValueError):
        raise UserError(f"{path}: has no duration of each video; give gsub_*.json") from None


def spans_of(
    asked: Sequence[Asked], matched: Matched, durations: Mapping[str, float] | None = None
) -> dict[str, Span]:
    """Seconds by question key from a file of spans: [start, end] each, the first and the last of
    longer lists (SeViLA's ``location`` is of all frames).

    ``durations``: the file has shares of the video instead (Gaussian masks); they are multiplied
    and rounded to 0.1 s as in the benchmark's code. Raises UserError: a span is none.
    """
    found = {}
    for each in asked:
        given = matched.of(each)
        if given is None:
            continue
        numbers = _numbers(given, each.key, "span", least=2)
        start, end = numbers[0], numbers[-1]
        if durations is not None:
            start, end = np.round(np.asarray([start, end]) * durations[each.video], 1).tolist()
        found[each.key] = (start, end)
    return found


def weighted_spans(
    asked: Sequence[Asked], matched: Matched, times: Mapping[str, Any]
) -> tuple[dict[str, Span], list[str]]:
    """Seconds by question key from a file of weights (``attention_span``), and notes.

    ``times`` are the seconds of each video's frames, ``frame2time_*.json``.

    Raises:
        UserError: weights that are none, or a video without as many times as there are weights.
    """
    found, longer = {}, 0
    for each in asked:
        given = matched.of(each)
        if given is None:
            continue
        weights = _numbers(given, each.key, "weights", least=1)
        seconds = _times(times.get(each.video))
        count = len(seconds)
        if count < len(weights):
            raise UserError(
                f"--frame-times: {each.video}: {count} times for {len(weights)} weights of "
                f"{each.key}; give the file of the same split"
            )
        longer += count > len(weights)
        found[each.key] = attention_span(weights, seconds)
    note = f"{longer} questions have fewer weights than frame times: the first times are theirs"
    return found, [note] if longer else []


def merged(spans: Mapping[str, Span], others: Mapping[str, Span]) -> dict[str, Span]:
    """What two spans of a question have in common; the second where they have nothing, or where
    there is no first (``combine`` of the benchmark's code, Gaussian mask first)."""
    found = dict(others)
    for key, (start, end) in spans.items():
        if key in others:
            both = max(start, others[key][0]), min(end, others[key][1])
            found[key] = both if both[0] <= both[1] else others[key]
    return found


def _times(value: Any) -> list[float]:
    """A list of seconds; nothing where it is none."""
    numbers = isinstance(value, list) and all(isinstance(n, int | float) for n in value)
    return value if numbers and all(map(math.isfinite, value)) else []


def _numbers(given: Given, key: str, what: str, least: int) -> list[float]:
    value = given.value
    numbers = [value] if isinstance(value, int | float) and least == 1 else value
    if (
        not isinstance(numbers, list)
        or isinstance(numbers, Pairs)
        or len(numbers) < least
        or any(isinstance(n, bool) or not isinstance(n, int | float) for n in numbers)
        or not all(math.isfinite(n) for n in numbers)
    ):
        raise UserError(
            f"{what} of {key}: {str(value)[:40]}: not a list of at least {least} numbers; correct "
            "the file"
        )
    return [float(n) for n in numbers]


def read_times(path: Path) -> dict[str, Any]:
    """Frame times by video. Raises UserError: not an object of lists."""
    found = read_json(path)
    if not isinstance(found, Pairs):
        raise UserError(f"{path}: not an object of lists by video; give frame2time_*.json")
    return found.last


def write_spans(path: Path, spans: Mapping[str, Span]) -> None:
    """Write spans in the benchmark's form, {"<video>_<question>": [start, end]}."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({key: list(span) for key, span in spans.items()}) + "\n")
    except OSError as error:
        raise UserError(f"--write-spans {path}: {error.strerror}; name another file") from None
