"""Charts as SVG text, for a page that needs no network: lines over steps, and a bar of parts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

WIDTH, HEIGHT = 640, 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 10, 10, 26
_MOST_POINTS = 400
# Told apart by most eyes, on white and on black (Okabe and Ito 2008; wine for its black).
COLOURS = (
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f", "#882255",
    "#f0e442", "#999933",
)  # fmt: skip

Points = Sequence[tuple[float, float]]


def lines(series: Mapping[str, Points], words: str) -> str:
    """A chart of (x, y) points by name, x rising, all y finite; a note where there is no point.

    Args:
        words: what the chart shows, for those who do not see it.
    """
    drawn = {name: thinned(points) for name, points in series.items() if points}
    if not drawn:
        return f"<p>{escape(words)}: nothing logged yet.</p>"
    everything = [point for points in drawn.values() for point in points]
    xs, ys = zip(*everything, strict=True)
    x_low, x_high, ticks = min(xs), max(xs), _ticks(min(0.0, *ys), max(ys))
    y_low, y_high = ticks[0], ticks[-1]

    def at(x: float, y: float) -> tuple[float, float]:
        across = (x - x_low) / (x_high - x_low) if x_high > x_low else 0.5
        up = (y - y_low) / (y_high - y_low)
        return (
            _LEFT + across * (WIDTH - _LEFT - _RIGHT),
            HEIGHT - _BOTTOM - up * (HEIGHT - _TOP - _BOTTOM),
        )

    parts = [_grid(at(x_low, tick)[1], tick) for tick in ticks]
    parts += [
        _text(_LEFT, HEIGHT - 8, f"{x_low:g}", "start"),
        _text(WIDTH - _RIGHT, HEIGHT - 8, f"step {x_high:g}", "end"),
    ]
    for points, colour in zip(drawn.values(), COLOURS, strict=False):
        parts.append(_line([at(*point) for point in points], colour))
    chart = (
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(words)}">{"".join(parts)}</svg>'
    )
    return chart + legend(list(drawn))


def bar(parts: Mapping[str, float], words: str) -> str:
    """One bar, each part as long as its share of the sum; nothing below 0."""
    total = sum(parts.values())
    if total <= 0:
        return f"<p>{escape(words)}: no time has passed yet.</p>"
    pieces, left = [], 0.0
    for number, (name, value) in enumerate(parts.items()):
        width = WIDTH * value / total
        tip = escape(f"{name}: {100 * value / total:.1f} %")
        colour = COLOURS[number % len(COLOURS)]
        pieces.append(
            f'<rect x="{left:.2f}" y="0" width="{width:.2f}" height="28" fill="{colour}">'
            f"<title>{tip}</title></rect>"
        )
        left += width
    return (
        f'<svg viewBox="0 0 {WIDTH} 28" role="img" aria-label="{escape(words)}">'
        f"{''.join(pieces)}</svg>"
    )


def legend(names: Sequence[str]) -> str:
    """Which colour is whose, in the order of the series."""
    items = (
        f'<span><i style="background:{colour}"></i>{escape(name)}</span>'
        for name, colour in zip(names, COLOURS, strict=False)
    )
    return f'<p class="legend">{"".join(items)}</p>'


def thinned(points: Points) -> list[tuple[float, float]]:
    """At most a few hundred points: of each stretch the lowest and the highest, so peaks stay."""
    if len(points) <= _MOST_POINTS:
        return list(points)
    size = math.ceil(len(points) / (_MOST_POINTS / 2))
    kept: list[tuple[float, float]] = []
    for start in range(0, len(points), size):
        stretch = points[start : start + size]
        ends = {min(stretch, key=lambda p: p[1]), max(stretch, key=lambda p: p[1])}
        kept += sorted(ends)
    return kept


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers from at most ``low`` to at least ``high``, three to six of them."""
    spread = high - low or abs(high) or 1.0
    unit = 10.0 ** math.floor(math.log10(spread / 4))
    step = next(unit * k for k in (1, 2, 5, 10) if unit * k * 5 >= spread)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [number * step for number in range(first, max(last, first + 1) + 1)]


def _grid(y: float, value: float) -> str:
    line = f'<line x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" class="grid"/>'
    return line + _text(_LEFT - 6, y + 4, f"{value:.4g}", "end")


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _line(points: Sequence[tuple[float, float]], colour: str) -> str:
    if len(points) == 1:
        ((x, y),) = points
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>'
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.5"/>'
