"""What the cost model says of four models on 8 to 4,096 GPUs. Computed, not measured.

    python -m benchmarks.scaling_table --work DIR [--quick] [--json FILE]

H100s, 8 a machine, with the links of ``launcher/planning/timing.py`` and NCCL's delays; two videos
of four questions a GPU and step (weak scaling). No GPU, no weights, no network: the sizes of known
models are in gcg/catalogue.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.plan_table import MODELS, XL
from benchmarks.results import Curve, Result, Table, main
from launcher.config import RunConfig, parse_run_config
from launcher.planning import QUESTION_TOKENS, describe_model
from launcher.planning.data_rates import CLIP_BYTES, Sample
from launcher.planning.frames import DECODE_SECONDS
from launcher.planning.limits import Limits, run_limits
from launcher.planning.remedies import Remedy, remedy
from launcher.planning.search import Candidate, Situation, candidates, cheapest, with_engine
from launcher.planning.timing import Hardware

GPUS = (8, 64, 512, 4096)
VIDEOS, QUESTIONS, PER_NODE = 2, 4, 8
NF4 = {"name": "meta-llama/Llama-3.3-70B-Instruct", "quantize": "nf4"}
READ_OFF: dict[str, dict[str, Any]] = {
    "flan-t5-xl": MODELS["flan-t5-xl"],
    "vicuna-13b": MODELS["vicuna-13b"],
    "Llama-3.3-70B": MODELS["Llama-3.3-70B"],
    "Llama-3.3-70B, 4 bits": {"checkpoint": XL, "llm": NF4},
}
# A clip as it is stated where none is there to be measured: `gcg plan` takes the same.
CLIP = Sample(DECODE_SECONDS, CLIP_BYTES, known=False)


@dataclass(frozen=True)
class Row:
    """A model on so many GPUs, the cheapest way that fits. ``moved``: what was changed step by
    step, and what is the bottleneck then."""

    model: str
    gpus: int
    best: Candidate
    limits: Limits
    moved: tuple[tuple[Remedy, str], ...]


def measure(work: Path, quick: bool) -> Result:
    """Bottlenecks of four models on 8 to 4,096 GPUs."""
    names = list(READ_OFF)[:1] if quick else list(READ_OFF)
    curve_at = [8, 64] if quick else [2**power for power in range(3, 13)]
    rows: list[Row] = []
    lines: dict[str, list[tuple[float, float]]] = {}
    for name in names:
        start = situation_of(name)
        rows += [row(name, gpus, start) for gpus in (curve_at if quick else GPUS)]
        steps = {gpus: seconds(name, gpus, start) for gpus in curve_at}
        for which, bound in enumerate(("nothing overlaps", "all overlaps")):
            alone = steps[PER_NODE][which]
            line = [(float(gpus), alone / found[which]) for gpus, found in steps.items()]
            lines[f"{name}, {bound}"] = line
    return Result(
        title="Read off at 8 to 4,096 GPUs — computed, not measured",
        tables=(_steps(rows), _wires(rows), _rates(rows), _moves(rows)),
        curves=(
            Curve(
                "scaling-efficiency",
                "Pairs a second of a GPU, of those with 8 GPUs (computed)",
                "GPUs",
                "share of the rate with 8 GPUs",
                # Where sending is always the shorter, overlapping leaves nothing to show.
                {name: line for name, line in lines.items() if min(y for _, y in line) < 0.99},
                log_x=True,
            ),
        ),
        notes=NOTES,
        data={"rows": [_plain(each) for each in rows], "efficiency": lines},
    )


def run_tree(name: str, gpus: int) -> dict[str, Any]:
    """The published recipe's sizes (T 32, K 4, bf16), the LLM frozen, a stream a GPU."""
    return {
        "run": {"name": "plan"},
        "data": {
            "train": "nowhere",
            "questions_per_visit": QUESTIONS,
            "streams": gpus,
            "global_batch": VIDEOS * gpus,
            "contrast_group": 2,
        },
        "model": {"preset": "instructblip", **READ_OFF[name]},
        "optim": {"steps": 10_000},
        "engine": {"zero": 2, "micro_batch": 1},
        "scale": {"num_workers": gpus, "use_gpu": True},
    }


def situation_of(name: str) -> Situation:
    model, census = describe_model(parse_run_config(run_tree(name, PER_NODE)))
    return Situation(
        census=census,
        model=model,
        device="cuda",
        hardware=Hardware(memory=80e9),
        nodes=1,
        question_tokens=QUESTION_TOKENS,
        pairs_per_visit=QUESTIONS,
        clip=(640, 480),
    )


