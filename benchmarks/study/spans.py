"""From frame weights to a span, and what a set of predicted spans is worth.

Q = questions, T = frames; a span is (start, end) in seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.study.features import Question
from gcg.metrics import Span, iou_iop, random_window_iop, span_iou, span_of_weights

Extract = Callable[[npt.NDArray[np.float64], float], Span]


def benchmark_span(
    weights_T: npt.NDArray[np.float64],
    duration: float,
    times_T: npt.NDArray[np.float64] | None = None,
) -> Span:
    """NExT-GQA's own extraction from frame weights.

    Weights are min-max normalised; from the heaviest frame the walk goes left (frame 0 itself is
    never reached) and right; a frame joins when its weight, divided by 1 + distance / 10 s, is at
    least 1.3 times the mean; the walk ends at a frame that fails more than 10 s away.
    ``times_T``: the frames' seconds; by default the middles of T equal parts of the clip.
    """
    times = times_T
    if times is None:
        times = (np.arange(len(weights_T)) + 0.5) / len(weights_T) * duration
    low, high = weights_T.min(), weights_T.max()
    if high <= low:
        return 0.0, duration
    scaled = (weights_T - low) / (high - low)
    peak, enough = int(scaled.argmax()), 1.3 * scaled.mean()
    joined = [peak]
    for frame in range(peak - 1, 0, -1), range(peak + 1, len(scaled)):
        for t in frame:
            away = abs(times[t] - times[peak])
            if scaled[t] / (1 + away / 10) >= enough:
                joined.append(t)
            elif away > 10:
                break
    return float(times[min(joined)]), float(times[max(joined)])


def half_height_span(weights_T: npt.NDArray[np.float64], duration: float) -> Span:
    """``gcg.metrics.span_of_weights``: the run of frames around the peak, down to half of it."""
    return span_of_weights(weights_T.tolist(), duration)


def window_span(seconds: float | None = None, share: float = 0.5) -> Extract:
    """The window of so many seconds, at most ``share`` of the clip, that holds the most weight.

    Without ``seconds`` it is that share. Of equals the first.
    """

    def extract(weights_T: npt.NDArray[np.float64], duration: float) -> Span:
        num_frames = len(weights_T)
        part = duration / num_frames
        most = max(1, round(share * num_frames))
        few = most if seconds is None else min(max(1, round(seconds / part)), most)
        first = int(np.convolve(weights_T, np.ones(few), mode="valid").argmax())
        return first * part, (first + few) * part

    return extract


EXTRACTIONS: dict[str, Extract] = {
    "benchmark": benchmark_span,
    "half height": half_height_span,
    "window 4 s": window_span(4.0),
    "window 6 s": window_span(6.0),
    "window 25 %": window_span(share=0.25),
}


@dataclass(frozen=True)
class Grounding:
    """Shares in per cent; ``random`` is the mIoP of windows of the same lengths anywhere in the
    clip, ``length`` the spans' mean share of it, ``overlap`` the mean IoU of the spans predicted
    for two questions of one video. ``acc_gqa`` counts IoP >= 0.5 with a right answer."""

    miop: float
    iop50: float
    miou: float
    iou50: float
    random: float
    length: float
    overlap: float
    accuracy: float
    acc_gqa: float


def judge(
    questions: Sequence[Question],
    durations: Sequence[float],
    spans: Sequence[Span],
    right: npt.NDArray[np.bool_],
    *,
    with_random: bool = True,
) -> Grounding:
    """Measure the spans, one a question, each question with its clip's duration."""
    both = np.array([iou_iop(s, q.spans) for q, s in zip(questions, spans, strict=True)])
    iou, iop = both[:, 0], both[:, 1]
    lengths = np.array([s[1] - s[0] for s in spans])
    rows = zip(questions, durations, lengths, strict=True)
    chance = [random_window_iop(n, d, q.spans) for q, d, n in rows] if with_random else [np.nan]
    by_video: dict[int, list[Span]] = {}
    for question, span in zip(questions, spans, strict=True):
        by_video.setdefault(question.video, []).append(span)
    overlaps = [span_iou(a, b) for some in by_video.values() for a, b in combinations(some, 2)]

    def percent(values: Sequence[float] | npt.NDArray[Any]) -> float:
        return round(100 * float(np.mean(values)), 2)

    return Grounding(
        miop=percent(iop),
        iop50=percent(iop >= 0.5),
        miou=percent(iou),
        iou50=percent(iou >= 0.5),
        random=percent(chance),
        length=percent(lengths / np.asarray(durations)),
        overlap=percent(overlaps),
        accuracy=percent(right),
        acc_gqa=percent(right & (iop >= 0.5)),
    )
