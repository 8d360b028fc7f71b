"""`gcg index`: our index for shards that others wrote, which are read and never changed."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dataloaders.errors import DataError
from dataloaders.foreign import Names
from dataloaders.index import (
    INDEX_NAME,
    OWN_INDEX_NAME,
    DatasetIndex,
    ShardInfo,
    write_atomic,
    write_index,
)
from dataloaders.index_journal import Done, Journal
from dataloaders.index_shard import BadFound, ShardFile, index_shard
from dataloaders.out_folder import ShardTotals
from dataloaders.records import Records
from dataloaders.shards import QUARANTINE_NAME

logger = logging.getLogger(__name__)

_STAGE = "index"


@dataclass(frozen=True)
class IndexReport(ShardTotals):
    """What indexing did. ``kept`` shards were indexed before and have not changed since."""

    folder: Path
    format: str
    shards: tuple[ShardInfo, ...]
    bad: tuple[BadFound, ...]
    kept: int


def index_folder(
    folder: str | os.PathLike[str],
    *,
    records: str | os.PathLike[str] | None = None,
    names: Names = Names(),  # noqa: B008 (frozen)
    verify: bool = False,
    threads: int = 4,
    progress: Callable[[int, int], None] | None = None,
) -> IndexReport:
    """Write ``gcg.index.json`` and a sidecar for each shard; the shards stay as they are.

    Stopped or run again, it goes on with what is new or changed. Samples without a readable clip or
    a record go to ``quarantine.jsonl``.

    Args:
        folder: of tars, or of MDS with its ``index.json``; the index is written there.
        records: a manifest whose rows are the samples' records, found by key; else each sample
            has to carry its row.
        names: which column or suffix is the clip, the key, the record.
        verify: decode every frame of every clip, not only a few.
        threads: shards indexed at a time.
        progress: called with (bytes of clips done since, bytes of all shards), from any thread
            but one at a time.

    Raises:
        DataError: no shards, damaged ones (with the byte), a video id twice, no usable sample.
            What was indexed is kept for the next time.
    """
    folder = Path(folder)
    format, files = _find_shards(folder)
    found = Records(Path(records) if records is not None else None)
    options = [format, names.video, names.key, names.record, verify, found.fingerprint]
    journal = Journal(folder, hashlib.sha256(json.dumps(options).encode()).hexdigest()[:16])
    report = _one_at_a_time(progress, sum(file.size for file in files))
    done: dict[str, Done] = {}
    for file in files:
        if (known := journal.find(file)) is not None:
            done[file.name] = known
            report(file.size)
    kept = len(done)

    def work(file: ShardFile) -> Done:
        return index_shard(folder, file, found, names, verify, report)

    new = [file for file in files if file.name not in done]
    done |= _index_all(work, new, threads, journal, kept)
    _check_unique(folder, done)
    results = [done[file.name] for file in files]
    bad = tuple(each for result in results for each in result.bad)
    _write_quarantine(folder, bad)
    shards = tuple(result.shard for result in results if result.shard is not None)
    if not shards:
        raise DataError(
            f"{folder}: none of the {len(bad)} samples can be used (first: {bad[0].key}: "
            f"{bad[0].reason}); see {folder / QUARANTINE_NAME}"
        )
    text = json.dumps([options, [[shard.name, shard.sha256] for shard in shards]])
    made_of = hashlib.sha256(text.encode()).hexdigest()[:32]
    write_index(folder, DatasetIndex(shards, made_of, format), OWN_INDEX_NAME)
    return IndexReport(folder, format, shards, bad, kept)


def _one_at_a_time(
    progress: Callable[[int, int], None] | None, total: int
) -> Callable[[int], None]:
    lock = threading.Lock()

    def report(size: int) -> None:
        with lock:
            if progress is not None:
                progress(size, total)

    return report


def _find_shards(folder: Path) -> tuple[str, list[ShardFile]]:
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; name the one that holds the shards")
    if not os.access(folder, os.W_OK):
        raise DataError(f"{folder}: cannot be written to; the index lies beside the shards")
    tars = sorted(folder.glob("*.tar"))
    if _is_mds(folder):
        if tars:
            raise DataError(f"{folder}: holds tars and MDS shards; move one kind elsewhere")
        from dataloaders import mds_library as mds

        return "mds", [_mds_file(folder, row) for row in mds.read_mds_index(folder)]
    if not tars:
        packed = list(folder.glob("*.tar.*")) or list(folder.glob("*.tgz"))
        hint = f"; {packed[0].name} is compressed: unpack it to a .tar first" if packed else ""
        raise DataError(f"{folder}: no *.tar, and no {INDEX_NAME} of MDS shards{hint}")
    return "wds", [ShardFile(path.name, path) for path in tars]


def _is_mds(folder: Path) -> bool:
    """Whether ``index.json`` is streaming's. Other libraries of tars have one of that name too."""
    if not (folder / INDEX_NAME).exists():
        return False
    try:
        rows = json.loads((folder / INDEX_NAME).read_text(encoding="utf-8"))["shards"]
        return any(row.get("format") == "mds" for row in rows)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return bool(list(folder.glob("*.mds*")))  # damaged, which its reader says


