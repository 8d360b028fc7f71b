"""From weights of frames to a time span, as NExT-GQA's own code does it for weights of attention.

https://github.com/doc-doc/NExT-GQA/blob/main/code/TempGQA/tools/getspan.py (``find_seg_ada``). The
span that `gcg eval` reports is another one (``gcg.metrics.span_of_weights``).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_REACH_S = 10.0  # a weight counts half at this distance from the heaviest frame
_ABOVE_MEAN = 0.3


def attention_span(weights: Sequence[float], times: Sequence[float]) -> tuple[float, float]:
    """The seconds from the earliest to the latest frame that belongs to the heaviest one.

    Weights are stretched to 0..1. From the heaviest frame a walk goes to the left, where it never
    reaches the first frame, and one to the right. A frame belongs if its weight, divided by
    ``1 + distance / 10 s``, is at least 1.3 times the mean; at one that does not and is more than
    10 s away the walk ends.

    Args:
        weights: one a frame, T of them.
        times: in seconds; the first T are those of the frames.
    """
    values = np.asarray(weights, dtype=np.float64)
    values = (values - np.min(values)) / (np.max(values) - np.min(values) + 1e-12)
    peak = int(np.argmax(values))
    mean = np.mean(values)
    threshold = mean + _ABOVE_MEAN * mean
    inside = [peak]
    for way in (range(peak - 1, 0, -1), range(peak + 1, len(values))):
        for frame in way:
            distance = abs(times[peak] - times[frame])
            if values[frame] / (1 + distance / _REACH_S) >= threshold:
                inside.append(frame)
            elif distance > _REACH_S:
                break
    return float(times[min(inside)]), float(times[max(inside)])
