"""From the arguments of `gcg plan` to what it prints."""

from __future__ import annotations

import argparse
import json
import os

from launcher.config import RunConfig, load_run_config
from launcher.errors import UserError
from launcher.planning import make_plan
from launcher.planning.report import text, tree
from launcher.planning.timing import Hardware

# Of the GPUs that most are planned on, in 10^9 bytes.
_GPU_MEMORY = 80.0
_POSITIVE = (
    "gpu_memory", "tflops", "mfu", "nvlink", "network", "pcie", "read", "write", "question_tokens",
)  # fmt: skip


def plan_file(args: argparse.Namespace) -> str:
    """The report on a run file.

    Raises:
        UserError: with all that a user must put right.
    """
    _check(args)
    config = load_run_config(args.config, args.overrides)
    device = args.device or ("cuda" if config.scale.use_gpu else "cpu")
    plan = make_plan(
        config,
        Hardware(
            memory=_memory(args, config, device),
            tflops=args.tflops,
            mfu=args.mfu,
            nvlink=args.nvlink,
            network=args.network,
            pcie=args.pcie,
            read=args.read * 1e9,
            write=args.write * 1e9,
        ),
        device=device,
        gpus=args.gpus,
        nodes=args.nodes,
        question_tokens=args.question_tokens,
    )
    return json.dumps(tree(plan), indent=1) if args.json else text(plan)


def _check(args: argparse.Namespace) -> None:
    problems = [
        f"--{name.replace('_', '-')} {value:g}: must be more than 0"
        for name in _POSITIVE
        if (value := getattr(args, name)) is not None and not value > 0
    ]
    if args.mfu > 1:
        problems.append(f"--mfu {args.mfu:g}: is a share of the peak; give at most 1, such as 0.4")
    if problems:
        raise UserError(problems)


def _memory(args: argparse.Namespace, config: RunConfig, device: str) -> float:
    if args.gpu_memory is not None:
        return args.gpu_memory * 1e9
    if device == "cuda":
        return _GPU_MEMORY * 1e9
    # Workers on CPUs share what this machine has.
    workers = (args.gpus or config.world_size) // (args.nodes or 1)
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / max(1, workers)
