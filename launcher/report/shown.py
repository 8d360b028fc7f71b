"""The examples and failures of an evaluation, as a page's templates want them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from dataloaders.errors import DataError, StorageError
from gcg.metrics import iou_iop
from launcher.config import load_run_config
from launcher.config.data import TrainSet
from launcher.errors import UserError
from launcher.evaluation.rows import Header, Row
from launcher.report.clips import Clips, Strip
from launcher.report.evaluation import Evaluated, Evaluation
from launcher.report.examples import choose_examples
from launcher.report.failures import SAME, SameSpan, same_spans
from launcher.report.timeline import overlaid, timeline
from launcher.report.words import between

# Of the strip: an image or None, seconds, weight; whether chosen, labelled, in a gold span.
Frame = dict[str, Any]
_MOST_QUESTIONS = 12


@dataclass(frozen=True)
class Shown:
    """``groups``: of examples by name. ``failures``: questions of a video that get one span, with
    how many there are of how many. ``note``: why no clip can be shown; ``image_bytes``: of all film
    strips as text."""

    groups: dict[str, list[dict[str, Any]]]
    failures: dict[str, Any]
    note: str
    image_bytes: int


def show(evaluation: Evaluation, count: int) -> Shown | None:
    """Examples with film strips; None where the run has no rows.

    Args:
        count: examples a group, and videos of the failure view.
    """
    own = evaluation.own
    if own is None:
        return None
    header, asked = own.found.header, own.found.asked
    groups = choose_examples(asked, header.seed, count)
    same = same_spans(asked, header.seed)
    listed = same.found[:count]
    videos = [row["video"] for rows in groups.values() for row in rows]
    videos += [each.video for each in listed]
    with ExitStack() as opened:
        clips, note = _open(own, videos, opened)
        strips = {
            video: Strip([], note) if clips is None else clips.film_strip(video, times)
            for video, times in Counter(videos).items()
        }
        others = _answers(evaluation.others)
        return Shown(
            groups={
                name: [
                    example(row, own.found.header, own.name, strips[row["video"]], others)
                    for row in rows
                ]
                for name, rows in groups.items()
            },
            failures={
                "same": SAME,
                "count": len(same.found),
                "of": same.num_videos,
                "shared": same.num_shared,
                "questions": same.num_questions,
                "videos": [_failure(each, strips[each.video]) for each in listed],
            },
            note=note,
            image_bytes=sum(sum(map(len, strips[video].images)) for video in videos),
        )


def _open(own: Evaluated, videos: list[str], opened: ExitStack) -> tuple[Clips | None, str]:
    """The clips of the split, or why they cannot be shown. The rows are shown without."""
    from launcher.training.data import open_set

    header = own.found.header
    try:
        config = load_run_config(own.root / "config.yaml")
        source = opened.enter_context(open_set(config, TrainSet(place=header.data)))
        if source.fingerprint != header.fingerprint:
            return None, f"{header.data}: holds other clips than those that were asked about"
        clips = Clips(source, len(header.grid), len(videos))
        clips.find(set(videos))
    except UserError as error:
        return None, error.lines[0]
    except (DataError, StorageError) as error:
        return None, str(error)
    return clips, ""


def _answers(others: Sequence[Evaluated]) -> dict[str, dict[tuple[str, str], Row]]:
    return {
        each.name: {(row["video"], row["question"]): row for row in each.found.asked}
        for each in others
    }


def example(
    row: Row, header: Header, name: str, strip: Strip, others: dict[str, dict[tuple[str, str], Row]]
) -> dict[str, Any]:
    """A row as the template wants it; ``others``: what other runs answered."""
    key = (row["video"], row["question"])
    chart = timeline(row, header, f"weights of the frames, {name}")
    return {
        "row": row,
        "chart": Markup(chart),
        "frames": _frames(row, strip),
        "why": strip.why,
        "options": _options(row),
        "facts": _facts(row),
        "others": [
            {"name": name, "predicted": rows[key]["predicted"], "correct": rows[key]["correct"]}
            for name, rows in others.items()
            if key in rows
        ],
    }


def _frames(row: Row, strip: Strip) -> list[Frame]:
    chosen, labels = set(row["selected"]), set(row["moments"] or [])
    return [
        {
            "image": strip.images[t] if strip.images else None,
            "time": time,
            "weight": weight,
            "chosen": t in chosen,
            "label": t in labels,
            "gold": any(start <= time <= end for start, end in row["gold"] or []),
        }
        for t, (time, weight) in enumerate(zip(row["times"], row["weights"], strict=True))
    ]


def _options(row: Row) -> list[dict[str, Any]]:
    """Each option with its probability among them."""
    options, scores = row["options"] or [], row["scores"]
    shares: list[float | None] = [None] * len(options)
    if scores:
        parts = [math.exp(score - max(scores)) for score in scores]
        shares = [part / sum(parts) for part in parts]
    chosen, right = row["choice"], row["answer_index"]  # two options may have one text
    return [
        {"text": text, "share": share, "chosen": k == chosen, "right": k == right}
        for k, (text, share) in enumerate(zip(options, shares, strict=True))
    ]


def _facts(row: Row) -> list[tuple[str, str]]:
    facts = [("chosen frames at", seconds([row["times"][t] for t in row["selected"]]))]
    if row["moments"]:
        facts.append(("pseudo-labels at", seconds([row["times"][t] for t in row["moments"]])))
    if row["span"]:
        facts.append(("span looked at", between(row["span"])))
    if row["gold"]:
        facts.append(("gold span", ", ".join(between(gold) for gold in row["gold"])))
        if row["span"]:
            iou, iop = iou_iop(row["span"], row["gold"])
            facts.append(("IoP, IoU", f"{iop:.2f}, {iou:.2f}"))
    return facts


def seconds(times: Sequence[float]) -> str:
    return ", ".join(f"{time:.1f}" for time in times) + " s"


def _failure(each: SameSpan, strip: Strip) -> dict[str, Any]:
    rows = each.rows[:_MOST_QUESTIONS]
    plain = {**rows[0], "selected": [], "moments": [], "gold": []}
    return {
        "video": each.video,
        "least_iou": each.least_iou,
        "num_questions": len(each.rows),
        "of": each.of,
        "chart": Markup(overlaid(rows, "weights of the frames, a line a question")),
        "frames": _frames(plain, strip),
        "why": strip.why,
        "questions": [
            [
                row["text"],
                between(row["span"]),
                ", ".join(between(gold) for gold in row["gold"] or []) or "–",
                f"{iou_iop(row['span'], row['gold'])[0]:.2f}" if row["gold"] else "–",
                "right" if row["correct"] else "wrong",
            ]
            for row in rows
        ],
    }
