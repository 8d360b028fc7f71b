"""Which AdamW to run on the host, where the optimizer is offloaded: torch's three, DeepSpeed's own.

    python -m benchmarks.host_adam [--millions 10 30] [--threads 1 2] [--rounds 6] [--deepspeed]

Each makes the same updates of one flat float32 tensor, in turn; figures are medians without the
first round, relative to torch's fused form. DeepSpeed's is compiled first (g++, ninja, minutes;
the time is printed), and is left out unless asked for.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

HYPER: dict[str, Any] = {"lr": 1e-3, "betas": (0.9, 0.999), "weight_decay": 0.02}
FORMS: dict[str, dict[str, Any]] = {
    "loop": {"foreach": False},
    "foreach": {"foreach": True},
    "fused": {"fused": True},
}
Step = Callable[[], object]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="AdamW on the host, in several forms.")
    parser.add_argument("--millions", type=float, nargs="+", default=[10, 30], help="of parameters")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--deepspeed", action="store_true", help="compile and measure its own, too")
    args = parser.parse_args(argv)
    if args.deepspeed:
        began = time.perf_counter()
        deepspeed_adam(torch.zeros(8))
        sys.stdout.write(f"compiled in {time.perf_counter() - began:.0f} s\n")
    sys.stdout.write("| threads | parameters (M) | form | s | relative | GB/s | ‖a − b‖ / ‖b‖ |\n")
    sys.stdout.write("|---|---|---|---|---|---|---|\n")
    for threads in args.threads:
        torch.set_num_threads(threads)
        for millions in args.millions:
            compare(int(millions * 1e6), threads, args.rounds, with_deepspeed=args.deepspeed)
    return 0


def compare(numel: int, threads: int, rounds: int, *, with_deepspeed: bool) -> None:
    """Rows for one size, the forms interleaved."""
    values = torch.randn(numel, generator=torch.Generator().manual_seed(0))
    made = {name: torch_adam(values, form) for name, form in FORMS.items()}
    if with_deepspeed:
        made["DeepSpeed's"] = deepspeed_adam(values)
    taken: dict[str, list[float]] = {name: [] for name in made}
    for _ in range(rounds):
        for name, (_, step) in made.items():
            began = time.perf_counter()
            step()
            taken[name].append(time.perf_counter() - began)
    medians = {name: statistics.median(times[1:]) for name, times in taken.items()}
    exact = made["loop"][0]
    for name, (weight, _) in made.items():
        gap = float((weight - exact).norm() / exact.norm())
        sys.stdout.write(
            f"| {threads} | {numel / 1e6:g} | {name} | {medians[name]:.4f} | "
            f"{medians[name] / medians['fused']:.2f} | {28e-9 * numel / medians[name]:.1f} | "
            f"{gap:.1e} |\n"
        )


def torch_adam(values: Tensor, form: dict[str, Any]) -> tuple[Tensor, Step]:
    """A weight and what updates it. Its gradients are its first values."""
    weight = nn.Parameter(values.clone())
    weight.grad = values
    return weight.detach(), torch.optim.AdamW([weight], **HYPER, **form).step


def deepspeed_adam(values: Tensor) -> tuple[Tensor, Step]:
    """As :func:`torch_adam`."""
    os.environ["DS_ACCELERATOR"] = "cpu"
    from deepspeed.ops.adam import DeepSpeedCPUAdam

    weight = nn.Parameter(values.clone())
    weight.grad = values
    return weight.detach(), DeepSpeedCPUAdam([weight], adamw_mode=True, **HYPER).step


if __name__ == "__main__":
    raise SystemExit(main())
