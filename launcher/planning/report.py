"""A plan in words, and as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from launcher.planning import Plan
from launcher.planning.frames import FeatureReading
from launcher.planning.limits_report import limits, limits_tree
from launcher.planning.memory import HOST_PROCESS, Memory, snapshot
from launcher.planning.search import Candidate
from launcher.planning.states import PHASES, Phase
from launcher.planning.timing import HOST_ADAM
from launcher.planning.ways import gb, offloaded, ways
from launcher.planning.world import EpochData

_PHASE_NAMES: dict[Phase, str] = {
    "start": "start",
    "forward": "forward pass",
    "backward": "backward pass",
    "norm": "gradient norm",
    "update": "update",
}


def text(plan: Plan) -> str:
    """The report that `gcg plan` prints; GB are 10^9 bytes."""
    blocks = [
        _head(plan),
        _parameters(plan),
        _memory(plan),
        _checkpointing(plan),
        _compute(plan),
        _batches(plan),
        _frames(plan),
        limits(plan),
        ways(plan),
    ]
    return "\n\n".join(text for block in blocks if (text := "\n".join(block)))


def tree(plan: Plan) -> dict[str, Any]:
    """Everything of the report, and every candidate, as plain JSON values in bytes and seconds."""
    config, best = plan.config, plan.best
    return {
        "workers": plan.world.gpus,
        "nodes": plan.world.nodes,
        "device": plan.situation.device,
        "notes": list(plan.world.notes),
        "hardware": asdict(plan.situation.hardware),
        "engine": config.engine.model_dump(mode="json"),
        "parameters": [asdict(part) for part in plan.census.parts],
        "memory": {
            "peak": plan.memory.peak,
            "peak_phase": plan.memory.peak_phase,
            "phases": {phase: plan.memory.total(phase) for phase in PHASES},
            "offloaded": {
                "peak": plan.memory.host_peak,
                "lines": [
                    {"kind": line.kind, "part": line.part, "bytes": line.bytes}
                    for line in plan.memory.host
                ],
            },
            "lines": [
                {"phase": phase, "kind": kind, "part": part, "bytes": size}
                for phase in PHASES
                for kind, part, size in plan.memory.table(phase)
            ],
        },
        "activations": [
            {"part": part, "kept": kept, "recomputed": again} for part, kept, again in _pairs(plan)
        ],
        "flops_per_pair": [{**asdict(part), "total": part.total} for part in plan.flops],
        "step": {**asdict(plan.time), "seconds": plan.time.seconds},
        "batch": {
            "micro_batch": config.engine.micro_batch,
            "accumulation": config.accumulation,
            "workers": plan.world.gpus,
            "global_batch": config.data.global_batch,
            "streams": config.data.streams,
            "contrast_group": config.data.contrast_group,
            "pairs": plan.time.pairs,
        },
        "data": asdict(plan.data) if isinstance(plan.data, EpochData) else plan.data,
        "limits": limits_tree(plan),
        "frames": plan.frames if isinstance(plan.frames, str) else asdict(plan.frames),
        "cheapest": None if best is None else _candidate(best),
        "candidates": [_candidate(one) for one in plan.candidates],
    }


def _head(plan: Plan) -> Iterator[str]:
    engine, batch = plan.config.engine, plan.batch
    recomputed = ", ".join(engine.recompute) or "nothing"
    unit = "GPU" if plan.situation.device == "cuda" else "process"
    machines = "1 machine" if plan.world.nodes == 1 else f"{plan.world.nodes} machines"
    yield (
        f"{plan.world.gpus} workers on {machines}, a {unit} each; ZeRO-"
        f"{engine.zero}, {engine.precision}, micro-batch {engine.micro_batch}, recomputed: "
        f"{recomputed}{offloaded(engine.offload)}; LLM {plan.config.model.llm.train}"
    )
    yield (
        f"texts as long as they may be: questions {batch.question} tokens (assumed), prompts "
        f"{batch.prompt}, answers {batch.answer}; {batch.pairs // batch.visits} questions a clip"
    )
    for note in plan.world.notes:
        yield f"note: {note}"


def _parameters(plan: Plan) -> Iterator[str]:
    yield f"{'Parameters (millions)':<32}{'frozen':>12}{'trained':>12}"
    for part in plan.census.parts:
        yield f"  {part.part:<30}{part.frozen / 1e6:>12.2f}{part.trained / 1e6:>12.2f}"
    frozen = plan.census.total - plan.census.trained
    yield f"  {'all':<30}{frozen / 1e6:>12.2f}{plan.census.trained / 1e6:>12.2f}"


def _memory(plan: Plan) -> Iterator[str]:
    memory = plan.memory
    phase = memory.peak_phase
    yield f"Memory of a worker at its peak, {_PHASE_NAMES[phase]} (GB)"
    yield from _table(memory, phase)
    others = (f"{_PHASE_NAMES[other]} {gb(memory.total(other))}" for other in PHASES)
    yield f"  by phase: {', '.join(others)}"
    if memory.device == "cpu":
        yield f"  the process before it has a model: {gb(HOST_PROCESS)}, measured"
    if memory.host:
        yield from _host(plan)
    elif plan.config.engine.offload:
        yield "  engine.offload gains nothing: without a GPU all is host memory"
    if plan.config.checkpoint.in_background:
        yield (
            f"  not in it: {gb(snapshot(plan.config, plan.census))} of host memory for the "
            "checkpoint being written (checkpoint.in_background)"
        )


def _host(plan: Plan) -> Iterator[str]:
    """What is offloaded, line by line."""
    memory, workers = plan.memory, plan.world.per_node
    each = memory.host_peak
    yield (
        f"  offloaded, in host memory: {gb(each)} a worker, {gb(each * workers)} a machine; all "
        "but Adam's moments may be page-locked"
    )
    for line in memory.host:
        if line.bytes >= 5e5:
            yield f"  {line.kind:<20}{line.part:<42}{gb(line.bytes):>9}"


def _table(memory: Memory, phase: Phase) -> Iterator[str]:
    last = ""
    for kind, part, size in memory.table(phase):
        if size < 5e5:  # nothing that two decimals of a gigabyte could show
            continue
        yield f"  {kind if kind != last else '':<20}{part:<42}{gb(size):>9}"
        last = kind
    yield f"  {'peak':<62}{gb(memory.peak):>9}"


def _checkpointing(plan: Plan) -> Iterator[str]:
    yield f"{'Activations (GB)':<32}{'kept':>12}{'recomputed':>12}"
    for part, kept, again in _pairs(plan):
        yield f"  {part:<30}{gb(kept):>12}{gb(again):>12}"


def _pairs(plan: Plan) -> list[tuple[str, int, int]]:
    kept, again = (
        {line.part.partition(":")[0]: line.bytes for line in memory.lines
         if line.kind == "activations"}
        for memory in (plan.kept, plan.recomputed)
    )  # fmt: skip
    return [(part, kept[part], again[part]) for part in kept]


def _compute(plan: Plan) -> Iterator[str]:
    yield f"{'10^12 FLOPs a pair':<32}{'forward':>12}{'backward':>12}{'recompute':>12}"
    for part in plan.flops:
        row = (part.forward, part.backward, part.recompute)
        yield f"  {part.part:<30}" + "".join(f"{value / 1e12:>12.3f}" for value in row)
    sums = [sum(getattr(part, name) for part in plan.flops) for name in _COLUMNS]
    yield f"  {'all':<30}" + "".join(f"{value / 1e12:>12.3f}" for value in sums)
    time, hardware = plan.time, plan.situation.hardware
    if plan.situation.device == "cpu":
        yield "step: not timed, the run is on CPUs"
        return
    yield (
        f"step: {time.seconds:.2f} s for {time.pairs:.0f} pairs, {time.pairs / time.seconds:.1f} "
        f"pairs/s: {time.compute:.2f} s computing at {hardware.mfu:.0%} of "
        f"{hardware.tflops:g} TFLOP/s, {time.communication:.2f} s sending "
        f"{gb(round(time.bytes_sent))} GB"
    )
    if time.bytes_copied:
        yield (
            f"  in it for what is offloaded: {time.copying:.2f} s copying "
            f"{gb(round(time.bytes_copied))} GB to and from the host at {hardware.pcie:g} GB/s "
            f"(--pcie), {time.updating:.2f} s AdamW there at {HOST_ADAM / 1e9:g} GB/s (stated)"
        )


_COLUMNS = ("forward", "backward", "recompute")


def _batches(plan: Plan) -> Iterator[str]:
    config = plan.config
    yield (
        f"batch: {config.engine.micro_batch} (micro-batch) × {config.accumulation} (accumulation) "
        f"× {plan.world.gpus} (workers) = {config.data.global_batch} visits, dealt from "
        f"{config.data.streams} streams, contrast groups of {config.data.contrast_group}"
    )
    data = plan.data
    if not isinstance(data, EpochData):
        yield f"data: shards and bytes an epoch are unknown ({data})"
        return
    yield (
        f"data: {data.samples} clips, {data.questions} questions in {data.visits} visits, "
        f"{data.steps} steps an epoch; {data.shards} shards, {gb(data.bytes)} GB; a machine reads "
        f"{_range(*data.shards_per_node)} shards, "
        f"{gb(data.bytes_per_node[0])} to {gb(data.bytes_per_node[1])} GB"
    )


def _frames(plan: Plan) -> Iterator[str]:
    costs, hardware = plan.frames, plan.situation.hardware
    rate = f"read at {hardware.read / 1e9:g} GB/s (--read)"
    if isinstance(costs, str):
        yield f"clips or features: not compared ({costs})"
        return
    if isinstance(costs, FeatureReading):
        yield (
            f"features: {gb(round(costs.bytes))} GB an epoch of each machine, {rate} in "
            f"{_time(costs.seconds)}; nothing is decoded, and no image encoder runs"
        )
        return
    how = f"measured on {costs.measured}" if costs.measured else "stated"
    trunk = "image encoder not timed on CPUs"
    if costs.trunk is not None:
        trunk = f"{_time(costs.trunk, 'GPU-')} image encoder"
    yield "Clips or features, an epoch of each machine"
    yield (
        f"  clips:    {gb(round(costs.clip_bytes))} GB + {_time(costs.decode, 'CPU-')} decoding "
        f"({costs.decode_per_clip:.3f} CPU-s a clip, {how}) + {trunk}: "
        f"{_time(costs.with_clips)}"
    )
    yield (
        f"  features: {gb(round(costs.feature_bytes))} GB, {rate}: {_time(costs.with_features)}; "
        f"{gb(costs.stored)} GB to keep, {_time(costs.making)} to make once (`gcg extract`)"
    )
    after = costs.pays_after
    when = "features never pay" if after is None else f"features pay after {after:.1f} epochs"
    yield f"  cheaper: {costs.cheaper}; {when}, this run has {costs.epochs:.1f}"


def _time(seconds: float, kind: str = "") -> str:
    if seconds < 100:
        return f"{seconds:.1f} {kind}s"
    return f"{seconds / 60:.1f} {kind}min" if seconds < 6000 else f"{seconds / 3600:.1f} {kind}h"


def _candidate(one: Candidate) -> dict[str, Any]:
    return {**asdict(one), "fits": one.fits, "seconds": one.time.seconds}


def _range(low: int, high: int) -> str:
    return str(low) if low == high else f"{low} to {high}"
