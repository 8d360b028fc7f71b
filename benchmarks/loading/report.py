"""The results as Markdown and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from benchmarks.loading.clips import Clip
from benchmarks.loading.decoding import OURS, Decoding
from benchmarks.results import Claim


def markdown(
    claims: Sequence[Claim], result: Decoding, clips: Sequence[Clip], notes: Sequence[str]
) -> str:
    verdicts = {True: "yes", False: "**no**", None: "not measured"}
    lines = ["| what | measured | asked for | met |", "|---|---|---|---|"]
    lines += [f"| {c.what} | {c.measured} | {c.bound} | {verdicts[c.met]} |" for c in claims]
    others = [name for name in result.cpu if name != OURS]
    lines += ["", "CPU-seconds of a clip, ours; then ours / theirs (medians):", ""]
    lines.append(f"| clip | ours | {' | '.join(others)} |")
    lines.append("|---|" + "---|" * (1 + len(others)))
    for clip in clips:
        ratios = [f"{result.ratio(OURS, other, clip.name):.2f}" for other in others]
        own = result.median(OURS, clip.name)
        lines.append(f"| {clip.name} | {own:.3f} | {' | '.join(ratios)} |")
    lines += ["", *[f"- {note}" for note in notes]]
    for name, where in result.other_frames.items():
        lines.append(f"- {name} gives other frames than a sequential decode on: {', '.join(where)}")
    for name, why in result.missing.items():
        lines.append(f"- {name} was left out: {why}")
    return "\n".join(lines) + "\n"


def tree(claims: Sequence[Claim], result: Decoding, notes: Sequence[str]) -> dict[str, Any]:
    return {"claims": [asdict(claim) for claim in claims], "notes": list(notes), **asdict(result)}
