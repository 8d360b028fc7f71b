"""Does `gcg plan` say what training takes? Planned and measured peak memory of CPU workers.

    python -m benchmarks.plan_memory --work DIR [--quick] [--json FILE]

Makes an InstructBLIP folder with random weights (300 M parameters; the Llama learns whole),
packs and labels a few sample clips, and makes real training steps at two ranks over gloo, through
the code that `gcg train` runs in its workers. Measured is VmHWM, a process's peak resident memory
as Linux counts it, of each rank; Ray's own part of a worker is not in it. DIR keeps the model
(1 GB); a run takes up to 10 GB of memory and a few minutes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.memory import resident
from benchmarks.results import Claim, Result, Table, main

RANKS = 2
QUESTIONS = 2
BOUND = 0.15


@dataclass(frozen=True)
class Measured:
    """Bytes of resident memory of one rank: before it has a model, and its peak until after
    building and after the last step."""

    before: int
    built: int
    peak: int


def measure(work: Path, quick: bool) -> Result:
    """Planned and measured peak memory of two CPU workers, with each ZeRO stage."""
    make_model(work)
    make_data(work, model_tree(work))
    stages, steps = ((2,), 2) if quick else ((1, 2, 3), 3)
    rows = [compare(run_tree(work, zero, "fp32", []), steps) for zero in stages]
    return Result(
        title="Memory as planned",
        claims=tuple(_claim(row) for row in rows),
        tables=(_table(rows),),
        notes=(
            "Two ranks over gloo, a random InstructBLIP of "
            f"{rows[0]['parameters'] / 1e6:.0f} M parameters, {rows[0]['trained'] / 1e6:.0f} M of "
            "them trained, fp32, real clips, through the worker's own code. Measured is each "
            "process's peak resident memory (VmHWM).",
        ),
        data={"runs": rows},
    )


def _claim(row: dict[str, Any]) -> Claim:
    ratio = row["ratio"]
    what = f"peak memory of a worker, planned / measured, ZeRO-{row['zero']}, two ranks"
    return Claim(what, f"{ratio:.3f}", f"1 ± {BOUND:g}", abs(ratio - 1) <= BOUND)


def run_tree(work: Path, zero: int, precision: str, offload: list[str]) -> dict[str, Any]:
    """The run file: everything trained but the encoders, two clips of two questions a worker."""
    return {
        "run": {"name": f"zero{zero}-{precision}", "storage": str(work / "runs")},
        "data": {
            "train": str(work / "train"),
            "questions_per_visit": QUESTIONS,
            "streams": RANKS,
            "global_batch": 2 * RANKS,
            "contrast_group": 1,
            "decode_threads": 1,
        },
        "model": model_tree(work),
        "optim": {"steps": 1000},
        "engine": {"zero": zero, "precision": precision, "micro_batch": 2, "offload": offload},
        "scale": {"num_workers": RANKS},
        "log": {"tensorboard": False},
    }


def model_tree(work: Path) -> dict[str, Any]:
    """The ``model`` section."""
    return {
        "preset": "instructblip",
        "checkpoint": str(work / "instructblip"),
        "clip_checkpoint": str(work / "clip"),
        "num_frames": 8,
        "num_moments": 2,
        "grounding": {"noise_samples": 50},
        "llm": {"train": "full", "max_prompt_tokens": 64, "max_answer_tokens": 8},
    }


def make_model(work: Path) -> None:
    """Random weights in the layout of the public checkpoints, kept if they are there."""
    import torch

    from benchmarks.random_model import keep_random
    from tests.gcg.weights.checkpoints import Sizes

    sizes = Sizes(
        vision_width=768, vision_layers=12, vision_heads=12, vision_ffn=3072,
        image_size=56, patch_size=14, joint_width=512,
        text_width=512, text_layers=6, text_heads=8, vocabulary=8000,
        qformer_width=256, qformer_layers=4, qformer_heads=8, num_query_tokens=8,
        llm_width=1024, llm_layers=15, llm_heads=16, llm_ffn=2816,
    )  # fmt: skip
    keep_random(work, sizes, "llama", torch.bfloat16)


def make_data(work: Path, model: Mapping[str, Any]) -> None:
    """Sample clips, packed and labelled for a model; what is there is kept."""
    from dataloaders.manifest import read_manifest
    from dataloaders.moments.corpus import make_corpus
    from dataloaders.shards import pack
    from gcg.config import GCGConfig
    from launcher.labelling.label import label_data

    manifests = make_corpus(work / "corpus", num_videos=20, questions_per_video=4)
    manifest = manifests["train"]
    rows = list(read_manifest(manifest))
    pack(rows, work / "train", root=manifest.parent, shard_bytes=200_000)
    label_data(work / "train", GCGConfig.model_validate(model))


def compare(run: dict[str, Any], steps: int) -> dict[str, Any]:
    """Plan one configuration, run it, and put both side by side."""
    from launcher.config import parse_run_config
    from launcher.planning import make_plan
    from launcher.planning.timing import Hardware
    from tests.spawn import run_ranks

    plan = make_plan(parse_run_config(run), Hardware(memory=5e9))
    measured: list[Measured] = run_ranks(train, RANKS, run, steps, timeout_s=1800)
    peak = max(rank.peak for rank in measured)
    return {
        **run["engine"],
        "parameters": plan.census.total,
        "trained": plan.census.trained,
        "planned": plan.memory.peak,
        "phase": plan.memory.peak_phase,
        "measured": peak,
        "ratio": plan.memory.peak / peak,
        "ranks": [vars(rank) for rank in measured],
    }


def train(run: dict[str, Any], steps: int) -> Measured:
    """One rank's part: build the job as a worker does, make the steps, look at the peak."""
    from launcher.config import parse_run_config
    from launcher.training.engine import import_deepspeed
    from launcher.training.job import build_job, restore
    from launcher.training.loop import next_batch

    config = parse_run_config(run)
    import_deepspeed(use_gpu=False)
    before = resident("VmRSS")
    job = build_job(config, report=lambda figures: None)
    try:
        restore(job)
        built = resident("VmHWM")
        for done in range(steps):
            turn = next_batch(job)
            job.step(turn.batch.micro, done, turn.num_pairs)
    finally:
        job.close()
    return Measured(before, built, resident("VmHWM"))


def _table(rows: list[dict[str, Any]]) -> Table:
    """GB are 10^9 bytes."""
    shown = []
    for row in rows:
        before = max(rank["before"] for rank in row["ranks"])
        peaks = ", ".join(f"{rank['peak'] / 1e9:.2f}" for rank in row["ranks"])
        sizes = (f"{before / 1e9:.2f} GB", f"{row['planned'] / 1e9:.2f} GB ({row['phase']})")
        shown.append((str(row["zero"]), *sizes, f"{peaks} GB", f"{row['ratio']:.2f}"))
    columns = ("ZeRO", "before a model", "planned peak", "measured, rank 0 and 1", "ratio")
    return Table("Peak memory", columns, tuple(shown))


if __name__ == "__main__":
    raise SystemExit(main(measure))
