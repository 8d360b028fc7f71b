"""Does `gcg plan` say what a GPU really does? Real steps of real sizes, with random weights.

    python -m benchmarks.gpu_step [--models flan-t5-xl vicuna-7b ...] [--recompute none all]
        [--steps 6] [--seconds 60] [--json FILE]

Each configuration runs in a process of its own on one GPU: the InstructBLIP model of that size is
built without weights, filled with random ones on the GPU, wrapped in the engine that `gcg train`
uses (bf16, the LLM frozen), and makes training steps on a full micro-batch: four questions
on one clip of 32 frames, every text as long as the run file lets it be. Measured are the GPU
memory that the process takes (what the driver counts) and the median step; MFU counts the plan's
FLOPs against the rate of large matrix products, measured in the same process. Clips are not
decoded. ``--models tiny`` runs anywhere, also on a CPU.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor

from benchmarks.device import memory, product_rate, synchronise

INSTRUCTBLIP = "Salesforce/instructblip-"
XL = f"{INSTRUCTBLIP}flan-t5-xl"
# Name -> the model section's own fields.
MODELS: dict[str, dict[str, Any]] = {
    "tiny": {"preset": "tiny", "llm": {"train": "full"}},
    "flan-t5-xl": {"checkpoint": XL},
    "flan-t5-xxl": {"checkpoint": f"{INSTRUCTBLIP}flan-t5-xxl"},
    "vicuna-7b": {"checkpoint": f"{INSTRUCTBLIP}vicuna-7b"},
    "vicuna-13b": {"checkpoint": f"{INSTRUCTBLIP}vicuna-13b"},
}
RECOMPUTED = {"none": [], "llm": ["llm"], "all": ["vision", "qformer", "llm"]}
QUESTIONS = 4
CLIP_END = 49407  # open_clip's end-of-text token, off which the text tower reads its embedding


@dataclass(frozen=True)
class RandomWeight:
    """A weight of small normal values, drawn where they are needed."""

    shape: tuple[int, ...]
    device: torch.device
    dtype: torch.dtype = torch.float32

    def flat(self, start: int, stop: int) -> Tensor:
        if len(self.shape) == 1:  # norms and biases
            return torch.ones(stop - start, device=self.device)
        return torch.randn(stop - start, device=self.device) * 0.02


@dataclass(frozen=True)
class FullBatch:
    """A micro-batch without padding, as the plan counts it."""

    inputs: dict[str, Tensor]

    def model_inputs(self) -> dict[str, Tensor]:
        return self.inputs


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Planned and measured, on one GPU.")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=["flan-t5-xl", "vicuna-7b"])
    parser.add_argument("--recompute", nargs="+", choices=RECOMPUTED, default=["none", "all"])
    parser.add_argument("--micro", type=int, nargs="+", default=[1], help="visits a micro-batch")
    parser.add_argument("--precision", default="bf16", choices=["bf16", "fp16", "fp32"])
    parser.add_argument("--zero", type=int, nargs="+", default=[2], choices=[1, 2, 3])
    parser.add_argument("--liger", action="store_true", help="Liger kernels in the LLM")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=300, help="limit of one configuration")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.child:
        sys.stdout.write("RESULT " + json.dumps(measure(**json.loads(args.child))) + "\n")
        return 0
    rows = []
    for name in args.models:
        for how in args.recompute:
            for micro, zero in itertools.product(args.micro, args.zero):
                row = {
                    "name": name, "how": how, "micro": micro, "precision": args.precision,
                    "liger": args.liger, "steps": args.steps, "zero": zero,
                }  # fmt: skip
                rows.append(in_child(row, args.seconds))
                if args.json is not None:
                    args.json.write_text(json.dumps(rows, indent=1) + "\n")
    sys.stdout.write(table(rows))
    return 0


def in_child(row: dict[str, Any], seconds: float) -> dict[str, Any]:
    """The figures of one configuration, or ``error``: why there are none."""
    command = [sys.executable, "-m", "benchmarks.gpu_step", "--child", json.dumps(row)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        return {**row, "error": f"took more than {seconds:.0f} s"}
    for line in done.stdout.splitlines():
        if line.startswith("RESULT "):
            return {**row, **json.loads(line.removeprefix("RESULT "))}
    said = [line for line in done.stderr.splitlines() if line.strip()] or ["said nothing"]
    sys.stderr.write("\n".join(said[-25:]) + "\n")
    return {**row, "error": said[-1][:300]}


def run_tree(
    name: str, how: str, micro: int, precision: str, liger: bool, zero: int
) -> dict[str, Any]:
    """The published recipe's sizes on one GPU."""
    model = {"preset": "instructblip", **MODELS[name]}
    model["llm"] = {**model.get("llm", {}), "liger": liger}
    return {
        "run": {"name": "gpu-step"},
        "data": {
            "train": "nowhere",
            "questions_per_visit": QUESTIONS,
            "streams": 1,
            "global_batch": micro,
            "contrast_group": micro,
        },
        "model": model,
        "optim": {"steps": 1000},
        "engine": {
            "zero": zero,
            "precision": precision,
            "micro_batch": micro,
            "recompute": RECOMPUTED[how],
        },
        "scale": {"num_workers": 1, "use_gpu": torch.cuda.is_available()},
    }


