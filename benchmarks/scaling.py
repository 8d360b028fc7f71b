"""Does the cost model of `gcg plan` say what a step sends, saves, decodes and takes?

    python -m benchmarks.scaling --work DIR [--quick] [--json FILE]

Makes an InstructBLIP folder with random weights (79 M parameters), packs sample clips, and trains
it some steps at 1, 2 and 4 ranks over gloo with ZeRO-1, 2 and 3, through the code that `gcg train`
runs in its workers. Bytes on the wire are those that the kernel counts on each rank's sockets
(``benchmarks/wire.py``). DIR keeps the model; a run takes about ten minutes of two cores.
``--quick`` trains the tiny preset at two ranks.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.results import Result, main
from benchmarks.scaling_loader import loading
from benchmarks.scaling_ranks import Measured, train
from benchmarks.scaling_report import Case, Checked, report
from launcher.planning.traffic import Collective

STEPS = 6


def cases(quick: bool) -> list[Case]:
    if quick:
        return [*(Case(2, zero) for zero in (1, 2, 3)), Case(2, 2, precision="bf16")]
    grid = [Case(world, zero) for world in (1, 2, 4) for zero in (1, 2, 3)]
    return [
        *grid,
        Case(1, 1, "full"),
        *(Case(2, zero, "full") for zero in (1, 2, 3)),
        Case(2, 3, let_go=True),
        Case(2, 3, recompute=True),
    ]


def measure(work: Path, quick: bool) -> Result:
    """The cost model of a step against measurements at 1, 2 and 4 ranks."""
    from benchmarks.plan_memory import make_data, model_tree

    if quick:
        model: dict[str, Any] = {"num_frames": 8, "num_moments": 2}
    else:
        make_model(work)
        model = model_tree(work)
    make_data(work, model)
    checked = [check(work, model, case, 1 if quick else STEPS) for case in cases(quick)]
    loaded = loading(run_tree(work, model, Case(1, 2)), seconds=2.0 if quick else 15.0)
    # The tiny preset's checkpoint is 7 MB, of which names and buffers take their part.
    return report(checked, loaded, checkpoint_bound=0.15 if quick else 0.02)


def make_model(work: Path) -> None:
    """Random weights in the layout of the public checkpoints, kept if they are there."""
    from benchmarks.random_model import keep_random
    from tests.gcg.weights.checkpoints import Sizes

    sizes = Sizes(
        vision_width=256, vision_layers=6, vision_heads=4, vision_ffn=1024,
        image_size=56, patch_size=14, joint_width=256,
        text_width=256, text_layers=4, text_heads=4, vocabulary=8000,
        qformer_width=256, qformer_layers=4, qformer_heads=8, num_query_tokens=8,
        llm_width=768, llm_layers=8, llm_heads=12, llm_ffn=2048,
    )  # fmt: skip
    keep_random(work, sizes, "llama")


def run_tree(work: Path, model: Mapping[str, Any], case: Case) -> dict[str, Any]:
    """Two micro-batches of one clip with two questions a worker, whatever the world."""
    llm = {**model.get("llm", {}), "train": case.llm}
    return {
        "run": {"name": f"zero{case.zero}", "storage": str(work / "runs")},
        "data": {
            "train": str(work / "train"),
            "questions_per_visit": 2,
            "streams": case.world,
            "global_batch": 2 * case.world,
            "contrast_group": 1,
            "decode_threads": 1,
        },
        "model": {**model, "llm": llm},
        "optim": {"steps": 1000},
        "engine": {
            "zero": case.zero,
            "precision": case.precision,
            "micro_batch": 1,
            "recompute": ["llm"] if case.recompute else [],
        },
        "scale": {"num_workers": case.world},
        "log": {"tensorboard": False},
    }


def check(work: Path, model: Mapping[str, Any], case: Case, steps: int) -> Checked:
    """Run a case and put the model beside it."""
    from tests.spawn import run_ranks

    run = run_tree(work, model, case)
    shutil.rmtree(work / "runs", ignore_errors=True)
    (work / "runs").mkdir()
    ranks = run_ranks(train, case.world, run, steps, case.own, timeout_s=1800, preloaded=True)
    return beside(run, case, ranks)


def beside(run: dict[str, Any], case: Case, ranks: Sequence[Measured]) -> Checked:
    """What was measured, and the model of it."""
    from launcher.config import parse_run_config
    from launcher.planning import describe_model
    from launcher.planning.checkpointing import checkpoint_bytes
    from launcher.planning.links import Cluster, Way, wire_seconds
    from launcher.planning.memory import run_engine
    from launcher.planning.traffic import traffic

    config = parse_run_config(run)
    _, census = describe_model(config)
    engine = replace(run_engine(config, "cpu"), own=tuple(case.own.items()))
    plain = traffic(census, engine)
    collectives = [as_gloo(each) for each in plain]
    cores = min(1.0, len(os.sched_getaffinity(0)) / case.world)  # that a rank has
    slow = min(ranks, key=lambda rank: rank.bandwidth)
    # One delay a call, however many steps its ring has: that is how it was measured.
    ways = (Way("ring", slow.delay, 0.0, 0.0, 1.0),)
    cluster = Cluster(case.world, 1, slow.bandwidth or 1.0, ways)
    whole, most = checkpoint_bytes(census, engine)
    return Checked(
        case,
        tuple(ranks),
        tuple(collectives),
        sum(each.sent(case.world) for each in plain),
        most,
        whole / sum(rank.disk for rank in ranks),
        max(rank.flops / rank.tflops for rank in ranks) / 1e12 / cores,
        wire_seconds(collectives, cluster),
    )


def as_gloo(collective: Collective) -> Collective:
    """gloo has no reduce-scatter of its own: it reduces all of it everywhere, twice the bytes."""
    if collective.kind == "reduce-scatter":
        return replace(collective, kind="all-reduce")
    return collective


if __name__ == "__main__":
    raise SystemExit(main(measure))
