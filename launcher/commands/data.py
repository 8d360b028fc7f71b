"""The subcommands of `gcg` that make, pack and look at data; arguments and what they do."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from launcher.commands import features, inspect, say
from launcher.commands.score import BENCHMARKS
from launcher.errors import UserError

if TYPE_CHECKING:
    from dataloaders.bad_questions import BadQuestions

log = logging.getLogger(__name__)


def add_to(stages: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    stage = stages.add_parser("sample-data", help="make the sample corpus: clips and manifests")
    stage.add_argument("folder", type=Path, metavar="DIR")
    stage.add_argument("--seed", type=int, default=0)
    stage.add_argument("--videos", type=int, default=200)
    stage.add_argument("--questions-per-video", type=int, default=16)
    stage.set_defaults(run=sample_data)

    inspect.add_to(stages)

    stage = stages.add_parser("pack", help="write a manifest's clips into shards with an index")
    stage.add_argument("manifests", nargs="*", metavar="MANIFEST", help="of --from wds: the data")
    stage.add_argument("out", type=Path, metavar="OUT", help="with several manifests: OUT/<name>")
    stage.add_argument("--format", choices=["wds", "mds"], default="wds")
    stage.add_argument(
        "--from",
        dest="source",
        choices=["manifest", "wds", "mds", *BENCHMARKS],
        metavar="NAME",
        default="manifest",
        help="wds, mds: packed data (a folder or URL), written again in --format; or a benchmark's "
        f"annotations: {', '.join(BENCHMARKS)}",
    )
    stage.add_argument("--annotations", type=Path, metavar="F", help="a benchmark's questions")
    stage.add_argument("--videos", type=Path, metavar="DIR", help="its videos, at any depth")
    stage.add_argument(
        "--spans", type=Path, metavar="JSON", help="NExT-GQA's gold ones, gsub_*.json: to evaluate"
    )
    stage.add_argument("--ids", type=Path, metavar="F", help="causalvidqa: the videos of a split")
    stage.add_argument(
        "--split", metavar="NAME", help="written into the questions; what the file's name says"
    )
    stage.add_argument("--shard-mb", type=float, help="256")
    stage.add_argument("--min-shards", type=int, help="1; about 8 times data.streams is good")
    stage.add_argument(
        "--max-bad-questions",
        type=float,
        default=0.05,
        metavar="SHARE",
        help="left out and listed up to this share; 0: refuse the first",
    )
    stage.add_argument(
        "--transcode",
        metavar="SETTINGS",
        help="encode clips anew: short-side=256,gop=30[,codec=h264][,crf=20][,preset=veryfast]",
    )
    stage.add_argument("--threads", type=int, default=4, help="clips read and tested at a time")
    stage.add_argument(
        "--decode-timeout", type=float, default=600.0, metavar="S", help="a clip; 0: no limit"
    )
    stage.add_argument("--overwrite", action="store_true")
    features.pack_arguments(stage)
    stage.set_defaults(run=pack)

    stage = stages.add_parser("index", help="make shards that others wrote readable here")
    stage.add_argument("folder", metavar="FOLDER", help="of tars, or of MDS shards; on a disk")
    stage.add_argument(
        "--records", type=Path, metavar="MANIFEST", help="rows for the samples, found by key"
    )
    stage.add_argument("--video-column", default="", metavar="NAME", help="MDS column or suffix")
    stage.add_argument("--key-column", default="", metavar="NAME", help="MDS column")
    stage.add_argument("--record-column", default="", metavar="NAME", help="MDS column or suffix")
    stage.add_argument("--verify", action="store_true", help="decode every frame, not only a few")
    stage.add_argument("--threads", type=int, default=4, help="shards at a time; 4")
    stage.set_defaults(run=index)


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


def pack(args: argparse.Namespace) -> int:
    if args.source in BENCHMARKS:
        return _pack_benchmark(args)
    for name in ("annotations", "videos", "spans", "ids", "split"):
        if getattr(args, name) is not None:
            raise UserError(
                f"--{name}: only goes with a benchmark's name, as `--from nextqa`; leave it out"
            )
    if args.source in ("wds", "mds"):
        return _convert(args)
    from dataloaders.manifest import read_manifest

    if not args.manifests:
        raise UserError("MANIFEST: none given; `gcg pack MANIFEST OUT`, or `--from nextqa`")
    several = len(args.manifests) > 1
    if args.features is not None:
        return features.pack(args)
    for manifest in map(Path, args.manifests):
        out = args.out / manifest.stem if several else args.out
        bad = _tolerance(args)
        _pack_rows(list(read_manifest(manifest, bad)), out, manifest.parent, args, bad)
    return 0


def _pack_benchmark(args: argparse.Namespace) -> int:
    from dataloaders.importers import Files, import_videos

    if args.manifests:
        raise UserError(
            f"MANIFEST: {args.manifests[0]}: goes with no --from {args.source}; leave it out"
        )
    if args.features is not None:
        raise UserError(f"--features: goes with a manifest, not with --from {args.source}")
    if args.annotations is None or args.videos is None:
        raise UserError(f"--from {args.source}: needs --annotations F and --videos DIR; give both")
    bad = _tolerance(args)
    files = Files(args.annotations, args.spans, args.ids, args.split)
    found, missing = import_videos(args.source, files, args.videos, bad=bad)
    if missing:
        log.warning(
            "%s: %d of %d videos are not there: %s%s",
            args.videos,
            len(missing),
            len(missing) + len(found),
            ", ".join(missing[:8]),
            ", ..." if len(missing) > 8 else "",
        )
    _pack_rows(found, args.out, args.videos, args, bad)
    return 0


def _tolerance(args: argparse.Namespace) -> BadQuestions | None:
    """What takes the questions that cannot be asked; None: the first is an error."""
    from dataloaders.bad_questions import BadQuestions

    return BadQuestions(args.max_bad_questions) if args.max_bad_questions else None


def _convert(args: argparse.Namespace) -> int:
    from tqdm import tqdm

    from dataloaders.convert_shards import convert

    if len(args.manifests) != 1:
        raise UserError(f"--from {args.source}: one data set at a time; `gcg pack IN OUT`")
    for name, value in (("--shard-mb", args.shard_mb), ("--min-shards", args.min_shards)):
        if value is not None:
            raise UserError(
                f"{name}: {value}: shards stay as they are cut, so that batches stay the same; "
                f"leave it out, or pack the manifest with --format {args.format}"
            )
    with tqdm(desc=f"convert {args.out.name}", unit="clip") as bar:

        def advance(done: int, total: int) -> None:
            bar.total = total
            bar.update()

        report = convert(
            args.manifests[0],
            args.out,
            source_format=args.source,
            format=args.format,
            overwrite=args.overwrite,
            progress=advance,
        )
    state = "already converted" if report.reused else "converted"
    labels = f"; with labels {', '.join(report.labels)}" if report.labels else ""
    say(
        f"{args.out}: {state} {report.num_samples} videos, {report.num_questions} questions, "
        f"{len(report.shards)} shards; {len(report.bad)} clips left out"
        + (f", see {args.out / 'quarantine.jsonl'}" if report.bad else "")
        + labels
    )
    return 0


def index(args: argparse.Namespace) -> int:
    from tqdm import tqdm

    from dataloaders.foreign import Names
    from dataloaders.index_folder import index_folder
    from dataloaders.location import is_url

    if is_url(args.folder):
        raise UserError(
            f"{args.folder}: is a URL; `gcg index` reads whole shards and writes beside them: copy "
            "the folder to a disk, index it there, and upload gcg.index.json, *.index.jsonl and "
            "*.records.jsonl to the shards"
        )
    folder = Path(args.folder)
    with tqdm(desc=f"index {folder.name}", unit="B", unit_scale=True) as bar:

        def advance(size: int, total: int) -> None:
            bar.total = total
            bar.update(size)

        report = index_folder(
            folder,
            records=args.records,
            names=Names(args.video_column, args.key_column, args.record_column),
            verify=args.verify,
            threads=args.threads,
            progress=advance,
        )
    say(
        f"{folder}: indexed {report.num_samples} videos, {report.num_questions} questions, "
        f"{len(report.shards)} {report.format} shards ({report.kept} unchanged since last time); "
        f"{len(report.bad)} samples left out"
        + (f", see {folder / 'quarantine.jsonl'}" if report.bad else "")
    )
    return 0


def _pack_rows(
    rows: list, out: Path, root: Path, args: argparse.Namespace, bad: BadQuestions | None
) -> None:
    from tqdm import tqdm

    from dataloaders.shards import pack as pack_shards
    from dataloaders.transcode import TranscodeSettings

    transcode = TranscodeSettings.parse(args.transcode) if args.transcode is not None else None
    with tqdm(total=len(rows), desc=f"pack {out.name}", unit="clip") as bar:

        def advance(done: int, total: int) -> None:
            if not bar.n:  # what an interrupted attempt had finished took no time now
                bar.initial = bar.n = done - 1
            bar.update(done - bar.n)

        report = pack_shards(
            rows,
            out,
            root=root,
            shard_bytes=int((256.0 if args.shard_mb is None else args.shard_mb) * 2**20),
            min_shards=1 if args.min_shards is None else args.min_shards,
            overwrite=args.overwrite,
            threads=args.threads,
            transcode=transcode,
            decode_timeout_s=args.decode_timeout,
            bad_questions=bad.found if bad is not None else (),
            format=args.format,
            progress=advance,
        )
    state = "already packed" if report.reused else "packed"
    say(
        f"{out}: {state} {report.num_samples} videos, {report.num_questions} questions, "
        f"{len(report.shards)} shards; {len(report.bad)} clips left out"
        + (f"; went on after {report.resumed} shards" if report.resumed else "")
        + (f", {len(report.bad_questions)} questions left out" if report.bad_questions else "")
        + (f", see {out / 'quarantine.jsonl'}" if report.bad or report.bad_questions else "")
    )
