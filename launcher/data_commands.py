"""The subcommands of `gcg` that make, pack and look at data; arguments and what they do."""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path

from launcher import feature_commands
from launcher.commands import say
from launcher.errors import UserError

log = logging.getLogger(__name__)


def add_to(stages: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    stage = stages.add_parser("sample-data", help="make the sample corpus: clips and manifests")
    stage.add_argument("folder", type=Path, metavar="DIR")
    stage.add_argument("--seed", type=int, default=0)
    stage.add_argument("--videos", type=int, default=200)
    stage.add_argument("--questions-per-video", type=int, default=16)
    stage.set_defaults(run=sample_data)

    stage = stages.add_parser("inspect", help="what a clip holds, and hashes of sampled frames")
    stage.add_argument("video", type=Path, metavar="VIDEO")
    stage.add_argument("--frames", type=int, default=32)
    stage.add_argument("--json", action="store_true")
    stage.set_defaults(run=inspect)

    stage = stages.add_parser("pack", help="write a manifest's clips into shards with an index")
    stage.add_argument("manifests", type=Path, nargs="*", metavar="MANIFEST")
    stage.add_argument("out", type=Path, metavar="OUT", help="with several manifests: OUT/<name>")
    stage.add_argument("--format", choices=["wds"], default="wds")
    stage.add_argument("--from", dest="source", choices=["manifest", "nextqa"], default="manifest")
    stage.add_argument("--annotations", type=Path, metavar="CSV")
    stage.add_argument("--videos", type=Path, metavar="DIR")
    stage.add_argument("--shard-mb", type=float, default=256.0)
    stage.add_argument("--min-shards", type=int, default=1, help="about 8 times data.streams")
    stage.add_argument("--overwrite", action="store_true")
    feature_commands.pack_arguments(stage)
    stage.set_defaults(run=pack)


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
    if args.features is not None:
        return feature_commands.pack(args)
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
