"""What makes a folder a checkpoint: the files of every rank, ``meta.json``, and ``COMMIT``, last.

``step-00000100.attempt-2`` is written by attempt 2 alone. Each rank writes its files and then
``rank-00001.json``, which lists them with sizes and SHA-256. When every rank has done so, rank 0
adds ``meta.json`` and then ``COMMIT``, which lists all files. A folder without ``COMMIT``, or that
does not hold what it lists, was not finished or was damaged, and is never loaded. No torch in here.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from dataloaders.trust import name_fault
from launcher.checkpoints.fence import assert_current
from launcher.errors import CheckpointError
from launcher.storage.places import is_remote, make_folder, remove_tree, sizes_below
from launcher.storage.run_folder import RunFolder, read_json, write_json, write_text

COMMIT = "COMMIT"
META = "meta.json"
FORMAT_VERSION = 2
_NAME = re.compile(r"step-(\d{8,})\.attempt-(\d+)")
_CHUNK = 2**22
_READERS = 16  # of ranks' records at a time


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint. ``meta`` is its ``meta.json``, ``files`` what ``COMMIT`` lists."""

    path: Path
    step: int
    attempt: int
    meta: dict[str, Any]
    files: dict[str, dict[str, Any]]


def checkpoint_path(folder: RunFolder, step: int, attempt: int) -> Path:
    """Where an attempt writes the checkpoint of a step."""
    return folder.checkpoints / f"step-{step:08d}.attempt-{attempt}"


def parse_name(name: str) -> tuple[int, int] | None:
    """Step and attempt of a checkpoint's folder, None for any other name."""
    match = _NAME.fullmatch(name)
    return None if match is None else (int(match[1]), int(match[2]))


def open_checkpoint(folder: RunFolder, step: int, attempt: int) -> Path:
    """Make the (empty) folder to write a checkpoint into. Rank 0, before a barrier.

    Raises:
        StaleAttemptError: a newer attempt owns the run.
    """
    assert_current(folder, attempt)
    path = checkpoint_path(folder, step, attempt)
    remove_tree(path)
    make_folder(path)
    return path


def record_rank(
    path: Path, rank: int, world_size: int, files: Mapping[str, dict[str, Any]]
) -> None:
    """List what a rank has written into an opened checkpoint. Every rank, before a barrier.

    Args:
        files: what :func:`describe` says of the rank's files, by name relative to the checkpoint.
    """
    step, attempt = parse_name(path.name) or (0, 0)
    write_json(
        path / rank_record(rank),
        {
            "version": FORMAT_VERSION,
            "step": step,
            "attempt": attempt,
            "rank": rank,
            "world_size": world_size,
            "files": dict(sorted(files.items())),
        },
    )


def commit(
    folder: RunFolder, step: int, attempt: int, world_size: int, meta: dict[str, Any]
) -> Checkpoint:
    """Make a checkpoint whose files all lie there a complete one. Rank 0, after a barrier.

    Raises:
        StaleAttemptError: a newer attempt owns the run.
        CheckpointError: a rank's record is missing or another's, or a file lies there that no rank
            wrote.
    """
    assert_current(folder, attempt)
    path = checkpoint_path(folder, step, attempt)
    files: dict[str, dict[str, Any]] = {}
    with ThreadPoolExecutor(_READERS) as pool:
        read = partial(_own_files, path, world=world_size, step=step, attempt=attempt)
        for own in pool.map(read, range(world_size)):
            files |= own
    write_json(path / META, meta)
    seal(path, files | {META: describe(path / META)})
    return Checkpoint(path, step, attempt, meta, files)


def seal(path: Path, files: dict[str, dict[str, Any]]) -> None:
    """Write ``COMMIT`` over files that are all there, and no others.

    Raises:
        CheckpointError: a file is missing, of another size, or foreign.
    """
    there = sizes_below(path)
    problems = _size_faults(there, files)
    problems += [f"{name}: no rank wrote it" for name in sorted(there.keys() - files.keys())]
    if problems:
        raise CheckpointError([f"{path}: {problem}; not committed" for problem in problems])
    record = {"version": FORMAT_VERSION, "files": files}
    write_text(path / COMMIT, json.dumps(record, indent=1, sort_keys=True) + "\n")


def size_faults(path: Path, files: dict[str, dict[str, Any]]) -> list[str]:
    """A line for each listed file that is missing, of another size, or not in the folder."""
    return _size_faults(sizes_below(path), files)


def _size_faults(there: dict[str, int], files: dict[str, dict[str, Any]]) -> list[str]:
    faults = []
    for name, listed in files.items():
        if fault := name_fault(name):
            faults.append(f"{name[:80]!r}: {fault}")
        elif name not in there:
            faults.append(f"{name}: is missing")
        elif there[name] != listed["bytes"]:
            faults.append(f"{name}: has {there[name]} bytes, {listed['bytes']} were written")
    return faults


def describe(file: Path) -> dict[str, Any]:
    """Size and SHA-256 of a file, which is on the disk for good when this returns."""
    digest, size = hashlib.sha256(), 0
    with file.open("rb") as stream:
        if not is_remote(file):
            os.fsync(stream.fileno())
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
            size += len(chunk)
    return {"bytes": size, "sha256": digest.hexdigest()}


def rank_record(rank: int) -> str:
    return f"rank-{rank:05d}.json"


def _own_files(
    path: Path, rank: int, world: int, step: int, attempt: int
) -> dict[str, dict[str, Any]]:
    """What a rank has written, and the record that says so."""
    file = path / rank_record(rank)
    record = read_json(file)
    wanted = {
        "version": FORMAT_VERSION,
        "step": step,
        "attempt": attempt,
        "rank": rank,
        "world_size": world,
    }
    if record is None:
        raise CheckpointError(f"{file}: is missing; rank {rank} did not finish: not committed")
    for name, value in wanted.items():
        if record.get(name) != value:
            raise CheckpointError(
                f"{file}: {name} = {record.get(name)}: it must be {value}, another checkpoint's "
                "record; not committed"
            )
    return record["files"] | {rank_record(rank): describe(file)}