def measure(
    name: str, how: str, micro: int, precision: str, liger: bool, steps: int, zero: int
) -> dict[str, Any]:
    """Plan one configuration, and make its steps. Run it in a process of its own."""
    from launcher.config import parse_run_config
    from launcher.planning import make_plan
    from launcher.planning.timing import Hardware
    from launcher.training.engine import build_engine, model_dtype
    from launcher.training.guard import Guard
    from launcher.training.sharded import worker_device
    from launcher.training.step import TrainStep

    config = parse_run_config(run_tree(name, how, micro, precision, liger, zero))
    join_alone(config.scale.use_gpu)
    plan = make_plan(config, Hardware(memory=80e9), gpus=1)
    device = worker_device(config)
    engine = build_engine(random_model(config, device), config)
    step = TrainStep(engine, config, Guard(config.safety))
    batch = full_batch(config, plan.batch, plan.situation.model.image_size)
    seconds, losses = [], []
    for number in range(steps):
        synchronise(device)
        began = time.perf_counter()
        losses.append(step([batch], number, plan.batch.pairs).loss)
        synchronise(device)
        seconds.append(time.perf_counter() - began)
    peak = product_rate(device, model_dtype(config))
    dist.destroy_process_group()
    median = statistics.median(seconds[2:] or seconds)
    flops = plan.batch.pairs * sum(part.total for part in plan.flops)
    return {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "torch": torch.__version__,
        "parameters": plan.census.total,
        "trained": plan.census.trained,
        "planned": plan.memory.peak,
        "memory": memory(device),
        "seconds": median,
        "all_seconds": seconds,
        "pairs": plan.batch.pairs,
        "flops": flops,
        "peak": peak,
        "mfu": flops / median / peak,
        "losses": losses,
    }


def join_alone(use_gpu: bool) -> None:
    """A process group of this process alone."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    os.environ.update(
        RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
    )
    from launcher.training.engine import import_deepspeed

    import_deepspeed(use_gpu)
    if use_gpu:
        torch.cuda.set_device(0)
    dist.init_process_group("nccl" if use_gpu else "gloo", rank=0, world_size=1)


def random_model(config: Any, device: torch.device) -> Any:
    """The run's model with random weights. Its LLM's addressing has no tokenizer to come from: a
    begin token for LLMs that have one, and an end token."""
    from gcg.build import build_skeleton
    from gcg.skeleton import materialise
    from launcher.training.engine import model_dtype

    tokens = cast("Any", SimpleNamespace(prefix_ids=(), end_ids=(1,)))
    model = build_skeleton(config.model, tokens)

    def values() -> Iterator[tuple[str, RandomWeight]]:
        for name, parameter in model.named_parameters():
            yield name, RandomWeight(tuple(parameter.shape), device)

    materialise(model, values(), model_dtype(config), device)
    return model


def full_batch(config: Any, batch: Any, image_size: int) -> FullBatch:
    """A model's inputs, every text as long as the plan takes it to be; nothing is padding."""
    generator = torch.Generator().manual_seed(0)
    model, pairs = config.model, batch.pairs
    lengths = {
        "question": batch.question, "description": batch.question, "qformer": batch.question,
        "prompt": batch.prompt,
    }  # fmt: skip
    inputs = {
        "pixel_values": torch.randn(
            batch.visits, model.num_frames, 3, image_size, image_size, generator=generator
        ),
        "video_index": torch.arange(batch.visits).repeat_interleave(QUESTIONS),
        "answer_ids": torch.randint(5, 200, (pairs, batch.answer), generator=generator),
        "moments": torch.arange(model.num_moments).expand(pairs, -1),
        "similarity": torch.rand(pairs, model.num_frames, generator=generator),
        "noise_seeds": torch.arange(pairs),
        "contrast_group": torch.zeros(batch.visits, dtype=torch.int64),
        "positions": torch.arange(batch.visits),
    }
    for text, length in lengths.items():
        ids = torch.randint(5, 200, (pairs, length), generator=generator)
        if text in ("question", "description"):
            ids[:, -1] = 3 if model.preset == "tiny" else CLIP_END
        inputs |= {f"{text}_ids": ids, f"{text}_mask": torch.ones_like(ids)}
    return FullBatch(inputs)


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown; GB are 10^9 bytes."""
    lines = [
        "| model | ZeRO | micro-batch | recompute | planned GB | measured GB (tensors) "
        "| planned / measured | s a step | pairs/s | TFLOP/s | MFU |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        name = f"{row['name']}{' + Liger' if row['liger'] else ''}"
        head = f"| {name} | {row['zero']} | {row['micro']} | {row['how']}"
        if "error" in row:
            lines.append(f"{head} | – | {row['error']} | | | | | |")
            continue
        used = row["memory"]
        ratio = f"{row['planned'] / used['all']:.2f}" if used["all"] else "–"
        lines.append(
            f"{head} | {row['planned'] / 1e9:.1f} | {used['all'] / 1e9:.1f} "
            f"({used['tensors'] / 1e9:.1f}) | {ratio} | "
            f"{row['seconds']:.3f} | {row['pairs'] / row['seconds']:.1f} | "
            f"{row['flops'] / row['seconds'] / 1e12:.0f} | {100 * row['mfu']:.0f} % |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    raise SystemExit(main())
