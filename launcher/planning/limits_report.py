"""What a step waits for, in words and as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from launcher.planning import Plan
from launcher.planning.checkpointing import FAILURES
from launcher.planning.limits import Limits, Part
from launcher.planning.ways import gb

_NAMES: dict[Part, str] = {
    "compute": "computing",
    "wire": "the wire",
    "offload": "the host's link and AdamW",
    "decode": "decoding",
    "read": "reading",
    "checkpoint": "checkpoints",
}


def limits(plan: Plan) -> Iterator[str]:
    """The parts of a step, the largest of them and the setting that moves it; nothing on CPUs."""
    found = plan.limits
    if found is None:
        return
    parts = found.parts
    shown = (f"{_NAMES[part]} {_short(value)}" for part, value in parts.items() if value)
    yield f"Limits of a step (s): {', '.join(shown)}"
    yield (
        f"  step: {_short(found.lower)} s if all overlaps, {_short(found.upper)} s if nothing "
        f"does; computing is {found.efficiency[1]:.0%} to {found.efficiency[0]:.0%} of it"
    )
    yield from _wire(found)
    yield from _data(found)
    yield from _checkpoint(found)
    yield f"  bottleneck: {_NAMES[found.bottleneck]}; {_advice(plan, found)}"


def _wire(found: Limits) -> Iterator[str]:
    time = found.time
    if time.collectives:
        calls = sum(each.calls for each in time.collectives)
        yield (
            f"  wire: {gb(round(time.bytes_sent))} GB a worker in {calls} calls, "
            f"{_short(time.delays)} s of it delays of {found.workers} workers"
        )


def _data(found: Limits) -> Iterator[str]:
    data, step = found.data, found.lower
    source = "measured" if data.known else "stated"
    decoding = "decodes nothing"
    if data.clips:
        decoding = (
            f"decodes {data.clips / step:.1f} of {data.decode_rate:.1f} clips/s that it can "
            f"({source})"
        )
    yield (
        f"  each machine: {decoding}, reads {data.bytes / step / 1e9:.3f} of "
        f"{data.read_rate / 1e9:g} GB/s"
    )


def _checkpoint(found: Limits) -> Iterator[str]:
    saved = found.checkpoint
    yield (
        f"  checkpoint: {gb(round(saved.whole))} GB, at most {gb(round(saved.rank))} of a worker, "
        f"written in {_short(saved.write)} s; training waits {_short(saved.stall)} s"
    )
    yield (
        f"    every {saved.every} steps {saved.lost:.2%} of the time is lost to saving and "
        f"failures, every {saved.best} steps {saved.lost_at_best:.2%} (a failure every "
        f"{saved.between / 3600:.3g} h at {FAILURES:.1g} a GPU-hour, stated)"
    )


def _advice(plan: Plan, found: Limits) -> str:
    if plan.remedy is not None:
        return f"{plan.remedy.setting}: {plan.remedy.gain:.2f} times the pairs a second"
    if found.bottleneck == "compute":
        return "as it should be: more workers make the step shorter"
    if found.bottleneck == "read":
        return "faster storage (--read), or shards on each machine's disk (data.cache_dir)"
    return "no setting moves it: fewer workers are as fast"


def limits_tree(plan: Plan) -> dict[str, Any] | None:
    """The same as plain values, in bytes and seconds."""
    found = plan.limits
    if found is None:
        return None
    return {
        "parts": found.parts,
        "lower": found.lower,
        "upper": found.upper,
        "bottleneck": found.bottleneck,
        "remedy": None
        if plan.remedy is None
        else {"setting": plan.remedy.setting, "gain": plan.remedy.gain},
        "data": {**asdict(found.data), "decode_rate": _finite(found.data.decode_rate)},
        "checkpoint": asdict(found.checkpoint),
    }


def _finite(rate: float) -> float | None:
    return None if rate == float("inf") else rate


def _short(seconds: float) -> str:
    return f"{seconds:.2f}" if seconds >= 0.995 else f"{seconds:.2g}"
