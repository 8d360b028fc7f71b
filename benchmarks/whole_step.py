"""A whole training step through Ray and DeepSpeed against a bare torch loop, and over two ranks.

    python -m benchmarks.whole_step --work DIR [--quick] [--json FILE]

The same model, batches and optimizer everywhere; runs take turns, and each gives the median of its
steps, from asking for a batch until the update is made. For two ranks against one each rank has one
thread and one core: the single rank may use no other.
"""

from __future__ import annotations

import os
import statistics
import sys
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.loading.clips import RATE, Recipe
from benchmarks.loading.runs import WARM, make_data, make_model, of_child, run_tree, train
from benchmarks.results import Claim, Ratio, Result, Table, interleaved, machine, main

CLIP = Recipe(240, 10, RATE)
QUESTIONS = 4


def measure(work: Path, quick: bool) -> Result:
    """A whole training step: Ray and ZeRO against a bare loop, two ranks against one."""
    steps, rounds = (WARM + 2, 1) if quick else (WARM + 12, 3)
    model = make_model(work)
    packed = make_data(work, CLIP, model)
    tree = partial(_tree, packed, model, steps)
    ways = {
        "bare torch": lambda: _median(of_child("benchmarks.bare_loop", tree("bare"))["seconds"]),
        "ZeRO-1": lambda: _median(train(tree("zero1", zero=1)).seconds),
        "ZeRO-2": lambda: _median(train(tree("zero2", zero=2)).seconds),
        "ZeRO-3": lambda: _median(train(tree("zero3", zero=3)).seconds),
    }
    cores = sorted(os.sched_getaffinity(0))[:2]
    if len(cores) == 2:
        ways |= {
            "one rank, one core": lambda: _median(train(tree("one"), {cores[0]}).seconds),
            "two ranks, two cores": lambda: _median(
                train(tree("two", workers=2), set(cores)).seconds
            ),
        }
    found = interleaved({n: partial(_told, n, way) for n, way in ways.items()}, rounds, warm=0)
    claims = [
        Ratio.of(found[name], found["bare torch"]).at_most(f"{name} at one worker / bare", bound)
        for name, bound in (("ZeRO-1", 1.1), ("ZeRO-2", 1.1), ("ZeRO-3", 1.35))
    ]
    claims.append(_scaling(found))
    rows = tuple((name, f"{statistics.median(times):.2f}") for name, times in found.items())
    return Result(
        title="A whole step",
        claims=tuple(claims),
        tables=(Table("Seconds of a step", ("", "median of the runs' medians"), rows),),
        notes=(
            f"{machine()}; fp32; two clips of 32 frames of 224 pixels with {QUESTIONS} questions a "
            f"worker and step; {rounds} rounds of {steps} steps, of which the first {WARM} are "
            "left out. One thread computes and one decodes; where ranks have a core each, both "
            "on that core.",
        ),
        data=found,
    )


def _scaling(found: dict[str, list[float]]) -> Claim:
    what = "weak scaling: a step of one rank / of two ranks with twice the batch, a core each"
    if "one rank, one core" not in found:
        return Claim(what, "this machine has one core", "≥ 0.85", None)
    return Ratio.of(found["one rank, one core"], found["two ranks, two cores"]).at_least(what, 0.85)


def _tree(
    packed: Path, model: dict[str, Any], steps: int, name: str, *, zero: int = 2, workers: int = 1
) -> dict[str, Any]:
    return run_tree(
        packed, model, name, steps,
        data={"questions_per_visit": QUESTIONS, "global_batch": 2 * workers},
        engine={"zero": zero},
        scale={"num_workers": workers},
    )  # fmt: skip


def _median(seconds: list[float]) -> float:
    return statistics.median(seconds)


def _told(name: str, way: Any) -> float:
    seconds = way()
    sys.stderr.write(f"{name}: {seconds:.3f} s a step\n")
    return seconds


if __name__ == "__main__":
    raise SystemExit(main(measure))
