"""Where the question was not listened to: videos whose questions all get the same span."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from gcg.metrics import Span, span_iou
from launcher.evaluation.rows import Row
from launcher.report.examples import in_drawn_order

# Spans that overlap by this IoU or more are called the same.
SAME = 0.9


@dataclass(frozen=True)
class SameSpan:
    """A video, its questions that have a span, and the least IoU of two of their spans."""

    video: str
    rows: list[Row]
    least_iou: float


@dataclass(frozen=True)
class SameSpans:
    """``found``: the most questions first; ``num_videos``: how many could have been among them."""

    found: list[SameSpan]
    num_videos: int


def same_spans(rows: Sequence[Row], seed: int) -> SameSpans:
    """The videos of which every two questions get spans that overlap by :data:`SAME` or more.

    Only videos with two questions or more that are *about* different moments count: where all gold
    spans are the same, so may the predicted ones be.
    """
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in in_drawn_order(rows, seed):
        if row["span"]:
            groups[row["video"]].append(row)
    could = {video: group for video, group in groups.items() if _differ(group)}
    found = [
        SameSpan(video, group, least)
        for video, group in could.items()
        if (least := _least_iou([row["span"] for row in group])) >= SAME
    ]
    found.sort(key=lambda each: (-len(each.rows), -each.least_iou))
    return SameSpans(found, len(could))


def _differ(group: Sequence[Row]) -> bool:
    """Whether the questions of a video may ask for different spans, as far as that is known."""
    if len(group) < 2:
        return False
    gold = [row["gold"] for row in group]
    if not all(gold):
        return True
    ends = [(min(s for s, _ in spans), max(e for _, e in spans)) for spans in gold]
    return _least_iou(ends) < SAME


def _least_iou(spans: Sequence[Span]) -> float:
    return min(span_iou(one, other) for one, other in combinations(spans, 2))
