"""A checkpoint by parameter instead of by rank: what any world size and ZeRO stage can read.

DeepSpeed's own conversion makes it, in a process of its own on local scratch. The result is kept
beside the checkpoint as ``step-00000100.attempt-2.universal-3`` (3 is the attempt that converted)
with a ``COMMIT`` of its own, so that it is made once and never read half. No torch in here.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from launcher.checkpoints.commit import COMMIT, META, Checkpoint, describe, parse_name, seal
from launcher.checkpoints.commit import size_faults as faults_of
from launcher.errors import CheckpointError
from launcher.storage.places import download, is_remote, names_in, remove_tree, upload
from launcher.storage.run_folder import RunFolder, read_json, write_json

BEAT_S = 1.0
ZERO_TAG = "zero"
_CACHE = re.compile(r"(step-\d{8,}\.attempt-\d+)\.universal-\d+")
_STAGE = re.compile(r"^\*\*\* (.+?)\s*\.*$", re.MULTILINE)
_FETCHING = "0. Fetching shards"
_PERCENT = re.compile(r"(\d+)%\|")
_STAGES = {
    _FETCHING: "fetching shards",
    "1. Extracting ZeRO fragments": "reading shards",
    "2. Merging slices": "merging",
}


def caches(folder: RunFolder) -> list[Path]:
    """Every converted form in a run's folder, finished or not."""
    names = names_in(folder.checkpoints)
    return [folder.checkpoints / name for name in sorted(names) if _CACHE.fullmatch(name)]


def cache_of(path: Path) -> str:
    """The name of the checkpoint that a converted form was made of."""
    match = _CACHE.fullmatch(path.name)
    assert match is not None
    return match[1]


def find_universal(source: Checkpoint) -> Checkpoint | None:
    """The finished converted form of a checkpoint, None if there is none yet."""
    for path in _forms(source):
        record, meta = read_json(path / COMMIT), read_json(path / META)
        if record is None or meta is None or meta.get("source") != _identity(source):
            continue
        if not faults_of(path, record["files"]):
            return Checkpoint(path, source.step, source.attempt, source.meta, record["files"])
    return None


def convert(source: Checkpoint, attempt: int) -> Iterator[str]:
    """Make the converted form; yields how far it is, once a second. One process of the run.

    The caller must go on to the end; then :func:`find_universal` finds the result.

    Raises:
        CheckpointError: there is too little scratch space.
        RuntimeError: the conversion failed, or was killed; doing it again begins afresh.
    """
    scratch = _scratch(source, attempt)
    _check_space(source, scratch)
    log = scratch / "log"
    with ThreadPoolExecutor(1) as pool:
        work = pool.submit(_convert, source, attempt, scratch, log)
        try:
            while not _done(work):
                yield _progress(log)
        finally:
            wait([work])
            shutil.rmtree(scratch, ignore_errors=True)
    work.result()


def _done(work: Future[None]) -> bool:
    return bool(wait([work], timeout=BEAT_S).done)


def _convert(source: Checkpoint, attempt: int, scratch: Path, log: Path) -> None:
    out = scratch / "out"
    processes = min(len(os.sched_getaffinity(0)), int(source.meta["world_size"]))
    command = [sys.executable, "-m", "launcher.checkpoints.convert"]
    command += [str(_shards(source, scratch, log)), str(out), str(processes), str(os.getpid())]
    root = str(Path(__file__).resolve().parents[2])  # not installed: found from here
    paths = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "DS_ACCELERATOR": "cpu", "PYTHONPATH": paths}
    with log.open("wb") as stream:
        code = subprocess.call(
            command, stdout=stream, stderr=subprocess.STDOUT, env=environment, cwd=scratch
        )
    if code:
        said = log.read_text(errors="replace").strip().splitlines()[-1:] or ["(no output)"]
        raise RuntimeError(
            f"{source.path}: converting it for another world size or ZeRO stage ended with code "
            f"{code}: {said[0]}"
        )
    publish(out, source, attempt)


