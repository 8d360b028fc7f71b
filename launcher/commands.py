"""What each subcommand of `gcg` does: read the arguments, call one stage, say what came of it."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from launcher.errors import UserError

if TYPE_CHECKING:
    from gcg.config import GCGConfig

log = logging.getLogger(__name__)
Command = Callable[[argparse.Namespace], int]


def guarded(command: Command, args: argparse.Namespace) -> int:
    """Run a command; a fault the user can put right becomes lines on stderr and exit code 2."""
    from dataloaders.errors import DataError
    from gcg.errors import ModelError

    try:
        return command(args)
    except (UserError, ModelError) as error:
        lines = error.lines
    except DataError as error:
        lines = [" ".join(str(error).split())]
    except KeyboardInterrupt:
        sys.stderr.write("stopped; the same command goes on from here\n")
        return 130
    for line in lines:
        sys.stderr.write(f"error: {line}\n")
    return 2


def say(text: str) -> None:
    sys.stdout.write(text + "\n")


def sample_data(args: argparse.Namespace) -> int:
    from tqdm import tqdm

    from dataloaders.moments.corpus import make_corpus

    with tqdm(total=args.videos, desc="clips", unit="clip") as bar:
        manifests = make_corpus(
            args.folder,
            seed=args.seed,
            num_videos=args.videos,
            questions_per_video=args.questions_per_video,
            on_clip=lambda key: bar.update(),
        )
    say(f"wrote {', '.join(map(str, manifests.values()))}")
    return 0


def inspect(args: argparse.Namespace) -> int:
    from dataloaders.inspect_video import inspect_video

    facts = inspect_video(args.video, args.frames)
    if args.json:
        say(json.dumps(facts))
        return 0
    for name, value in facts.items():
        if name != "sha256":
            say(f"{name:<12} {value}")
    for index, digest in zip(facts["indices"], facts["sha256"], strict=True):
        say(f"frame {index:>6} {digest}")
    return 0


def pack(args: argparse.Namespace) -> int:
    if args.source == "nextqa":
        return _pack_nextqa(args)
    from dataloaders.manifest import read_manifest

    if not args.manifests:
        raise UserError("MANIFEST: none given; `gcg pack MANIFEST OUT`, or `--from nextqa`")
    several = len(args.manifests) > 1
    for manifest in args.manifests:
        out = args.out / manifest.stem if several else args.out
        _pack_rows(list(read_manifest(manifest)), out, manifest.parent, args)
    return 0


def _pack_nextqa(args: argparse.Namespace) -> int:
    from dataloaders.nextqa import read_nextqa

    if args.annotations is None or args.videos is None:
        raise UserError("--from nextqa: needs --annotations CSV and --videos DIR; give both")
    found, missing = read_nextqa(args.annotations, args.videos)
    if missing:
        log.warning(
            "%s: %d of %d videos are not there: %s%s",
            args.videos,
            len(missing),
            len(missing) + len(found),
            ", ".join(missing[:8]),
            ", ..." if len(missing) > 8 else "",
        )
    _pack_rows(found, args.out, args.videos, args)
    return 0


def _pack_rows(rows: list, out: Path, root: Path, args: argparse.Namespace) -> None:
    from tqdm import tqdm

    from dataloaders.shards import pack as pack_shards

    with tqdm(total=len(rows), desc=f"pack {out.name}", unit="clip") as bar:

        def advance(done: int, total: int) -> None:
            bar.update()

        report = pack_shards(
            rows,
            out,
            root=root,
            shard_bytes=int(args.shard_mb * 2**20),
            min_shards=args.min_shards,
            overwrite=args.overwrite,
            progress=advance,
        )
    state = "already packed" if report.reused else "packed"
    say(
        f"{out}: {state} {report.num_samples} videos, {report.num_questions} questions, "
        f"{len(report.shards)} shards; {len(report.bad)} clips left out"
        + (f", see {out / 'quarantine.jsonl'}" if report.bad else "")
    )


def label(args: argparse.Namespace) -> int:
    from launcher.label_command import run_label

    run_label(args, _model_section(args), say)
    return 0


def _model_section(args: argparse.Namespace) -> GCGConfig:
    from gcg.config import GCGConfig

    if args.config is None:
        if args.overrides:
            raise UserError("--set: changes a run file's values; give the file with --config")
        return GCGConfig.model_validate({})
    from launcher.config import load_run_config

    return load_run_config(args.config, args.overrides).model


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


def train(args: argparse.Namespace) -> int:
    from launcher.train import train_file

    return train_file(args.config, args.overrides)


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
