"""`gcg eval`: figures of trained runs side by side, and their answers for `gcg score`."""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path
from typing import Any

from launcher.commands import say
from launcher.commands.score import BENCHMARKS
from launcher.errors import UserError

log = logging.getLogger(__name__)


def add_to(stages: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    stage = stages.add_parser(
        "eval",
        help="score trained runs side by side",
        description="Asks each run a split's questions and prints accuracy and grounding; what was "
        "answered stays in the run's folder, for `gcg report`.",
    )
    stage.add_argument("runs", nargs="+", metavar="RUN", help="a run's folder, or its URL")
    stage.add_argument("--split", choices=["train", "val", "test"], default="val")
    stage.add_argument("--weights", choices=["final", "best", "last"], default="final")
    stage.add_argument("--out", type=Path, metavar="JSON", help="also write the figures here")
    stage.add_argument("--json", action="store_true", help="print the figures, not tables")
    stage.add_argument(
        "--write-predictions", type=Path, metavar="DIR", help="DIR/RUN/predictions.json, spans.json"
    )
    stage.add_argument(
        "--benchmark",
        choices=BENCHMARKS,
        metavar="NAME",
        help="of `gcg score`: write the answers in its own form",
    )
    stage.set_defaults(run=evaluate)


def _check_out(out: Path) -> None:
    """Raises UserError: the file cannot be written. Asked before hours of answering."""
    from launcher.storage.places import fault_of

    def touch() -> None:
        out.parent.mkdir(parents=True, exist_ok=True)
        is_new = not out.exists()
        with out.open("a"):
            pass
        if is_new:
            out.unlink()

    why = fault_of(touch)
    if why is not None:
        raise UserError(f"--out {out}: {why}; name a file that can be written")


def evaluate(args: argparse.Namespace) -> int:
    from launcher.evaluation.compare import evaluate_runs
    from launcher.evaluation.predictions import make_folder, write_predictions
    from launcher.evaluation.scores import table, type_table
    from launcher.storage.places import run_place

    folder: Path | None = args.write_predictions
    if args.benchmark is not None and folder is None:
        raise UserError("--benchmark: only goes with --write-predictions; leave it out")
    if args.out is not None:
        _check_out(args.out)
    if folder is not None:
        make_folder(folder)

    def keep(name: str, rows: list[dict[str, Any]]) -> None:
        if folder is not None:
            for file in write_predictions(folder / name, rows, args.benchmark):
                log.info("wrote %s", file)

    runs = [run_place(run) for run in args.runs]
    results = evaluate_runs(runs, args.split, args.weights, keep)
    if args.out is not None:
        args.out.write_text(json.dumps(results, indent=2) + "\n")
    if args.json:
        say(json.dumps(results, indent=2))
    else:
        say(f"{table(results)}\n\n{type_table(results)}")
    return 0
