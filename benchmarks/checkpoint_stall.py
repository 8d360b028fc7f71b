"""What training waits for a checkpoint: written in the background against at once, in one run.

    python -m benchmarks.checkpoint_stall --work DIR [--millions 300] [--rounds 4]

Two ranks over gloo train a stack of linear layers (fp32, ZeRO-2) through the product's engine, step
and checkpoint keeper. Every round trains for a while and saves, in turn in the background and at
once. The stall is what `save` takes; what writing costs the steps beside it is shown apart. Figures
are medians over rounds; the share is of a minute of training with one save in it.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

WORLD_SIZE, WIDTH = 2, 2048


class Losses(NamedTuple):
    loss_vqa: Tensor
    loss_reg: Tensor
    loss_con: Tensor


class Stack(nn.Module):
    """Linear layers, all of them trained. (P, WIDTH) -> three losses a row."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(layers))

    def forward(self, features: Tensor) -> Losses:
        hidden = features
        for layer in self.layers:
            hidden = hidden + torch.tanh(layer(hidden))
        loss = hidden.float().pow(2).mean(dim=1)
        return Losses(loss, 0 * loss, 0 * loss)

    def grounding_parameters(self) -> list[nn.Parameter]:
        return list(self.layers[0].parameters())

    def projection_parameters(self) -> list[nn.Parameter]:
        return []

    def other_trained_parameters(self) -> list[nn.Parameter]:
        return [p for layer in list(self.layers)[1:] for p in layer.parameters()]


class Rows(NamedTuple):
    """A micro-batch."""

    features: Tensor

    def model_inputs(self) -> dict[str, Tensor | None]:
        return {"features": self.features}


def measure(work: str, layers: int, rounds: int, seconds: float) -> list[dict[str, Any]]:
    """One rank. A row a save: how it was written, its stall, and the steps before and beside it."""
    from launcher.checkpoints.keeper import Position
    from tests.launcher.test_engine import Attempt

    torch.set_num_threads(1)
    torch.manual_seed(0)
    attempt = Attempt(Path(work), model=Stack(layers), engine__precision="fp32")  # type: ignore[arg-type]
    batch = [Rows(torch.randn(2, WIDTH)) for _ in range(attempt.config.accumulation)]
    pairs = 2 * len(batch) * WORLD_SIZE
    done, rows = 0, []

    def steps(until: float) -> Iterator[float]:
        nonlocal done
        while time.monotonic() < until:
            began = time.monotonic()
            attempt.step(batch, done, pairs)
            done += 1
            yield time.monotonic() - began

    number = 1 if attempt.rank else 0
    agreed = torch.zeros(1)
    for save in range(2 * rounds + 2):
        in_background = save % 2 == 0
        plain = _together(steps, seconds, number, agreed)
        _set_background(attempt, in_background)
        began = time.monotonic()
        attempt.keeper.save(Position(done, {"epoch": 0, "step": done}))
        stall = time.monotonic() - began
        beside = _together(steps, seconds, number, agreed) if in_background else []
        attempt.keeper.wait()
        saved = attempt.keeper.take_saved()
        if save >= 2:  # the first of each kind touches its memory for the first time
            rows.append(
                {
                    "background": in_background,
                    "stall": stall,
                    "write": saved.write_s if saved else 0.0,
                    "step": statistics.median(plain),
                    "beside": statistics.median(beside) if beside else None,
                }
            )
    attempt.keeper.close()
    return rows


def _together(steps: Any, seconds: float, rank: int, agreed: Tensor) -> list[float]:
    """Equally many steps on both ranks, for about so long."""
    import torch.distributed as dist

    times: list[float] = []
    began = time.monotonic()
    while True:
        times += [next(steps(float("inf")))]
        agreed.fill_(float(rank == 0 and time.monotonic() - began > seconds))
        dist.all_reduce(agreed)
        if agreed.item():
            return times


def _set_background(attempt: Any, in_background: bool) -> None:
    section = attempt.config.checkpoint.model_copy(update={"in_background": in_background})
    attempt.keeper._saver._section = section


def main(argv: list[str] | None = None) -> int:
    from tests.spawn import run_ranks

    parser = argparse.ArgumentParser(description="The stall of a checkpoint.")
    parser.add_argument("--work", type=Path, required=True, help="folder for checkpoints")
    parser.add_argument("--millions", type=int, default=300, help="of trained parameters")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=15.0, help="of training around a save")
    args = parser.parse_args(argv)
    layers = max(2, round(args.millions * 1e6 / WIDTH**2))
    rows = run_ranks(measure, WORLD_SIZE, str(args.work), layers, args.rounds, args.seconds,
                     timeout_s=3600)[0]  # fmt: skip
    shutil.rmtree(args.work / "toy", ignore_errors=True)
    sys.stdout.write(report(rows, layers))
    return 0


def report(rows: list[dict[str, Any]], layers: int) -> str:
    def median(name: str, background: bool) -> float:
        return statistics.median(row[name] for row in rows if row["background"] is background)

    lines = [
        f"{layers * WIDTH**2 / 1e6:.0f} million trained parameters, {WORLD_SIZE} ranks, "
        f"{len(rows) // 2} saves of each kind",
        "| | stall (s) | share of a minute | written in (s) |",
        "|---|---|---|---|",
    ]
    for name, kind in (("in the background", True), ("at once", False)):
        stall = median("stall", kind)
        share = 100 * stall / (60 + stall)
        lines.append(f"| {name} | {stall:.2f} | {share:.1f} % | {median('write', kind):.1f} |")
    step, beside = median("step", True), median("beside", True)
    lines.append(
        f"stall, background / at once: {median('stall', True) / median('stall', False):.3f}"
    )
    lines.append(f"step beside writing / step: {beside / step:.2f} ({beside:.2f} / {step:.2f} s)")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    raise SystemExit(main())
