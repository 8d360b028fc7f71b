"""Every way to run a model that `gcg plan` looked at, in words."""

from __future__ import annotations

from collections.abc import Iterator

from launcher.planning import Plan
from launcher.planning.search import Candidate

Way = tuple[int, tuple[str, ...], tuple[str, ...]]


def ways(plan: Plan) -> Iterator[str]:
    """A line for each, the cheapest last."""
    limit = plan.situation.hardware.memory
    yield f"Ways to run it in {gb(round(limit))} GB, the global batch kept"
    best = plan.best
    for (zero, recompute, offload), found in _grouped(plan.candidates).items():
        name = f"ZeRO-{zero}, recomputed: {', '.join(recompute) or 'nothing'}{offloaded(offload)}"
        yield f"  {name:<40}{'' if len(name) < 40 else ' '}{_verdict(found, plan)}"
    if best is None:
        yield "cheapest: none fits; take more GPUs, shorter texts, or fewer questions a visit"
    else:
        yield (
            f"cheapest: engine.zero={best.zero} "
            f"engine.recompute={_listed(best.recompute)} engine.micro_batch={best.micro_batch}"
            f"{f' engine.offload={_listed(best.offload)}' if best.offload else ''}: "
            f"{gb(best.peak)} GB{_seconds(best, plan)}"
        )
        if best.offload:
            machine = best.host * plan.world.per_node
            yield f"  offloaded: {gb(machine)} GB of each machine's memory"


def _verdict(found: list[Candidate], plan: Plan) -> str:
    fitting = [one for one in found if one.fits]
    if not fitting:
        least = min(found, key=lambda one: one.peak)
        assert least.exceeded is not None
        line, used = least.exceeded
        return (
            f"does not fit: {gb(least.peak)} GB at micro-batch {least.micro_batch}, "
            f"beyond it with {line} ({gb(used)})"
        )
    own = min(fitting, key=lambda one: one.cost)
    if own is plan.best:
        return f"cheapest: {gb(own.peak)} GB at micro-batch {own.micro_batch}{_seconds(own, plan)}"
    most = max(one.micro_batch for one in fitting)
    why = "slower" if plan.best and own.time.seconds > plan.best.time.seconds else "more memory"
    return (
        f"fits up to micro-batch {most}, {why}: {gb(own.peak)} GB at micro-batch "
        f"{own.micro_batch}{_seconds(own, plan)}"
    )


def _seconds(one: Candidate, plan: Plan) -> str:
    return "" if plan.situation.device == "cpu" else f", {one.time.seconds:.2f} s a step"


def _grouped(found: list[Candidate]) -> dict[Way, list[Candidate]]:
    groups: dict[Way, list[Candidate]] = {}
    for one in found:
        groups.setdefault((one.zero, one.recompute, one.offload), []).append(one)
    return groups


def gb(size: int) -> str:
    """Bytes as 10^9 of them, with two decimals."""
    return f"{size / 1e9:.2f}"


def offloaded(parts: tuple[str, ...]) -> str:
    """The end of a clause, empty where nothing is."""
    return f", offloaded: {', '.join(parts)}" if parts else ""


def _listed(parts: tuple[str, ...]) -> str:
    return f"[{','.join(parts)}]"
