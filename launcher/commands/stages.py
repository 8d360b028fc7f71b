"""What the subcommands of one call each do: read the arguments, call a stage, say the result."""

from __future__ import annotations

import argparse

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

    profiled = [] if args.profile is None else [f"log.profile={args.profile}"]
    return train_file(args.config, [*args.overrides, *profiled], dry_run=args.dry_run)
