"""What share of the rate of large matrix products the model's forward and backward pass reaches.

    python -m benchmarks.gemm_share --work DIR [--quick] [--json FILE]

An InstructBLIP model of 0.3 B parameters with random weights (`benchmarks.plan_memory`), whole
micro-batches without padding. FLOPs are those of the products that torch counts as they run
(``FlopCounterMode``); the rate they are held against is that of square products on the same
threads, measured in turns with the passes. Operators by their own time account for the rest.
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import plan_memory
from benchmarks.gpu_step import CLIP_END, full_batch
from benchmarks.results import Ratio, Result, Table, interleaved, machine, main
from gcg.build import build_model
from launcher.config import parse_run_config
from launcher.planning import make_plan
from launcher.planning.timing import Hardware

SIDE = 2048
_SHOWN = 12
_PRODUCTS = ("mm", "addmm", "bmm", "baddbmm", "_scaled_dot_product")


def measure(work: Path, quick: bool) -> Result:
    """The model's passes against the rate of large matrix products."""
    plan_memory.make_model(work)
    model, inputs = _model_and_batch(work)
    with FlopCounterMode(display=False) as counter:
        _pass(model, inputs)
    flops = counter.get_total_flops()
    square = torch.randn(2, SIDE, SIDE)
    claims, threads = [], torch.get_num_threads()
    data: dict[str, Any] = {"flops": flops}
    for count in sorted({1, threads}):
        torch.set_num_threads(count)
        ways = {
            "passes": lambda: flops / _seconds(lambda: _pass(model, inputs)),
            "products": lambda: 2 * SIDE**3 / _seconds(lambda: square[0] @ square[1]),
        }
        found = interleaved(ways, 2 if quick else 5)
        data[f"FLOP/s, threads {count}"] = found
        share = Ratio.of(found["passes"], found["products"])
        rate = statistics.median(found["products"]) / 1e9
        what = f"forward + backward / products of {SIDE}, {count} threads at {rate:.0f} GFLOP/s"
        claims.append(share.at_least(what, 0.6))
    torch.set_num_threads(threads)
    table, shares = _where(model, inputs)
    data["self time"] = shares
    notes = (
        f"{machine()}; fp32, {sum(p.numel() for p in model.parameters()) / 1e6:.0f} M parameters, "
        f"{flops / 1e9:.0f} GFLOP a pass",
    )
    return Result("The model against matrix products", tuple(claims), (table,), (), notes, data)


def _model_and_batch(work: Path) -> tuple[Any, dict[str, Any]]:
    run = plan_memory.run_tree(work, 2, "fp32", [])
    run["data"] |= {"streams": 1, "global_batch": 1, "questions_per_visit": 4}
    run["engine"]["micro_batch"] = 1
    run["scale"] = {"num_workers": 1}
    config = parse_run_config(run)
    plan = make_plan(config, Hardware(memory=5e9), gpus=1)
    batch = full_batch(config, plan.batch, plan.situation.model.image_size)
    model, inputs = build_model(config.model, config.run.seed).train(), batch.model_inputs()
    words = model.text.get_submodule("clip.text_model.embeddings.token_embedding")
    for name in ("question_ids", "description_ids"):  # this CLIP's end mark is its last word
        inputs[name][inputs[name] == CLIP_END] = len(words.weight) - 1  # type: ignore[arg-type]
    return model, inputs


def _pass(model: Any, inputs: dict[str, Any]) -> None:
    output = model(**inputs)
    (output.loss_vqa + output.loss_reg + output.loss_con).sum().backward()
    model.zero_grad()


def _seconds(work: Any) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _where(model: Any, inputs: dict[str, Any]) -> tuple[Table, dict[str, float]]:
    """Operators by their share of the time, products together."""
    with profile(activities=[ProfilerActivity.CPU]) as watched:
        _pass(model, inputs)
    own: dict[str, float] = {}
    for event in watched.key_averages():
        name = event.key.removeprefix("aten::")
        kind = "matrix products" if name.startswith(_PRODUCTS) else name
        own[kind] = own.get(kind, 0.0) + event.self_cpu_time_total
    whole = sum(own.values())
    shares = {name: time / whole for name, time in own.items()}
    ranked = sorted(shares.items(), key=lambda item: -item[1])
    rows = [(f"`{name}`", f"{share:.1%}") for name, share in ranked[:_SHOWN]]
    rows.append(("all others", f"{sum(share for _, share in ranked[_SHOWN:]):.1%}"))
    return Table("Where the time of a pass goes", ("operator", "share"), tuple(rows)), shares


if __name__ == "__main__":
    raise SystemExit(main(measure))
