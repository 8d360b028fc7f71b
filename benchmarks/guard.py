"""How much work the hot pieces do, in counts that no neighbour on the machine can change.

    python -m benchmarks.guard [--write]

Counted are operators that torch calls, bytes that they make anew, floating-point operations, calls
of Python functions, and packets that a decoder is fed: where one of them grows, so does the time,
on every machine. `tests/benchmarks/test_guard.py` holds them against ``guard.json``; a piece may
need 15 % more before the test fails. ``--write`` records what is counted now.

A count says nothing of an operator that itself became slower: for that there is `make bench`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from gcg.build import build_model
from gcg.config import GCGConfig
from gcg.picking import pick, video_runs
from gcg.selection import perturbed_topk, seeded_noise

RECORDED = Path(__file__).with_name("guard.json")
MARGIN = 1.15
B, T, K, DRAWS = 4, 32, 4, 500

Counts = dict[str, int]


class _Work(TorchDispatchMode):
    """Operators, and bytes of results that share memory with none of their inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.operators = self.bytes = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        held = {_storage(x) for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
        self.operators += 1
        for made in tree_leaves(result):
            if isinstance(made, Tensor) and _storage(made) not in held:
                self.bytes += made.untyped_storage().nbytes()
        return result


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def torch_work(piece: Callable[[], object]) -> Counts:
    """Operators, bytes and FLOPs of a piece, run once before to be warm."""
    piece()
    with _Work() as work:
        piece()
    with FlopCounterMode(display=False) as flops:
        piece()
    counts = {"operators": work.operators, "bytes": work.bytes}
    return counts | ({"FLOPs": found} if (found := flops.get_total_flops()) else {})


def python_work(piece: Callable[[], object]) -> Counts:
    """Calls of Python functions by a piece, run once before to be warm."""
    calls = 0

    def count(frame: FrameType, event: str, argument: object) -> None:
        nonlocal calls
        calls += event == "call"

    piece()
    sys.setprofile(count)
    try:
        piece()
    finally:
        sys.setprofile(None)
    return {"calls": calls}


def perturbed(k: int, *, diagonal: bool) -> Callable[[], object]:
    torch.manual_seed(0)
    weights = torch.rand(B, T).requires_grad_()
    noise, upstream = seeded_noise(torch.arange(B), DRAWS, T), torch.randn(B, k, T)

    def run() -> object:
        indicator = perturbed_topk(weights, noise, k, 0.05, diagonal=diagonal)
        return torch.autograd.grad(indicator, weights, upstream)

    return run


def picked(values: int, *, few: bool) -> Callable[[], object]:
    """Frames mixed for the questions of two videos, forward and backward."""
    torch.manual_seed(0)
    index = torch.arange(B) // 2
    indicator = torch.rand(B, K, T)
    if few:
        indicator = torch.where(indicator > 0.9, indicator, 0.0)
    indicator.requires_grad_()
    frames, upstream = torch.randn(2, T, values), torch.randn(B, K, values)

    def run() -> object:
        mixed = pick(indicator, frames, video_runs(index))
        return torch.autograd.grad(mixed, indicator, upstream)

    return run


def whole_pass(profile: str) -> Callable[[], object]:
    """The tiny model on two clips of three questions, forward and backward."""
    from tests.gcg.test_model import config, inputs

    section = {"noise_samples": DRAWS, "dropout": 0.1}
    tree: GCGConfig = config("grounding", profile=profile, grounding=section)
    model, batch = build_model(tree), inputs((3, 2))
    if profile == "released":
        from tests.gcg.test_host import released

        batch |= released(batch)

    def run() -> object:
        output = model(**batch)
        (output.loss_vqa + output.loss_reg + output.loss_con).sum().backward()
        model.zero_grad()
        return output

    return run


def answer_loss(kind: str) -> Callable[[], object]:
    """A language model's loss and the gradient of its soft prompt."""
    from gcg.answering import build_answerer
    from tests.gcg.llms import WIDTH, small_llm

    torch.manual_seed(0)
    answerer = build_answerer(small_llm(kind), (7, 8), (1,))
    ids = torch.full((4, 24), 5)
    answers, soft = torch.full((4, 6), 5), torch.randn(4, 32, WIDTH, requires_grad=True)

    def run() -> object:
        loss = answerer.loss(soft, ids, torch.ones_like(ids), answers)
        return torch.autograd.grad(loss.sum(), soft)

    return run


def step_of_a_rank() -> Callable[[], object]:
    """The visits of a step of one rank of 512, in the middle of an epoch."""
    from dataloaders.plan import Plan

    plan = Plan(
        [{4: 32}] * 4096,
        lambda shard: [4] * 32,
        seed=0,
        num_streams=512,
        global_batch=2048,
        questions_per_visit=4,
    )
    return lambda: plan.visits(3, 20, 17, 512)


def fed_packets() -> Counts:
    """Packets that a decoder is fed for 8 of 240 frames, with a keyframe each 24."""
    from dataloaders.container import open_clip
    from dataloaders.decode import packets_to_feed
    from dataloaders.frames import uniform_indices
    from dataloaders.packet_index import packet_index
    from tests.dataloaders.clips import clip

    with open_clip(clip(frames=240, options={"g": "24"})) as (container, stream):
        index = packet_index(container, stream)
    wanted = {index.presented[frame] for frame in uniform_indices(240, 8)}
    return {"packets": sum(map(len, packets_to_feed(index, wanted)))}


def measure() -> dict[str, Counts]:
    """The counts of every piece."""
    pieces = {
        "perturbed top-K": perturbed(K, diagonal=False),
        "perturbed top-K of the negatives, diagonal": perturbed(T - K, diagonal=True),
        "frames mixed, all": picked(1024, few=False),
        "frames mixed, few of large ones": picked(1 << 17, few=True),
        "tiny model, paper": whole_pass("paper"),
        "tiny model, released": whole_pass("released"),
        "answer loss, t5": answer_loss("t5"),
        "answer loss, llama": answer_loss("llama"),
    }
    found = {name: torch_work(piece) for name, piece in pieces.items()}
    found["plan, a rank's step"] = python_work(step_of_a_rank())
    found["decoder"] = fed_packets()
    return found


def losses(found: Mapping[str, Counts], recorded: Mapping[str, Counts]) -> list[str]:
    """A line for each count that has grown beyond :data:`MARGIN`, or is not recorded."""
    lines = []
    for piece, counts in found.items():
        for name, count in counts.items():
            before = recorded.get(piece, {}).get(name)
            if before is None:
                lines.append(
                    f"{piece}: {name}: not recorded; run python -m benchmarks.guard --write"
                )
            elif count > MARGIN * before:
                lines.append(f"{piece}: {name}: {count} where {before} were recorded")
    return lines


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Count what the hot pieces do.")
    parser.add_argument("--write", action="store_true", help="record what is counted")
    args = parser.parse_args(argv)
    found = measure()
    sys.stdout.write(json.dumps(found, indent=1) + "\n")
    if args.write:
        RECORDED.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        return 0
    grown = losses(found, json.loads(RECORDED.read_text(encoding="utf-8")))
    sys.stderr.writelines(f"{line}\n" for line in grown)
    return 1 if grown else 0


if __name__ == "__main__":
    raise SystemExit(main())