def _shards(source: Checkpoint, scratch: Path, log: Path) -> Path:
    """The ZeRO shards on this machine."""
    if not is_remote(source.path):
        return source.path / ZERO_TAG
    names = [name for name in source.files if name.startswith(f"{ZERO_TAG}/")]
    local = scratch / "shards"

    def fetch(name: str) -> None:
        download(source.path / name, local / name)

    with ThreadPoolExecutor(8) as pool:
        for number, _ in enumerate(pool.map(fetch, names)):
            log.write_text(f"*** {_FETCHING}\n{100 * number // len(names)}%|")
    return local / ZERO_TAG


def publish(out: Path, source: Checkpoint, attempt: int) -> Path:
    """Copy what was converted to its place beside the checkpoint; its ``COMMIT`` comes last.

    What other conversions of it left there is deleted: they were not finished, or damaged.
    """
    target = source.path.with_name(f"{source.path.name}.universal-{attempt}")
    for left in _forms(source):
        remove_tree(left)
    names = sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file())

    def copy(name: str) -> dict[str, Any]:
        upload(out / name, target / name)
        return describe(out / name if is_remote(target) else target / name)

    write_json(out / META, {"source": _identity(source)})
    with ThreadPoolExecutor(8) as pool:
        files = dict(zip([*names, META], pool.map(copy, [*names, META]), strict=True))
    seal(target, files)
    return target


def _forms(source: Checkpoint) -> list[Path]:
    """Every converted form of a checkpoint, finished or not."""
    folder = source.path.parent
    found = [name for name in names_in(folder) if _CACHE.fullmatch(name)]
    return [folder / name for name in sorted(found) if cache_of(folder / name) == source.path.name]


def _identity(source: Checkpoint) -> str:
    return hashlib.sha256((source.path / COMMIT).read_bytes()).hexdigest()


def _scratch(source: Checkpoint, attempt: int) -> Path:
    """An empty folder on this machine, without what a killed conversion of this one left."""
    assert parse_name(source.path.name) is not None
    root = Path(tempfile.gettempdir()) / f"gcg-universal-{os.getuid()}"
    run = hashlib.sha256(str(source.path.absolute()).encode()).hexdigest()[:16]
    for left in root.glob(f"{run}-*"):
        if int(left.name.rpartition("-")[2]) <= attempt:
            shutil.rmtree(left, ignore_errors=True)
    scratch = root / f"{run}-{attempt}"
    scratch.mkdir(parents=True)
    return scratch


def _check_space(source: Checkpoint, scratch: Path) -> None:
    # The fragments of every rank, and the parameters merged from them; shards that are fetched.
    sizes = [f["bytes"] for name, f in source.files.items() if name.startswith(f"{ZERO_TAG}/")]
    need, free = (3 if is_remote(source.path) else 2) * sum(sizes), shutil.disk_usage(scratch).free
    if need > free:
        shutil.rmtree(scratch, ignore_errors=True)
        raise CheckpointError(
            f"TMPDIR = {tempfile.gettempdir()}: {free / 1e9:.1f} GB are free, converting "
            f"{source.path} takes {need / 1e9:.1f} GB there; set TMPDIR to a larger local folder, "
            f"or continue with {source.meta['world_size']} workers and engine.zero="
            f"{source.meta['zero']}"
        )


def _progress(log: Path) -> str:
    """Of DeepSpeed's output: the stage, and its last bar."""
    try:
        text = log.read_text(errors="replace")
    except OSError:
        return "starting"
    stages = list(_STAGE.finditer(text))
    if not stages:
        return "starting"
    name = _STAGES.get(stages[-1][1], "writing")
    percent = _PERCENT.findall(text, stages[-1].end())
    return f"{name} {percent[-1]} %" if percent and name != "writing" else name
