"""`gcg checkpoints`: what a run has to go on from; verify, prune, compare."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launcher.commands import say
from launcher.errors import UserError

if TYPE_CHECKING:
    from launcher.checkpoints.commit import Checkpoint
    from launcher.checkpoints.find import Entry
    from launcher.storage.run_folder import RunFolder

FAULTY = 1


def add_to(stages: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    stage = stages.add_parser(
        "checkpoints",
        help="list a run's checkpoints; verify, prune or compare them",
        description="list: step, attempt, size, workers, ZeRO stage, and whether a run may go on "
        "from it, else why not. verify: read every file and compare checksums, exit code 1 if any "
        "differs. prune: delete all but the newest --keep and the best. diff: in what two differ, "
        "exit code 1 if their weights do.",
    )
    stage.add_argument("folder", metavar="RUN", help="the run's folder, or its URL")
    stage.add_argument(
        "action", nargs="?", choices=["list", "verify", "prune", "diff"], default="list"
    )
    stage.add_argument("steps", nargs="*", type=int, metavar="STEP", help="for verify and diff")
    stage.add_argument("--keep", type=int, metavar="N", help="for prune; the run's checkpoint.keep")
    stage.add_argument("--dry-run", action="store_true", help="for prune, only say what would go")
    stage.add_argument("--threads", type=int, default=4, help="for verify, files read at a time")
    stage.add_argument("--json", action="store_true", help="for list")
    stage.set_defaults(run=checkpoints)


def checkpoints(args: argparse.Namespace) -> int:
    from launcher.storage.places import run_place
    from launcher.storage.run_folder import RunFolder

    folder = RunFolder(run_place(args.folder))
    if not folder.checkpoints.is_dir():
        raise UserError(
            f"{folder.root}: holds no checkpoints; name the folder of a run that has saved one"
        )
    action = {"list": _list, "verify": _verify, "prune": _prune, "diff": _diff}[args.action]
    return action(folder, args)


def _list(folder: RunFolder, args: argparse.Namespace) -> int:
    from launcher.checkpoints.fence import current_attempt
    from launcher.checkpoints.find import entries

    rows = [_row(folder, entry) for entry in entries(folder)]
    for row in reversed(rows):
        if row["complete"]:
            row["state"] += ", newest"
            break
    if args.json:
        say(json.dumps(rows, indent=1))
        return 0
    head = f"{'step':>10}  {'attempt':>7}  {'size':>9}  {'workers':>7}  {'ZeRO':>4}  state"
    say(head)
    for row in rows:
        say(
            f"{row['step']:>10}  {row['attempt']:>7}  {_size(row['bytes']):>9}  "
            f"{_or_dash(row['world_size']):>7}  {_or_dash(row['zero']):>4}  {row['state']}"
        )
    whole = sum(row["complete"] for row in rows)
    owner = current_attempt(folder)
    say(f"{folder.root}: {whole} of {len(rows)} complete; attempt {owner} owns the run")
    return 0


def _row(folder: RunFolder, entry: Entry) -> dict[str, Any]:
    from launcher.checkpoints.commit import META
    from launcher.checkpoints.keep import read_best
    from launcher.checkpoints.universal import find_universal
    from launcher.storage.run_folder import read_json

    meta = read_json(entry.path / META) or {}
    state = entry.why
    best = read_best(folder)
    if best is not None and Path(best["path"]).name == entry.path.name:
        state += f", best ({best['metric']} {best['value']:.3f})"
    if entry.checkpoint is not None and find_universal(entry.checkpoint) is not None:
        state += ", converted"
    return {
        "path": str(entry.path),
        "step": entry.step,
        "attempt": entry.attempt,
        "bytes": sum(file.stat().st_size for file in entry.path.rglob("*") if file.is_file()),
        "world_size": meta.get("world_size"),
        "zero": meta.get("zero"),
        "complete": entry.checkpoint is not None,
        "state": state,
    }


def _verify(folder: RunFolder, args: argparse.Namespace) -> int:
    from tqdm import tqdm

    from launcher.checkpoints.find import complete_checkpoints
    from launcher.checkpoints.universal import find_universal
    from launcher.checkpoints.verify import damage

    chosen = [_of_step(folder, step) for step in args.steps] or complete_checkpoints(folder)
    chosen += [made for each in chosen if (made := find_universal(each)) is not None]
    total = sum(file["bytes"] for each in chosen for file in each.files.values())
    faults = []
    with tqdm(total=total, desc="verify", unit="B", unit_scale=True) as bar:
        for each in chosen:
            found = damage(each, threads=args.threads, on_bytes=bar.update)
            faults += [f"{each.path}: {line}" for line in found]
    for line in faults:
        say(line)
    say(f"{folder.root}: {len(chosen)} read, {len(faults)} damaged files")
    return FAULTY if faults else 0


def _prune(folder: RunFolder, args: argparse.Namespace) -> int:
    from launcher.checkpoints.fence import current_attempt
    from launcher.checkpoints.keep import prune, superseded
    from launcher.config import load_run_config

    keep = args.keep
    if keep is None:
        keep = load_run_config(folder.config).checkpoint.keep
    if keep < 1:
        raise UserError(f"--keep {keep}: at least the newest stays; give 1 or more")
    attempt = current_attempt(folder)
    dry = args.dry_run
    gone = superseded(folder, keep, attempt) if dry else prune(folder, keep, attempt)
    for path in gone:
        say(f"{'would delete' if dry else 'deleted'} {path}")
    say(f"{folder.root}: {len(gone)} {'would go' if dry else 'gone'}")
    return 0


def _diff(folder: RunFolder, args: argparse.Namespace) -> int:
    from launcher.checkpoints.diff import meta_differences, weight_differences

    if len(args.steps) != 2:
        raise UserError("diff: compares two checkpoints; give two STEPs")
    one, other = (_of_step(folder, step) for step in args.steps)
    for line in meta_differences(one, other):
        say(line)
    whole, *each = weight_differences(one, other)
    for found in each[:10]:
        say(f"{found.name}: relative {found.relative:.3g}, largest {found.largest:.3g}")
    if len(each) > 10:
        say(f"… and {len(each) - 10} more parameters")
    say(f"{whole.name}: relative difference {whole.relative:.3g}, {len(each)} parameters differ")
    return FAULTY if each else 0


def _of_step(folder: RunFolder, step: int) -> Checkpoint:
    from launcher.checkpoints.find import complete_checkpoints

    whole = {each.step: each for each in complete_checkpoints(folder)}
    if step not in whole:
        have = ", ".join(map(str, whole)) or "none"
        raise UserError(
            f"{folder.root}: step {step}: no complete checkpoint of it; there are: {have}"
        )
    return whole[step]


def _size(count: int) -> str:
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} TB"


def _or_dash(value: object) -> str:
    return "-" if value is None else str(value)