def _mds_file(folder: Path, row: dict[str, Any]) -> ShardFile:
    name = row["raw_data"]["basename"]
    path = folder / name
    if not path.exists() and row["zip_data"]:
        path = folder / row["zip_data"]["basename"]
    if not path.exists():
        raise DataError(f"{path}: in {INDEX_NAME} but not there; copy it again")
    return ShardFile(name, path, row)


def _index_all(
    work: Callable[[ShardFile], Done],
    files: list[ShardFile],
    threads: int,
    journal: Journal,
    kept: int,
) -> dict[str, Done]:
    """Index shards, each noted as it is done; damaged ones are raised when the rest is."""
    done: dict[str, Done] = {}
    problems = []
    for file, result in _in_threads(work, files, threads):
        if isinstance(result, DataError):
            problems.append(str(result))
        else:
            journal.add(file, result)
            done[file.name] = result
    if problems:
        more = f" (and {len(problems) - 1} more damaged shards)" if len(problems) > 1 else ""
        raise DataError(f"{min(problems)}{more}; the {kept + len(done)} others are indexed")
    return done


def _in_threads(
    work: Callable[[ShardFile], Done], files: list[ShardFile], threads: int
) -> Iterable[tuple[ShardFile, Done | DataError]]:
    pool = ThreadPoolExecutor(max(1, threads), "index")
    try:
        futures = {pool.submit(work, file): file for file in files}
        for future in as_completed(futures):
            try:
                yield futures[future], future.result()
            except DataError as error:
                yield futures[future], error
    finally:
        pool.shutdown(cancel_futures=True)


def _check_unique(folder: Path, done: dict[str, Done]) -> None:
    seen: dict[str, str] = {}
    for name, result in sorted(done.items()):
        for video in result.videos:
            if video in seen:
                raise DataError(
                    f"{folder}: video id {video!r} is in {seen[video]} and in {name}; ids are "
                    "unique, since labels and scores are kept by them: move one shard away, or "
                    "give other ids with --records"
                )
            seen[video] = name


def _write_quarantine(folder: Path, bad: Iterable[BadFound]) -> None:
    """Our rows anew; what packing wrote there stays."""
    path = folder / QUARANTINE_NAME
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    kept = [line for line in lines if f'"stage": "{_STAGE}"' not in line]
    for each in bad:
        logger.warning("left out %s of %s: %s", each.key, each.shard, each.reason)
    rows = [
        {"data": str(folder), "stage": _STAGE, "shard": each.shard, "key": each.key,
         "path": each.shard, "reason": each.reason, "num_questions": each.num_questions}
        for each in bad
    ]  # fmt: skip
    write_atomic(path, "".join(f"{line}\n" for line in [*kept, *map(json.dumps, rows)]))
