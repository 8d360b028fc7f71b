"""`gcg inspect`: what a clip holds, or whether packed data are whole; repair of the latter."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launcher.commands import say
from launcher.errors import UserError

if TYPE_CHECKING:
    from dataloaders.inspect_shards import Inspection
    from dataloaders.repair import Repaired
    from dataloaders.storage.options import StorageOptions

FAULTY = 1


def add_to(stages: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    stage = stages.add_parser(
        "inspect",
        help="what a clip holds; or verify packed data, and repair them",
        description="A file: its properties and hashes of sampled frames. A folder or URL of tars "
        "or MDS that `gcg pack`, `gcg extract` or `gcg index` made readable: verify its indexes, "
        "shards, checksums and records, decode every clip, and list what is wrong, a line each; "
        "exit code 1 if anything is.",
    )
    stage.add_argument("places", nargs="+", metavar="VIDEO|SHARDS")
    stage.add_argument("--frames", type=int, default=32, help="of a clip, to hash")
    stage.add_argument("--quick", action="store_true", help="of a folder, decode nothing")
    stage.add_argument("--threads", type=int, default=2, help="clips decoded at a time")
    stage.add_argument(
        "--decode-timeout", type=float, default=600.0, metavar="S", help="a clip; 0: no limit"
    )
    stage.add_argument(
        "--repair", metavar="OUT", help="pack what is good into a new folder, in the same format"
    )
    stage.add_argument(
        "--cache-dir", type=Path, metavar="DIR", help="for shards at a URL; as data.cache_dir"
    )
    stage.add_argument("--cache-gb", type=float, default=64.0, metavar="GB", help="its size; 64")
    stage.add_argument("--json", action="store_true")
    stage.set_defaults(run=inspect)


def inspect(args: argparse.Namespace) -> int:
    from dataloaders.location import is_url

    folders = [place for place in args.places if is_url(place) or Path(place).is_dir()]
    if args.repair is not None and (len(args.places) > 1 or not folders):
        raise UserError("--repair: takes one packed folder or URL; name it alone")
    if args.repair is not None and is_url(args.repair):
        raise UserError(
            f"--repair: {args.repair}: is a URL; name a local folder, and upload it afterwards"
        )
    if args.repair is not None and args.quick:
        raise UserError("--repair: with --quick, clips that do not decode would be kept; drop one")
    codes = [
        _folder(place, args) if place in folders else _clip(Path(place), args)
        for place in args.places
    ]
    return max(codes)


def _clip(path: Path, args: argparse.Namespace) -> int:
    from dataloaders.inspect_video import inspect_video

    facts = inspect_video(path, args.frames)
    if args.json:
        say(json.dumps(facts))
        return 0
    for name, value in facts.items():
        if name != "sha256":
            say(f"{name:<12} {value}")
    for index, digest in zip(facts["indices"], facts["sha256"], strict=True):
        say(f"frame {index:>6} {digest}")
    return 0


def _folder(place: str, args: argparse.Namespace) -> int:
    """0 if all is well, or what is good lies in a new folder now."""
    from tqdm import tqdm

    from dataloaders.index import read_index
    from dataloaders.inspect_shards import inspect_shards
    from dataloaders.location import last_part
    from dataloaders.repair import check_target, repair
    from dataloaders.storage.folder import open_folder

    out = None if args.repair is None else Path(args.repair)
    if out is not None:
        check_target(place, out)
    storage = _storage(args)
    total = sum(shard.num_samples for shard in read_index(open_folder(place, storage)).shards)
    with tqdm(total=total, desc=f"inspect {last_part(place)}", unit="clip") as bar:
        found = inspect_shards(
            place,
            storage,
            quick=args.quick,
            threads=args.threads,
            decode_timeout_s=args.decode_timeout,
            progress=bar.update,
        )
    repaired = repair(found, out) if out is not None else None
    if args.json:
        say(json.dumps(_facts(found, repaired)))
    else:
        _tell(found, repaired, args.quick)
    return FAULTY if found.faults and repaired is None else 0


def _storage(args: argparse.Namespace) -> StorageOptions:
    from dataloaders.storage.options import StorageOptions

    if not args.cache_gb > 0:
        raise UserError(f"--cache-gb: {args.cache_gb:g}: must be more than 0")
    options = StorageOptions(cache_bytes=int(args.cache_gb * 1e9))
    return options if args.cache_dir is None else replace(options, cache_dir=args.cache_dir)


def _facts(found: Inspection, repaired: Repaired | None) -> dict[str, Any]:
    return {
        "folder": found.place,
        "format": found.index.format,
        "fingerprint": found.index.fingerprint,
        "shards": len(found.index.shards),
        "samples": found.num_samples,
        "questions": sum(shard.num_questions for shard in found.index.shards),
        "good": found.num_good,
        "codecs": dict(sorted(found.codecs.items())),
        "faults": [vars(fault) for fault in found.faults],
        "stale": found.stale,
        "repaired": None
        if repaired is None
        else {**vars(repaired), "folder": str(repaired.folder)},
    }


def _tell(found: Inspection, repaired: Repaired | None, quick: bool) -> None:
    for fault in found.faults:
        say(f"{fault.shard}: {fault.key or '(shard)'}: {fault.reason}")
    codecs = ", ".join(f"{number} {codec}" for codec, number in sorted(found.codecs.items()))
    how = "have the right checksums" if quick else "decode"
    say(
        f"{found.place}: {len(found.index.shards)} shards, {found.num_samples} clips, "
        f"{found.num_good} {how} ({codecs or 'none'}); {len(found.faults)} faults"
    )
    if repaired is None:
        if found.stale:
            say(f"`gcg index {found.place}` makes the index anew; the clips stay as they are")
        elif found.faults:
            say(f"`gcg inspect {found.place} --repair OUT` packs what is good into a new folder")
        return
    say(
        f"{repaired.folder}: {repaired.num_samples} clips, {repaired.num_left_out} left out, see "
        f"{repaired.folder / 'quarantine.jsonl'}"
    )
    if repaired.same:
        say("the data are the same as before the damage: copy the labels folder over")
    else:
        say(f"the data are others: make the labels anew, `gcg label {repaired.folder}`")
