"""What each subcommand of `gcg` does: read the arguments, call one stage, say what came of it."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Callable

from launcher.errors import UserError

log = logging.getLogger(__name__)
Command = Callable[[argparse.Namespace], int]


def guarded(command: Command, args: argparse.Namespace) -> int:
    """Run a command; a fault the user can put right becomes lines on stderr and exit code 2."""
    try:
        return command(args)
    except KeyboardInterrupt:
        sys.stderr.write("stopped; the same command goes on from here\n")
        return 130
    except ValueError as error:
        lines = _lines(error)
        if not lines:
            raise
    for line in lines:
        sys.stderr.write(f"error: {line}\n")
    return 2


def _lines(error: ValueError) -> list[str]:
    """What a user can put right; nothing for any other error."""
    # Imported here: `gcg doctor` must run where packages that these need are missing.
    from dataloaders.errors import DataError
    from gcg.errors import ModelError

    if isinstance(error, (UserError, ModelError)):
        return error.lines
    return [" ".join(str(error).split())] if isinstance(error, DataError) else []


def say(text: str) -> None:
    sys.stdout.write(text + "\n")


def label(args: argparse.Namespace) -> int:
    from dataloaders.storage.options import StorageOptions
    from gcg.config import GCGConfig
    from launcher.label_command import run_label

    if args.config is None:
        if args.overrides:
            raise UserError("--set: changes a run file's values; give the file with --config")
        model, storage = GCGConfig.model_validate({}), StorageOptions()
    else:
        from launcher.config import load_run_config
        from launcher.data import storage_options

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
    from launcher.compare import evaluate_runs
    from launcher.scores import table, type_table

    results = evaluate_runs(args.runs, args.split, args.weights)
    if args.out is not None:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(results, indent=2) + "\n")
    say(table(results))
    say("")
    say(type_table(results))
    return 0
