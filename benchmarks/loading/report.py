"""What the loader's benchmark found, in the form of all benchmarks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from benchmarks.loading.clips import Clip
from benchmarks.loading.decoding import OURS, Decoding
from benchmarks.results import Claim, Result, Table


def summary(
    claims: Sequence[Claim], found: Decoding, clips: Sequence[Clip], notes: Sequence[str]
) -> Result:
    """Claims, and a table of each clip's CPU-seconds with the ratios to every contender."""
    others = [name for name in found.cpu if name != OURS]
    rows = []
    for clip in clips:
        ratios = [f"{found.ratio(OURS, other, clip.name):.2f}" for other in others]
        rows.append((clip.name, f"{found.median(OURS, clip.name):.3f}", *ratios))
    told = [
        *notes,
        *(
            f"{name} gives other frames than a sequential decode on: {', '.join(where)}"
            for name, where in found.other_frames.items()
        ),
        *(f"{name} was left out: {why}" for name, why in found.missing.items()),
    ]
    title = "CPU-seconds of a clip, ours; then ours / theirs (medians)"
    return Result(
        title="The loader against others",
        claims=tuple(claims),
        tables=(Table(title, ("clip", "ours", *others), tuple(rows)),),
        notes=tuple(told),
        data=asdict(found),
    )