def planned(name: str, gpus: int, start: Situation) -> tuple[RunConfig, Situation, Candidate]:
    """The run with the cheapest engine that fits."""
    config = parse_run_config(run_tree(name, gpus))
    situation = replace(start, nodes=gpus // PER_NODE)
    best = cheapest(candidates(config, situation))
    assert best is not None, (name, gpus)
    config = with_engine(config, best.zero, best.recompute, best.offload, best.micro_batch)
    return config, situation, best


def row(name: str, gpus: int, start: Situation) -> Row:
    config, situation, best = planned(name, gpus, start)
    limits = run_limits(config, situation, CLIP)
    return Row(name, gpus, best, limits, tuple(_moved(config, situation)))


def _moved(config: RunConfig, situation: Situation) -> Iterator[tuple[Remedy, str]]:
    """Remedies, one on top of the other, until none helps or four are taken."""
    sample = CLIP
    for _ in range(4):
        found = remedy(config, situation, sample)
        if found is None:
            return
        config, sample = found.config, found.sample
        yield found, run_limits(config, situation, sample).bottleneck


def seconds(name: str, gpus: int, start: Situation) -> tuple[float, float]:
    """The shortest step of the ways that fit, sending after computing, and beside it; decoding is
    kept up with."""
    situation = replace(start, nodes=gpus // PER_NODE)
    found = candidates(parse_run_config(run_tree(name, gpus)), situation)
    times = [one.time for one in found if one.fits]
    beside = (max(t.compute, t.communication, t.copying + t.updating) for t in times)
    return min(t.seconds for t in times), min(beside)


NOTES = (
    "Computed by the model of the sections above; no cluster was measured. Two videos of four "
    "questions a GPU and step, T 32, K 4, bf16, LLM frozen, 80 GB GPUs, 8 a machine; clips of "
    "0.5 CPU-s and 4 MB (stated); 2 decoding threads a worker, the default. That 4-bit weights are "
    "turned into bf16 for each product is not in the computing.",
    "What limits at 4,096 is the batch before the links: two videos a GPU are 8,192 videos or "
    "32,768 questions a step, about as many as NExT-QA's training set has (34,132), so an epoch "
    "is one step. The run needs as many streams as it has ranks (`data.streams`), so at "
    "least 4,096 shards; contrast groups of two lie within two ranks and send nothing worth "
    "naming.",
    "Below ZeRO-3 a step sends the trained weights alone, 0.19 B of them, whatever the LLM's size; "
    "what grows with the cluster are the delays. ZeRO-3 gathers an LLM of this size weight "
    "by weight, and a ring has a step for every worker, so at 4,096 its delays are "
    "fourteen times its transfers: 4-bit weights on every GPU (`model.llm.quantize=nf4`), which "
    "need no gathering, are the way out for a 70 B LLM.",
)


def _steps(rows: list[Row]) -> Table:
    found = []
    for one in rows:
        parts = one.limits.parts
        best = one.best
        again = " + ".join(best.recompute) or "nothing"
        way = f"ZeRO-{best.zero}, recompute {again}, {best.micro_batch} × {best.accumulation}"
        shown = [_s(parts[part]) for part in ("compute", "wire", "decode", "read", "checkpoint")]
        found.append((one.model, f"{one.gpus:,}", way, *shown,
                      f"{_s(one.limits.lower)} to {_s(one.limits.upper)}"))  # fmt: skip
    columns = ("model", "GPUs", "cheapest that fits", "computing", "wire", "decoding", "reading",
               "checkpoints", "step: all overlaps, nothing does")  # fmt: skip
    return Table("Seconds of a step", columns, tuple(found))


def _wires(rows: list[Row]) -> Table:
    found = []
    for one in rows:
        time = one.limits.time
        calls = sum(each.calls for each in time.collectives)
        pairs = time.pairs / one.limits.upper, time.pairs / one.limits.lower
        found.append((one.model, f"{one.gpus:,}", f"{time.bytes_sent / 1e9:.2f}", f"{calls:,}",
                      _s(time.delays), _s(time.communication - time.delays),
                      f"{pairs[0]:,.0f} to {pairs[1]:,.0f}"))  # fmt: skip
    columns = ("model", "GPUs", "GB a worker sends", "calls", "delays (s)", "transfers (s)",
               "pairs/s, as configured")  # fmt: skip
    return Table("The wire", columns, tuple(found))


def _rates(rows: list[Row]) -> Table:
    found = []
    for one in rows:
        data, saved, step = one.limits.data, one.limits.checkpoint, one.limits.time.seconds
        found.append((
            one.model, f"{one.gpus:,}", f"{data.clips / step:.0f} / {data.decode_rate:.0f}",
            f"{data.bytes / step / 1e9:.2f} / {data.read_rate / 1e9:g}",
            f"{saved.whole / 1e9:.2f}, {saved.rank / 1e9:.2f}", f"{saved.write:.1f} s",
            f"{saved.between / 3600:,.0f} h", f"{saved.best:,}",
            f"{saved.lost:.2%} / {saved.lost_at_best:.2%}",
        ))  # fmt: skip
    columns = (
        "model", "GPUs", "clips/s a machine: needed / can", "GB/s read: needed / can",
        "checkpoint (GB): whole, a worker's most", "written in", "between failures",
        "best checkpoint.every", "lost at 100 / at best",
    )  # fmt: skip
    title = "Data and checkpoints, for a step that waits for neither"
    return Table(title, columns, tuple(found))


def _moves(rows: list[Row]) -> Table:
    found = []
    for one in rows:
        way = "; ".join(
            f"`{each.setting}` ({each.gain:.2f} ×) → {then}" for each, then in one.moved
        )
        found.append((one.model, f"{one.gpus:,}", one.limits.bottleneck, way or "–"))
    columns = ("model", "GPUs", "bottleneck", "setting (pairs a second) → bottleneck then")
    return Table("Where the bottleneck moves", columns, tuple(found))


def _s(seconds: float) -> str:
    return f"{seconds:.2f}" if seconds >= 0.1 else f"{seconds:.2g}"


def _plain(one: Row) -> dict[str, Any]:
    return {
        "model": one.model,
        "gpus": one.gpus,
        "best": asdict(one.best),
        "parts": one.limits.parts,
        "lower": one.limits.lower,
        "upper": one.limits.upper,
        "data": asdict(one.limits.data),
        "checkpoint": asdict(one.limits.checkpoint),
        "moved": [(each.setting, each.gain, then) for each, then in one.moved],
    }


if __name__ == "__main__":
    raise SystemExit(main(measure))
