"""What the subcommands of one call each do: read the arguments, call a stage, say the result."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from launcher.commands import say
from launcher.errors import UserError


def label(args: argparse.Namespace) -> int:
    from dataloaders.storage.options import StorageOptions
    from gcg.config import GCGConfig
    from launcher.commands.label import run_label

    if args.config is None:
        if args.overrides:
            raise UserError("--set: changes a run file's values; give the file with --config")
        model, storage = GCGConfig.model_validate({}), StorageOptions()
    else:
        from launcher.config import load_run_config
        from launcher.training.data import storage_options

        config = load_run_config(args.config, args.overrides)
        model, storage = config.model, storage_options(config)
    run_label(args, model, storage, say)
    return 0


def convert(args: argparse.Namespace) -> int:
    from tqdm import tqdm

    from launcher.config import load_run_config
    from launcher.convert import convert as write
    from launcher.convert import plan_conversion

    model = load_run_config(args.config, args.overrides).model
    found = plan_conversion(model, args.out, args.dtype)
    size = found.num_bytes
    with tqdm(total=size, desc=f"convert {args.out.name}", unit="B", unit_scale=True) as bar:
        files = write(found, args.out, on_bytes=bar.update)
    say(
        f"{args.out}: {len(found.weights)} tensors, {size / 1e9:.2f} GB in {len(files)} files; "
        "name it as model.checkpoint"
    )
    return 0


def plan(args: argparse.Namespace) -> int:
    from launcher.planning.command import plan_file

    say(plan_file(args))
    return 0


def doctor(args: argparse.Namespace) -> int:
    from launcher.doctor.command import run_doctor

    report, code = run_doctor(args)
    say(report)
    return code


def train(args: argparse.Namespace) -> int:
    from launcher.train import train_file

    return train_file(args.config, args.overrides, dry_run=args.dry_run)


def evaluate(args: argparse.Namespace) -> int:
    from launcher.evaluation.compare import evaluate_runs
    from launcher.evaluation.predictions import make_folder, write_predictions
    from launcher.evaluation.scores import table, type_table
    from launcher.storage.places import run_place

    folder: Path | None = args.write_predictions
    if args.benchmark is not None and folder is None:
        raise UserError("--benchmark: only goes with --write-predictions; leave it out")

    if folder is not None:
        make_folder(folder)

    def keep(name: str, rows: list[dict[str, Any]]) -> None:
        if folder is not None:
            files = write_predictions(folder / name, rows, args.benchmark)
            say(f"wrote {', '.join(map(str, files))}")

    runs = [run_place(run) for run in args.runs]
    results = evaluate_runs(runs, args.split, args.weights, keep)
    if args.out is not None:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(results, indent=2) + "\n")
    if args.json:
        say(json.dumps(results, indent=2))
    else:
        say(f"{table(results)}\n\n{type_table(results)}")
    return 0
