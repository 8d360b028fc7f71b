"""Where the question was not listened to: questions of one video that get the same span."""

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
    """Questions of a video that get one span, though they are about different moments.

    ``least_iou``: of two of their spans. ``of``: how many questions of the video have a span.
    """

    video: str
    rows: list[Row]
    least_iou: float
    of: int


@dataclass(frozen=True)
class SameSpans:
    """``found``: the largest group of each video that has one, those with the most questions first.

    ``num_videos``: of those asked more than once; ``num_questions``: asked about them;
    ``num_shared``: questions in the groups.
    """

    found: list[SameSpan]
    num_videos: int
    num_questions: int

    @property
    def num_shared(self) -> int:
        return sum(len(each.rows) for each in self.found)


def same_spans(rows: Sequence[Row], seed: int) -> SameSpans:
    """Of each video the largest group of questions of which every two get spans that overlap by
    :data:`SAME` or more, without being about the same moment as far as gold spans tell."""
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in in_drawn_order(rows, seed):
        if row["span"]:
            groups[row["video"]].append(row)
    asked = {video: group for video, group in groups.items() if len(group) > 1}
    found = []
    for video, group in asked.items():
        alike = max((_like(row, group) for row in group), key=len)
        if len(alike) > 1:
            least = _least_iou([row["span"] for row in alike])
            found.append(SameSpan(video, alike, least, len(group)))
    found.sort(key=lambda each: (-len(each.rows), -each.least_iou))
    return SameSpans(found, len(asked), sum(map(len, asked.values())))


def _like(first: Row, group: Sequence[Row]) -> list[Row]:
    """A question, and those that get the same span as it and as each other, in their order; none
    besides it where all of them ask for one moment."""
    alike = [first]
    for row in group:
        if row is not first and all(span_iou(row["span"], o["span"]) >= SAME for o in alike):
            alike.append(row)
    return alike if len(alike) > 1 and _ask_apart(alike) else [first]


def _ask_apart(rows: Sequence[Row]) -> bool:
    """Whether they may be about different moments: where gold spans are not known, they may."""
    gold = [row["gold"] for row in rows]
    if not all(gold):
        return True
    return _least_iou([(min(s for s, _ in g), max(e for _, e in g)) for g in gold]) < SAME


def _least_iou(spans: Sequence[Span]) -> float:
    return min(span_iou(one, other) for one, other in combinations(spans, 2))
