"""What training waits for data, and what several questions a decoded clip gain: real runs.

    python -m benchmarks.overlap --work DIR [--quick] [--json FILE]

Every figure is of `gcg train` on CPU workers, through Ray and DeepSpeed, from the runs' metrics,
or of the run's loader alone. One thread computes and one decodes, so that on two cores neither
takes the other's. Runs that are compared take turns.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.loading.clips import RATE, Recipe
from benchmarks.loading.runs import (
    WARM,
    Steps,
    loader_alone,
    make_data,
    make_model,
    run_tree,
    train,
)
from benchmarks.results import Claim, Curve, Ratio, Result, Table, interleaved, machine, main

QUESTIONS = (1, 2, 4, 8)
PUBLISHED = ("flan-t5-xl", "flan-t5-xxl", "vicuna-7b", "vicuna-13b")
SHORT = Recipe(240, 10, RATE)
LONG = Recipe(480, 20, 250)
# A step of this model on two visits takes a fraction of what decoding LONG twice does.
TINY = {"preset": "tiny", "num_frames": 32, "num_moments": 4, "llm": {"train": "full"}}


def measure(work: Path, quick: bool) -> Result:
    """Overlap of loading and computing, and what several questions a clip gain."""
    model = make_model(work)
    short = make_data(work, SHORT, model)
    runs, both = compute_bound(short, model, quick)
    decoding, rates = decode_bound(make_data(work, LONG, TINY), quick)
    many = runs[QUESTIONS[-1]]
    waits = Ratio.around([run.wait_share for run in many])
    gain = Ratio.of([r.pairs_per_s for r in many], [r.pairs_per_s for r in runs[1]])
    return Result(
        title="Overlap of loading and training",
        claims=(
            Claim(
                "data wait / step, compute-bound", _percent(waits), "≤ 5 %", waits.median <= 0.05
            ),
            decoding.at_least("clips a second, decode-bound: training / its loader alone", 0.9),
            gain.at_least("questions a second, 8 a visit / 1 a visit, training", 4),
        ),
        tables=(_waiting({"one worker": many, "two workers": both}), _by_flops(model)),
        curves=(_curve(runs),),
        notes=_notes(rates),
        data={
            "questions a visit": {n: [asdict(run) for run in each] for n, each in runs.items()},
            "two workers": [asdict(run) for run in both],
            "decode-bound": rates,
        },
    )


def compute_bound(
    packed: Path, model: dict[str, Any], quick: bool
) -> tuple[dict[int, list[Steps]], list[Steps]]:
    """Runs whose step takes longer than decoding its clips, by questions a visit; and some of two
    workers, each with the work that the one has."""
    steps, rounds = (WARM + 2, 1) if quick else (WARM + 8, 3)
    numbers = (QUESTIONS[0], QUESTIONS[-1]) if quick else QUESTIONS
    runs: dict[int, list[Steps]] = {number: [] for number in numbers}
    both: list[Steps] = []

    def run(number: int, workers: int, into: list[Steps]) -> float:
        tree = run_tree(
            packed, model, f"q{number}-w{workers}", steps,
            data={"questions_per_visit": number, "global_batch": 2 * workers},
            scale={"num_workers": workers},
        )  # fmt: skip
        into.append(train(tree))
        _say(f"{number} questions, {workers} workers: {into[-1].pairs_per_s:.2f} questions/s")
        return into[-1].pairs_per_s

    ways: dict[str, Callable[[], float]] = {
        str(number): partial(run, number, 1, runs[number]) for number in numbers
    }
    ways["two workers"] = partial(run, QUESTIONS[-1], 2, both)
    interleaved(ways, rounds, warm=0)
    return runs, both


def decode_bound(packed: Path, quick: bool) -> tuple[Ratio, dict[str, list[float]]]:
    """Steps a second of a run that waits for its clips, against its loader alone; and both."""
    steps, rounds = (WARM + 3, 1) if quick else (WARM + 15, 3)
    tree = run_tree(packed, TINY, "decode-bound", steps, data={"questions_per_visit": 1})
    computing: list[float] = []

    def training() -> float:
        run = train(tree)
        computing.append(1 - run.wait_share)
        _say(f"decode-bound: {run.steps_per_s:.3f} steps/s, {run.wait_share:.0%} of it waiting")
        return run.steps_per_s

    def alone() -> float:
        rate = loader_alone(tree)
        _say(f"its loader alone: {rate:.3f} steps/s")
        return rate

    rates = interleaved({"training": training, "alone": alone}, rounds, warm=0)
    ratio = Ratio.of(rates["training"], rates["alone"])
    return ratio, {**rates, "computing": computing}


def _waiting(kinds: Mapping[str, Sequence[Steps]]) -> Table:
    """Where the compute-bound runs wait: medians over runs of their means."""

    def row(what: str, seconds: Callable[[Steps], float]) -> tuple[str, ...]:
        cells = (1000 * statistics.median(map(seconds, runs)) for runs in kinds.values())
        return what, *(f"{cell:.1f} ms" for cell in cells)

    mean = statistics.mean
    rows = (
        row("step", lambda run: mean(run.seconds)),
        row("data wait of it", lambda run: mean(run.wait_s)),
        row("– for the rank's own loader", lambda run: mean(run.loader_s)),
        row(
            "– for the other's, agreeing, asking Ray for notice of a node that goes",
            lambda run: mean(run.wait_s) - mean(run.loader_s),
        ),
        row("wait for the first batch of all, not in it", lambda run: run.first_wait_s),
    )
    return Table("Data wait of the compute-bound run, 8 questions a visit", ("", *kinds), rows)


def _by_flops(model: dict[str, Any]) -> Table:
    """What 8 questions a visit gain if a step takes as long as its FLOPs, by model."""
    published = {
        f"InstructBLIP {name}": {
            "preset": "instructblip", "checkpoint": f"Salesforce/instructblip-{name}",
        }
        for name in PUBLISHED
    }  # fmt: skip
    rows = []
    for name, section in {"the measured one": model, **published}.items():
        frames, question = _work(section)
        gain = QUESTIONS[-1] * (frames + question) / (frames + QUESTIONS[-1] * question)
        rows.append((name, f"{frames / question:.1f}", f"{gain:.1f}"))
    columns = ("model", "FLOPs of a clip's frames / of a question", "8 questions a visit / 1")
    return Table("The gain by FLOPs alone (32 frames, 20 words of prompt)", columns, tuple(rows))


def _work(section: dict[str, Any]) -> tuple[float, float]:
    """FLOPs of a visit's frames and of one of its questions, forward and backward."""
    from gcg.config import GCGConfig
    from gcg.presets import resolve_preset
    from launcher.planning.flops import pair_flops
    from launcher.planning.shapes import MicroBatch, model_shape

    config = GCGConfig.model_validate(section)
    texts = MicroBatch(
        visits=1, pairs=1, question=16, prompt=20, answer=5, frames_per_pass=config.num_frames
    )
    parts = pair_flops(model_shape(config, resolve_preset(config)), texts, 1)
    frames = sum(part.total for part in parts if part.part in ("vision trunk", "joint head"))
    return frames, sum(part.total for part in parts) - frames


