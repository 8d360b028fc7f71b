"""What a model said, for a terminal."""

from __future__ import annotations

import math

from launcher.predict.predictor import Said


def clock(seconds: float) -> str:
    """Seconds as a time stamp: 1:02.5, or 1:00:02.5 from an hour on.

    >>> clock(62.54), clock(3602.5)
    ('1:02.5', '1:00:02.5')
    """
    tenths = math.floor(10 * max(seconds, 0.0) + 0.5)
    hours, rest = divmod(tenths, 36_000)
    minutes, rest = divmod(rest, 600)
    text = f"{minutes:02}" if hours else f"{minutes}"
    return f"{f'{hours}:' if hours else ''}{text}:{rest // 10:02}.{rest % 10}"


def shown(said: Said) -> str:
    """A few lines: answer, confidence, moment, the frames it was answered from, options."""
    found, times = said.prediction, said.clip.times
    options = said.asked.query.options
    how = f"among {len(options)} options" if options else "mean probability of its words"
    lines = [f"answer      {found.answer}", f"confidence  {found.confidence:.2f}  ({how})"]
    if found.span is not None:
        start, end = (clock(each) for each in found.span)
        lines.append(f"moment      {start} to {end} of {clock(said.clip.duration)}")
    lines.append(f"frames at   {', '.join(clock(times[i]) for i in found.selected)}")
    if options is not None and found.probabilities is not None:
        order = sorted(zip(found.probabilities, options, strict=True), reverse=True)
        lines += [
            f"{'options     ' if i == 0 else ' ' * 12}{chance:.2f}  {option}"
            for i, (chance, option) in enumerate(order)
        ]
    return "\n".join(lines)
