"""Our own loader against what is asked of it, in rounds; each claim with its bound and verdict."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

from benchmarks.loading.child import Child
from benchmarks.loading.clips import Clip
from benchmarks.loading.decoding import OURS, REFERENCE, Decoding
from benchmarks.loading.own import QUESTIONS, THREADS, pack
from benchmarks.results import Claim

RESUMED = (10, 1_000_000)


def decoding_claims(result: Decoding, clips: Sequence[Clip]) -> list[Claim]:
    names = [clip.name for clip in clips]
    claims = []
    for other in sorted({*result.cpu, *result.missing} - {OURS}):
        bound = 0.85 if other == REFERENCE else 1.0
        what = f"CPU of a clip, ours / {other}, geometric mean"
        if other in result.missing:
            claims.append(Claim(what, f"left out: {result.missing[other]}", f"≤ {bound}", None))
            continue
        ratios = [result.ratio(OURS, other, name) for name in names]
        mean = statistics.geometric_mean(ratios)
        text = f"{mean:.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        claims.append(Claim(what, text, f"≤ {bound}", mean <= bound))
    return claims


def length_claim(result: Decoding, short: Clip, long: Clip) -> Claim:
    ratio = result.median(OURS, long.name) / result.median(OURS, short.name)
    what = f"CPU of `{long.name}` / `{short.name}`"
    return Claim(what, f"{ratio:.2f}", "≤ 1.7", ratio <= 1.7)


def loader_claims(
    mixed: Sequence[Clip], alike: Clip, work: Path, *, rounds: int, num_frames: int, steps: int
) -> list[Claim]:
    """Overhead on clips of all kinds; the rest on copies of one, whose visits cost the same."""
    pack(list(mixed), 4, work / "mixed")
    pack([alike], 32, work / "alike")
    claims = [_overhead(work / "mixed", rounds, num_frames, steps)]
    claims.append(_memory(work / "alike", num_frames))
    claims.append(_questions(work / "alike", rounds, num_frames, steps))
    claims.append(_resume(work / "alike", rounds, num_frames))
    return claims


def _overhead(folder: Path, rounds: int, num_frames: int, steps: int) -> Claim:
    child = _own(folder)
    loop = {"action": "loop", "questions_per_visit": QUESTIONS, "num_frames": num_frames}
    bare = {"action": "bare", "num_frames": num_frames, "steps": steps}
    ratios = []
    for request in (loop | {"steps": 1}, bare):
        child.ask(**request)  # both are warm then
    for number in range(2 * rounds):
        pair = [loop | {"steps": steps}, bare]
        answers = [child.ask(**request) for request in (pair if number % 2 else pair[::-1])]
        loaded, plain = answers if number % 2 else answers[::-1]
        assert loaded["visits"] == plain["visits"], (loaded, plain)
        ratios.append(loaded["cpu"] / plain["cpu"])
    child.close()
    ratio = statistics.median(ratios)
    return Claim(
        "CPU of the loader / bare decode and resize of the same frames",
        f"{ratio:.3f} ({min(ratios):.3f} to {max(ratios):.3f})",
        "≤ 1.05",
        ratio <= 1.05,
    )


def _memory(folder: Path, num_frames: int) -> Claim:
    """How much the peak grows for three more steps of prefetch, against the pixels of three."""
    found = {}
    for depth in (1, 4):
        child = _own(folder)
        found[depth] = child.ask(
            action="memory", num_frames=num_frames, prefetch_steps=depth, steps=3
        )
        child.close()
    stated = 3 * found[1]["step"]
    grown = found[4]["peak"] - found[1]["peak"]
    return Claim(
        "memory for 3 more steps of prefetch / their pixels",
        f"{grown / stated:.2f} ({grown / 1e6:.0f} of {stated / 1e6:.0f} MB)",
        "≤ 1.05",
        grown <= 1.05 * stated,
    )


def _questions(folder: Path, rounds: int, num_frames: int, steps: int) -> Claim:
    child = _own(folder)
    ratios, rates = [], []
    for _ in range(rounds):
        many, one = (
            child.ask(action="loop", questions_per_visit=q, num_frames=num_frames, steps=steps)
            for q in (QUESTIONS, 1)
        )
        rates.append((many["pairs"] / many["wall"], one["pairs"] / one["wall"]))
        ratios.append(rates[-1][0] / rates[-1][1])
    child.close()
    ratio = statistics.median(ratios)
    many, one = (statistics.median(column) for column in zip(*rates, strict=True))
    return Claim(
        f"questions a second, {QUESTIONS} a visit / one decode a question ({THREADS} threads)",
        f"{ratio:.1f} ({many:.0f} / {one:.0f})",
        "≥ 5",
        ratio >= 5,
    )


def _resume(folder: Path, rounds: int, num_frames: int) -> Claim:
    child = _own(folder)
    found: dict[int, list[dict]] = {step: [] for step in RESUMED}
    for step in RESUMED:  # warm
        child.ask(action="resume", num_frames=num_frames, step=step)
    for _ in range(2 * rounds):
        for step in RESUMED:
            found[step].append(child.ask(action="resume", num_frames=num_frames, step=step))
    child.close()

    def column(name: str, step: int) -> list[float]:
        return [answer[name] for answer in found[step]]

    early, late = (statistics.median(column("wall", step)) for step in RESUMED)
    cpu = statistics.median(
        b / a for a, b in zip(*(column("cpu", step) for step in RESUMED), strict=True)
    )
    # Noise: what the same step differs by between rounds, to both sides.
    spread = max(statistics.stdev(column("wall", step)) for step in RESUMED)
    return Claim(
        f"first batch after resuming at step {RESUMED[0]:,} and at {RESUMED[1]:,}",
        f"{early:.2f} s and {late:.2f} s (standard deviation {spread:.2f} s), CPU {cpu:.2f} times",
        "equal within noise",
        abs(early - late) <= 2 * spread and 0.9 <= cpu <= 1.1,
    )


def planning_claim(rounds: int) -> Claim:
    shards, samples, ranks = 10**5, 10**9, 4096
    answers = []
    for _ in range(rounds):
        child = Child("benchmarks.loading.planning", [])
        answers.append(child.ask(shards=shards, samples=samples, ranks=ranks))
        child.close()
    seconds = statistics.median(a["plan_s"] + a["first_s"] for a in answers)
    again = statistics.median(a["other_epoch_s"] for a in answers)
    peak = max(a["peak_bytes"] for a in answers)
    added = max(a["added_bytes"] for a in answers)
    return Claim(
        f"plan of {samples:,} samples in {shards:,} shards on a rank of {ranks:,}",
        f"{seconds:.2f} s to the first visits, {again:.2f} s for another epoch; "
        f"{peak / 1e6:.0f} MB process, {added / 1e6:.0f} MB of it the plan",
        "< 2 s, < 200 MB",
        seconds < 2 and peak < 200e6,
    )


def _own(folder: Path) -> Child:
    return Child("benchmarks.loading.own", [str(folder)])
