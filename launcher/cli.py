"""The command `gcg`: one subcommand a stage, in the order a sample walks through them.

Each handler imports what it needs when it runs, so that `gcg --help` answers at once. What a user
can put right ends in exit code 2, with a line on stderr for each fault.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from dataloaders.trust import RedactingFormatter
from launcher.commands import (
    checkpoints,
    data,
    evaluate,
    features,
    guarded,
    jobs,
    k8s,
    models,
    predict,
    report,
    score,
    ui,
    usage,
)
from launcher.commands import stages as handlers


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="gcg", description="Train video QA that finds the moment")
    stages = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    data.add_to(stages)
    features.add_to(stages)

    stage = stages.add_parser("label", help="find the frames each training question is about")
    stage.add_argument("data", nargs="+", metavar="DATA", help="packed folders or URLs")
    stage.add_argument("--config", type=Path, help="run file: its model, and data.cache_*")
    stage.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    _label_arguments(stage)
    stage.set_defaults(run=handlers.label)

    stage = stages.add_parser("convert", help="public checkpoints into one folder for all workers")
    stage.add_argument("config", type=Path, metavar="CONFIG")
    stage.add_argument("out", type=Path, metavar="OUT", help="then: model.checkpoint: OUT")
    stage.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    stage.add_argument("--dtype", choices=["keep", "bf16", "fp16", "fp32"], default="keep")
    stage.set_defaults(run=handlers.convert)

    stage = stages.add_parser("plan", help="what a run needs: memory, time, batches; needs no GPU")
    _plan_arguments(stage)
    stage.set_defaults(run=handlers.plan)

    stage = stages.add_parser("doctor", help="what this machine has and lacks, and what to do")
    _doctor_arguments(stage)
    stage.set_defaults(run=handlers.doctor)

    stage = stages.add_parser("train", help="train, or go on with, the run a file describes")
    stage.add_argument("config", type=Path, metavar="CONFIG")
    stage.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    stage.add_argument(
        "--dry-run", action="store_true", help="check everything; start nothing, write nothing"
    )
    stage.add_argument(
        "--profile",
        type=int,
        nargs="?",
        const=5,
        metavar="STEPS",
        help="trace so many steps, 5, into RUN/profile; as log.profile",
    )
    stage.set_defaults(run=handlers.train)

    checkpoints.add_to(stages)
    evaluate.add_to(stages)
    score.add_to(stages)
    report.add_to(stages)
    models.add_to(stages)
    predict.add_to(stages)
    ui.add_to(stages)

    jobs.add_to(stages)
    k8s.add_to(stages)

    usage.add_completion(stages)
    usage.complete_help(parser)
    return parser


def _label_arguments(stage: argparse.ArgumentParser) -> None:
    stage.add_argument(
        "--strategy",
        action="append",
        metavar="NAME[:KEY=VALUE,...]",
        help="topk (default), soft, merge, steepness, contrast or order; contrast:lambda=0.7",
    )
    stage.add_argument("--name", help="of the label set; the strategy's name")
    stage.add_argument("--writer", choices=["template", "llm"], default="template")
    stage.add_argument("--llm", metavar="MODEL", help="hub name, folder or .gguf; for --writer llm")
    stage.add_argument(
        "--compare", action="store_true", help="all strategies against gold spans; writes no labels"
    )
    stage.add_argument("--out", type=Path, metavar="DIR", help="of --compare; DATA/compare")


def _plan_arguments(stage: argparse.ArgumentParser) -> None:
    stage.add_argument("config", type=Path, metavar="CONFIG")
    stage.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    stage.add_argument(
        "--gpus", type=int, metavar="N", help="of all machines; scale.num_workers, or its most"
    )
    stage.add_argument("--nodes", type=int, metavar="M", help="machines; 8 GPUs each")
    stage.add_argument(
        "--gpu-memory", type=float, metavar="GB", help="10^9 bytes; 80; on CPUs a worker's share"
    )
    stage.add_argument("--device", choices=["cpu", "cuda"], help="as scale.use_gpu says")
    stage.add_argument("--tflops", type=float, default=989.0, help="peak of a GPU; H100 in bf16")
    stage.add_argument("--mfu", type=float, default=0.4, help="share of it that computing reaches")
    stage.add_argument("--nvlink", type=float, default=450.0, help="GB/s between a machine's GPUs")
    stage.add_argument("--network", type=float, default=50.0, help="GB/s a GPU between machines")
    stage.add_argument("--pcie", type=float, default=25.0, help="GB/s between a GPU and its host")
    stage.add_argument("--read", type=float, default=1.0, help="GB/s a machine reads of its data")
    stage.add_argument("--write", type=float, default=1.0, help="GB/s a machine writes checkpoints")
    stage.add_argument("--question-tokens", type=int, default=32)
    stage.add_argument("--json", action="store_true")


def _doctor_arguments(stage: argparse.ArgumentParser) -> None:
    stage.add_argument("--data", metavar="SHARDS|URL", help="also read from this packed data set")
    stage.add_argument(
        "--storage", metavar="DIR|URL", help="where runs shall go; written to (temporary files)"
    )
    stage.add_argument("--gpu", action="store_true", help="GPUs are meant to be here: none fails")
    stage.add_argument("--only", metavar="CHECK,...", help="these checks alone")
    stage.add_argument("--json", action="store_true")


def main(argv: Sequence[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(RedactingFormatter("%(levelname)s %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    return guarded(args.run, args)


if __name__ == "__main__":
    raise SystemExit(main())