def _curve(runs: Mapping[int, Sequence[Steps]]) -> Curve:
    points = [(n, statistics.median(run.pairs_per_s for run in each)) for n, each in runs.items()]
    even = [(n, n * points[0][1]) for n, _ in points]
    return Curve(
        "questions_per_visit",
        "Training: questions a second",
        "questions asked of a decoded clip",
        "questions a second",
        {"measured": points, "if questions were free": even},
        log_x=True,
    )


def _notes(rates: Mapping[str, Sequence[float]]) -> tuple[str, ...]:
    share = statistics.median(rates["computing"])
    return (
        f"{machine()}; fp32, ZeRO-2, two visits a worker and step; the first {WARM} steps of each "
        "run are left out. One thread computes and one decodes, on a core each (two workers have "
        "four threads on two cores).",
        f"Compute-bound: 32 frames of 224 pixels of clips of {SHORT.name}, the model of "
        "`benchmarks.loading.runs.make_model`. Decode-bound: preset tiny, clips of "
        f"{LONG.name}, one question a visit; its step computes for {share:.0%} of the time.",
    )


def _percent(share: Ratio) -> str:
    return f"{share.median:.1%} ({share.low:.1%} to {share.high:.1%})"


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


if __name__ == "__main__":
    raise SystemExit(main(measure))
