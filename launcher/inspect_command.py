"""`gcg inspect`: what a clip holds, or whether a packed folder is whole; repair of the latter."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launcher.commands import say
from launcher.errors import UserError

if TYPE_CHECKING:
    from dataloaders.inspect_shards import Inspection
    from dataloaders.repair import Repaired

FAULTY = 1


def add_to(stages: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    stage = stages.add_parser(
        "inspect",
        help="what a clip holds; or verify packed folders, and repair one",
        description="A file: its properties and hashes of sampled frames. A packed folder: verify "
        "its index, tars, checksums and records, decode every clip, and list what is wrong, a line "
        "each; exit code 1 if anything is.",
    )
    stage.add_argument("places", type=Path, nargs="+", metavar="VIDEO|SHARDS")
    stage.add_argument("--frames", type=int, default=32, help="of a clip, to hash")
    stage.add_argument("--quick", action="store_true", help="of a folder, decode nothing")
    stage.add_argument("--threads", type=int, default=2, help="clips decoded at a time")
    stage.add_argument(
        "--decode-timeout", type=float, default=600.0, metavar="S", help="a clip; 0: no limit"
    )
    stage.add_argument(
        "--repair", type=Path, metavar="OUT", help="pack what is good of a folder into a new one"
    )
    stage.add_argument("--json", action="store_true")
    stage.set_defaults(run=inspect)


def inspect(args: argparse.Namespace) -> int:
    folders = [place for place in args.places if place.is_dir()]
    if args.repair is not None and (len(args.places) > 1 or not folders):
        raise UserError("--repair: takes one packed folder; name it alone")
    if args.repair is not None and args.quick:
        raise UserError("--repair: with --quick, clips that do not decode would be kept; drop one")
    codes = [
        _folder(place, args) if place in folders else _clip(place, args) for place in args.places
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


def _folder(folder: Path, args: argparse.Namespace) -> int:
    """0 if all is well, or what is good lies in a new folder now."""
    from tqdm import tqdm

    from dataloaders.index import read_index
    from dataloaders.inspect_shards import inspect_shards
    from dataloaders.repair import check_target, repair

    if args.repair is not None:
        check_target(folder, args.repair)
    total = sum(shard.num_samples for shard in read_index(folder).shards)
    with tqdm(total=total, desc=f"inspect {folder.name}", unit="clip") as bar:
        found = inspect_shards(
            folder,
            quick=args.quick,
            threads=args.threads,
            decode_timeout_s=args.decode_timeout,
            progress=bar.update,
        )
    repaired = repair(found, args.repair) if args.repair is not None else None
    if args.json:
        say(json.dumps(_facts(found, repaired)))
    else:
        _tell(found, repaired, args.quick)
    return FAULTY if found.faults and repaired is None else 0


def _facts(found: Inspection, repaired: Repaired | None) -> dict[str, Any]:
    return {
        "folder": str(found.folder),
        "fingerprint": found.index.fingerprint,
        "shards": len(found.index.shards),
        "samples": found.num_samples,
        "questions": sum(shard.num_questions for shard in found.index.shards),
        "good": found.num_good,
        "codecs": dict(sorted(found.codecs.items())),
        "faults": [vars(fault) for fault in found.faults],
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
        f"{found.folder}: {len(found.index.shards)} shards, {found.num_samples} clips, "
        f"{found.num_good} {how} ({codecs or 'none'}); {len(found.faults)} faults"
    )
    if repaired is None:
        if found.faults:
            say(f"`gcg inspect {found.folder} --repair OUT` packs what is good into a new folder")
        return
    say(
        f"{repaired.folder}: {repaired.num_samples} clips, {repaired.num_left_out} left out, see "
        f"{repaired.folder / 'quarantine.jsonl'}"
    )
    if repaired.same:
        say("the data are the same as before the damage: copy the labels folder over")
    else:
        say(f"the data are others: make the labels anew, `gcg label {repaired.folder}`")
