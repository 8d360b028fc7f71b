"""Where a question was looked for: its weight curve over the clip, as SVG text.

The chart is as wide as the page lets it be, so its lines do not scale with it. Frame t of T stands
for the t-th of T equal parts of the clip, as for :func:`gcg.metrics.span_of_weights`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from launcher.evaluation.rows import Header, Row

WIDTH, HEIGHT = 1000.0, 100.0
_TOP, _FOOT = 6.0, 90.0  # where weights 1 and 0 are; below lies the predicted span
_STEPS = 120


def timeline(row: Row, header: Header, words: str) -> str:
    """The weights, Gaussians, gold and predicted span, pseudo-labels and chosen frames of a row.

    Args:
        words: what the chart shows, for those who do not see it.
    """
    weights, duration = row["weights"], row["duration"]
    parts = [_rect(frame, frame + 1, "chosen", len(weights)) for frame in row["selected"]]
    if duration:
        parts += [_span(gold, duration, "gold", 0, HEIGHT) for gold in row["gold"] or []]
        if row["span"]:
            parts.append(_span(row["span"], duration, "predicted", _FOOT + 3, HEIGHT - _FOOT - 3))
    parts += [_upright((frame + 0.5) / len(weights)) for frame in row["moments"] or []]
    parts += [_line(points, "gaussian") for points in gaussians(row["centers"], header)]
    parts.append(curve(weights))
    return _svg(parts, words)


def overlaid(rows: Sequence[Row], words: str) -> str:
    """The weight curves of several questions of one video."""
    return _svg([curve(row["weights"]) for row in rows], words)


def curve(weights: Sequence[float]) -> str:
    """A line through the weights (T,) in [0, 1], level before the first frame's middle and after
    the last's."""
    inner = [((t + 0.5) / len(weights), weight) for t, weight in enumerate(weights)]
    return _line([(0.0, weights[0]), *inner, (1.0, weights[-1])], "weights")


def gaussians(centers: Sequence[float], header: Header) -> list[list[tuple[float, float]]]:
    """The K Gaussians as points (part of the clip, height), each as high as it is in the mixture,
    whose highest frame has weight 1."""
    grid, sigma = header.grid, header.sigma
    if not centers or len(grid) < 2:
        return []

    def bell(x: float, center: float) -> float:
        return math.exp(-0.5 * ((x - center) / sigma) ** 2)

    # Before any part of it underflows: sigma may be far below the distance of two frames.
    highest = max(sum(bell(x, center) for center in centers) for x in grid) or 1.0
    step = (grid[-1] - grid[0]) / (len(grid) - 1)
    found = []
    for center in centers:
        points = []
        for k in range(-_STEPS // 2, _STEPS // 2 + 1):
            x = center + 4 * sigma * k / (_STEPS // 2)
            part = ((x - grid[0]) / step + 0.5) / len(grid)
            if 0 <= part <= 1:
                points.append((part, min(1.0, bell(x, center) / highest)))
        found.append(points)
    return [points for points in found if len(points) > 1]


def _span(ends: Sequence[float], duration: float, name: str, top: float, height: float) -> str:
    start, end = (min(max(second / duration, 0.0), 1.0) * WIDTH for second in ends)
    return (
        f'<rect class="{name}" x="{start:.1f}" y="{top:g}" width="{max(end - start, 1.0):.1f}" '
        f'height="{height:g}"/>'
    )


def _rect(start: float, end: float, name: str, parts: int) -> str:
    x, width = start / parts * WIDTH, (end - start) / parts * WIDTH
    return f'<rect class="{name}" x="{x:.1f}" y="0" width="{width:.1f}" height="{_FOOT:g}"/>'


def _upright(part: float) -> str:
    x = part * WIDTH
    return f'<line class="label" x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{_FOOT:g}"/>'


def _line(points: Sequence[tuple[float, float]], name: str) -> str:
    path = " ".join(
        f"{part * WIDTH:.1f},{_FOOT - min(max(height, 0.0), 1.0) * (_FOOT - _TOP):.1f}"
        for part, height in points
    )
    return f'<polyline class="{name}" points="{path}"/>'


def _svg(parts: Sequence[str], words: str) -> str:
    foot = f'<line class="foot" x1="0" x2="{WIDTH:g}" y1="{_FOOT:g}" y2="{_FOOT:g}"/>'
    return (
        f'<svg class="timeline" viewBox="0 0 {WIDTH:g} {HEIGHT:g}" preserveAspectRatio="none" '
        f'role="img" aria-label="{escape(words)}">{"".join(parts)}{foot}</svg>'
    )


def whisker(value: float, ends: Sequence[float], words: str) -> str:
    """A share in [0, 1] and its interval on a line from 0 to 1."""
    low, high, middle = (100 * min(max(each, 0.0), 1.0) for each in (*ends, value))
    return (
        f'<svg class="whisker" viewBox="0 0 100 10" preserveAspectRatio="none" role="img" '
        f'aria-label="{escape(words)}"><rect class="track" x="0" y="4.5" width="100" height="1"/>'
        f'<rect class="ends" x="{low:.2f}" y="3" width="{max(high - low, 0.4):.2f}" height="4"/>'
        f'<rect class="value" x="{max(middle - 0.4, 0):.2f}" y="0" width="0.8" height="10"/></svg>'
    )
