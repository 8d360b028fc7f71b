"""`gcg extract`, and `gcg pack --features`: frame features, made here or elsewhere."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from launcher.commands import say
from launcher.errors import UserError


def add_to(stages: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    stage = stages.add_parser("extract", help="run the frozen image encoder once, keep its results")
    stage.add_argument("config", type=Path, metavar="CONFIG")
    stage.add_argument("out", type=Path, metavar="OUT", help="then: data.train: OUT")
    stage.add_argument("--split", choices=["train", "val", "test"], default="train")
    stage.add_argument("--dtype", choices=["fp16", "fp32"], default="fp16")
    stage.add_argument(
        "--part", default="1/1", metavar="I/N", help="every N-th shard: for N processes at once"
    )
    stage.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    stage.add_argument("--overwrite", action="store_true")
    stage.set_defaults(run=extract)


def pack_arguments(stage: argparse.ArgumentParser) -> None:
    """Those of `gcg pack` that are for features made elsewhere."""
    stage.add_argument(
        "--features", type=Path, metavar="DIR", help="<id>.npy, .npz or .safetensors, not clips"
    )
    stage.add_argument("--encoder", metavar="NAME", help="with --features: what made them")
    stage.add_argument(
        "--dtype", choices=["fp16", "fp32"], default="fp16", help="with --features: stored as"
    )


def pack(args: argparse.Namespace) -> int:
    """`gcg pack --features DIR MANIFEST... OUT`."""
    from tqdm import tqdm

    from dataloaders.bad_questions import BadQuestions
    from dataloaders.feature_pack import pack_feature_files
    from dataloaders.manifest import read_manifest

    if args.encoder is None:
        raise UserError("--features: needs --encoder NAME, what made them; it is kept in the index")
    for manifest in map(Path, args.manifests):
        out = args.out / manifest.stem if len(args.manifests) > 1 else args.out
        bad = BadQuestions(args.max_bad_questions) if args.max_bad_questions else None
        rows = list(read_manifest(manifest, bad))
        with tqdm(total=len(rows), desc=f"pack {out.name}", unit="video") as bar:
            report = pack_feature_files(
                rows,
                args.features,
                out,
                encoder=args.encoder,
                dtype=args.dtype,
                shard_bytes=int((256.0 if args.shard_mb is None else args.shard_mb) * 2**20),
                min_shards=1 if args.min_shards is None else args.min_shards,
                overwrite=args.overwrite,
                bad_questions=bad.found if bad is not None else (),
                progress=lambda done, total, bar=bar: bar.update(),
            )
        state = "already packed" if report.reused else "packed"
        say(
            f"{out}: {state} features of {report.num_samples} videos, {report.num_questions} "
            f"questions, {len(report.shards)} shards; {len(report.bad)} videos left out"
            + (f", {len(report.bad_questions)} questions left out" if report.bad_questions else "")
            + (f", see {out / 'quarantine.jsonl'}" if report.bad or report.bad_questions else "")
        )
    return 0


def extract(args: argparse.Namespace) -> int:
    from tqdm import tqdm

    from dataloaders.open_source import open_source
    from launcher.config import load_run_config
    from launcher.extract import extract as write
    from launcher.training.data import storage_options

    part = _part(args.part)
    config = load_run_config(args.config, args.overrides)
    folder = getattr(config.data, args.split)
    total = None
    if folder is not None:
        with open_source(folder, storage_options(config)) as source:
            total = sum(shard.num_samples for shard in source.shards[part[0] - 1 :: part[1]])
    with tqdm(total=total, desc=f"extract {args.out.name}", unit="clip") as bar:
        made = write(
            config,
            args.split,
            args.out,
            dtype=args.dtype,
            part=part,
            overwrite=args.overwrite,
            on_videos=bar.update,
        )
    say(
        f"{args.out}: {made.made} videos encoded, {made.kept} were there, {made.bad} cannot be read"
    )
    if made.num_bytes is None:
        say(f"{args.out}: shards of other parts are missing; whoever makes the last one ends it")
        return 0
    for labels in made.labels:
        say(f"{labels}: carried over from the clips")
    if not made.labels:
        say(f"{args.out}: no labels to carry over; make them with `gcg label {args.out}`")
    say(
        f"{args.out}: {made.num_bytes / 1e9:.3f} GB; train with model.input=features "
        f"data.{args.split}={args.out}"
    )
    return 0


def _part(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    if found is None or not 1 <= int(found[1]) <= int(found[2]):
        raise UserError(f"--part {text}: must be I/N with 1 <= I <= N, such as 2/8")
    return int(found[1]), int(found[2])
