"""Perturbed top-K without the one-hot tensor against the direct formulation.

    python -m benchmarks.selection [--device cuda] [--rounds 5]

Both choose K of T frames with n draws a pair, mix the frames' tokens (257 × 1408 values a frame)
and run backward. The direct way builds the one-hot tensor (B, n, K, T) in float32, averages it, and
keeps it for the gradient; ours counts by scatter and gathers. Each runs in a process of its own for
peak memory; for time they run alternately in one process (CPU time on a CPU). Prints medians and
ratios: a machine's speed drifts, so an absolute time means little.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.device import synchronise
from benchmarks.memory import added, apart
from gcg.selection import perturbed_topk

SCALE = 0.05


class _Direct(torch.autograd.Function):
    """The perturbed optimizer as it is written down: one-hot of every draw, then the mean."""

    @staticmethod
    def forward(ctx: Any, weights_PT: Tensor, noise_PNT: Tensor, k: int) -> Tensor:
        perturbed = weights_PT.unsqueeze(1) + SCALE * noise_PNT
        indices_PNK = perturbed.topk(k, dim=-1).indices.sort(dim=-1).values
        one_hot_PNKT = F.one_hot(indices_PNK, weights_PT.shape[1]).float()
        ctx.save_for_backward(one_hot_PNKT, noise_PNT)
        return one_hot_PNKT.mean(dim=1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        one_hot_PNKT, noise_PNT = ctx.saved_tensors
        upstream = torch.einsum("pnkt,pkt->pn", one_hot_PNKT, grads[0])
        gradient = torch.einsum("pn,pnt->pt", upstream, noise_PNT)
        return gradient / (noise_PNT.shape[1] * SCALE), None, None


def direct(weights_PT: Tensor, noise_PNT: Tensor, k: int) -> Tensor:
    """Indicator (P, K, T) through the one-hot tensor."""
    return _Direct.apply(weights_PT, noise_PNT, k)  # type: ignore[return-value]


def counted(weights_PT: Tensor, noise_PNT: Tensor, k: int) -> Tensor:
    """Indicator (P, K, T) as GCG training computes it."""
    return perturbed_topk(weights_PT, noise_PNT, k, SCALE)


Select = Callable[[Tensor, Tensor, int], Tensor]
WAYS: dict[str, Select] = {"direct": direct, "counted": counted}


def inputs(args: argparse.Namespace) -> tuple[Tensor, Tensor, Tensor]:
    """Weights (B, T) that want a gradient, noise (B, n, T), frames (B, T, values)."""
    generator = torch.Generator().manual_seed(0)
    weights = torch.rand(args.batch, args.frames, generator=generator)
    noise = torch.randn(args.batch, args.draws, args.frames, generator=generator)
    frames = torch.randn(args.batch, args.frames, args.values, generator=generator)
    device = torch.device(args.device)
    return weights.to(device).requires_grad_(), noise.to(device), frames.to(device)


def run(select: Select, weights: Tensor, noise: Tensor, frames: Tensor, k: int) -> Tensor:
    """Forward and backward; the gradient of the weights."""
    mixed = select(weights, noise, k) @ frames
    (gradient,) = torch.autograd.grad(mixed.square().mean(), weights)
    return gradient


def indicator_only(
    select: Select, weights: Tensor, noise: Tensor, frames: Tensor, k: int
) -> Tensor:
    """The selection alone, forward and backward, without mixing any frame."""
    indicator = select(weights, noise, k)
    upstream = frames[:, :k, : indicator.shape[2]]
    (gradient,) = torch.autograd.grad(indicator, weights, upstream)
    return gradient


STAGES = {"selection alone": indicator_only, "with the frames mixed": run}


def timed(args: argparse.Namespace, stage: Callable[..., Tensor]) -> dict[str, list[float]]:
    """Seconds of each round, the ways in turn."""
    weights, noise, frames = inputs(args)
    # On a CPU the process's own time: others may be using the same cores.
    clock = time.perf_counter if args.device == "cuda" else time.process_time
    seconds: dict[str, list[float]] = {name: [] for name in WAYS}
    for number in range(args.rounds + 1):
        for name, select in WAYS.items():
            synchronise(torch.device(args.device))
            began = clock()
            stage(select, weights, noise, frames, args.moments)
            synchronise(torch.device(args.device))
            if number:  # the first round warms up
                seconds[name].append(clock() - began)
    return seconds


def peak_bytes(name: str, stage: str, args: argparse.Namespace) -> int:
    """Peak memory that one run adds; in a process of its own, where no other run left any."""
    torch.set_num_threads(args.threads)
    weights, noise, frames = inputs(args)

    def piece(draws: int | None = None) -> None:
        STAGES[stage](WAYS[name], weights, noise[:, :draws], frames, args.moments)

    piece(2)  # loads the libraries' own buffers
    if args.device == "cpu":
        return added(piece)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    piece()
    return torch.cuda.max_memory_allocated() - before


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--frames", type=int, default=32)
    parser.add_argument("--moments", type=int, default=4)
    parser.add_argument("--draws", type=int, default=500)
    parser.add_argument("--values", type=int, default=257 * 1408)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    sys.stdout.write(
        f"B {args.batch} T {args.frames} K {args.moments} n {args.draws}, {args.values} values a "
        f"frame, float32, {args.device}\n"
    )
    weights, noise, frames = inputs(args)
    results = [run(select, weights, noise, frames, args.moments) for select in WAYS.values()]
    torch.testing.assert_close(*results)
    for stage, function in STAGES.items():
        seconds = timed(args, function)
        pairs = zip(seconds["direct"], seconds["counted"], strict=True)
        ratio = statistics.median(ours / theirs for theirs, ours in pairs)
        peaks = {name: apart(peak_bytes, name, stage, args) for name in WAYS}
        sys.stdout.write(f"{stage}\n")
        for name in WAYS:
            middle = 1e3 * statistics.median(seconds[name])
            sys.stdout.write(f"  {name:<10}{middle:>10.1f} ms{peaks[name] / 2**20:>10.1f} MiB\n")
        memory = peaks["counted"] / max(peaks["direct"], 1)
        sys.stdout.write(f"  counted / direct: time {ratio:.2f}, peak memory {memory:.2f}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
