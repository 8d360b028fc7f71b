"""Packing: videos of a manifest -> WebDataset tars with a sidecar index.

What makes a folder of shards trustworthy: every clip was decoded once on the way in, the record
holds what the file really is, and ``index.json`` is written last.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from dataloaders.errors import DataError
from dataloaders.index import (
    DatasetIndex,
    ShardInfo,
    index_path,
    read_index,
    write_atomic,
    write_index,
)
from dataloaders.ingest import BadVideo, prepare_all, resolve
from dataloaders.layout import check_minimum
from dataloaders.manifest import Video
from dataloaders.shard_writer import clear_shards, open_writer

logger = logging.getLogger(__name__)

QUARANTINE_NAME = "quarantine.jsonl"
_PACK_VERSION = 1
_SAMPLED_BYTES = 1 << 16


@dataclass(frozen=True)
class PackReport:
    """What packing did. ``reused`` says that the folder already held exactly this."""

    folder: Path
    shards: tuple[ShardInfo, ...]
    bad: tuple[BadVideo, ...] = ()
    reused: bool = False
    fingerprint: str = ""

    @property
    def num_samples(self) -> int:
        return sum(shard.num_samples for shard in self.shards)

    @property
    def num_questions(self) -> int:
        return sum(shard.num_questions for shard in self.shards)


class _Tally(NamedTuple):
    shards: list[ShardInfo]
    bad: list[BadVideo]


def pack(
    videos: Iterable[Video],
    out: str | os.PathLike[str],
    *,
    root: str | os.PathLike[str] = ".",
    shard_bytes: int = 256 << 20,
    min_shards: int = 1,
    verify: bool = True,
    overwrite: bool = False,
    format: str = "wds",
    threads: int = 4,
    progress: Callable[[int, int], None] | None = None,
) -> PackReport:
    """Write ``shard-000000.tar``, ... , their indexes, ``quarantine.jsonl`` and ``index.json``.

    Args:
        videos: rows of a manifest, in the order they shall lie in.
        out: the folder to write; made if missing.
        root: what relative video paths are relative to: the manifest's folder.
        shard_bytes: a shard is closed before it would grow past this; a bigger clip gets a shard
            of its own.
        min_shards: make shards smaller than ``shard_bytes`` if there would be fewer than this.
            Training deals whole shards to streams, and drops what is uneven: several per stream.
        verify: decode every frame of every clip; otherwise only a few, which is many times
            faster, and leaves damage between them to be met in training.
        overwrite: replace a folder that holds something else.
        format: ``wds`` for WebDataset tars, ``mds`` for MosaicML streaming's shards (then
            ``shard.00000.mds``, ..., and ``gcg.index.json``). Shards are cut alike in both.
        threads: clips read and tested at a time.
        progress: called with (videos done, videos in all).

    Returns:
        The report; broken and missing clips are in ``bad`` and in ``quarantine.jsonl``.

    Raises:
        DataError: no videos, none usable, an id twice, or a folder with other content.
    """
    rows = list(videos)
    out, root = Path(out), Path(root)
    _check_rows(rows, out, shard_bytes, min_shards)
    shard_bytes = min(shard_bytes, max(1, _total_bytes(rows, root) // min_shards))
    fingerprint = _input_fingerprint(rows, root, shard_bytes, verify, format)
    if index_path(out).exists():
        done = _reuse(out, fingerprint, overwrite)
        if done is not None:
            return done
    _clear(out)
    tally = _write_shards(rows, out, root, shard_bytes, verify, format, threads, progress)
    _write_quarantine(out, tally.bad)
    if not tally.shards:
        first = tally.bad[0]
        raise DataError(
            f"{out}: none of the {len(rows)} videos can be used (first: {first.path}: "
            f"{first.reason}); see {out / QUARANTINE_NAME}"
        )
    write_index(out, DatasetIndex(tuple(tally.shards), fingerprint, format))
    report = PackReport(out, tuple(tally.shards), tuple(tally.bad), False, fingerprint)
    logger.info(
        "%s: packed %d videos with %d questions into %d shards, %d left out",
        out, report.num_samples, report.num_questions, len(report.shards), len(report.bad),
    )  # fmt: skip
    return report


def _write_shards(
    rows: list[Video],
    out: Path,
    root: Path,
    shard_bytes: int,
    verify: bool,
    format: str,
    threads: int,
    progress: Callable[[int, int], None] | None,
) -> _Tally:
    writer = open_writer(format, out, shard_bytes)
    bad: list[BadVideo] = []
    try:
        for done, clip in enumerate(prepare_all(rows, root, verify, threads), start=1):
            if isinstance(clip, BadVideo):
                logger.warning("left out %s (%s): %s", clip.key, clip.path, clip.reason)
                bad.append(clip)
            else:
                writer.add(clip)
            if progress is not None:
                progress(done, len(rows))
        writer.finish()
    finally:
        writer.abandon()
    return _Tally(writer.shards, bad)


def _check_rows(rows: list[Video], out: Path, shard_bytes: int, min_shards: int) -> None:
    if not rows:
        raise DataError(f"{out}: nothing to pack: the manifest has no videos; give one that has")
    if shard_bytes < 1:
        raise DataError(f"shard_bytes: {shard_bytes}: at least 1 byte; 256 MiB is usual")
    check_minimum("min_shards", min_shards, 1)
    seen: set[str] = set()
    for row in rows:
        if row.id in seen:
            raise DataError(f"{out}: id: {row.id!r} occurs twice; video ids are unique")
        seen.add(row.id)


def _total_bytes(rows: list[Video], root: Path) -> int:
    total = 0
    for row in rows:
        with suppress(OSError, DataError):  # missing ones are reported when it is their turn
            total += resolve(row.path, root).stat().st_size
    return total


def _input_fingerprint(
    rows: list[Video], root: Path, shard_bytes: int, verify: bool, format: str
) -> str:
    """Of the rows and of the files' sizes and sampled bytes.

    Not of time stamps: a data set made again, or copied, is the same input. Sampling 64 KiB at the
    head, the middle and the tail keeps "nothing to do" fast; a container's tables are in there,
    and they change with nearly any change of a clip.
    """
    settings = [_PACK_VERSION, shard_bytes, verify, *([format] if format != "wds" else [])]
    digest = hashlib.sha256(json.dumps(settings).encode())
    for row in rows:
        digest.update(row.model_dump_json().encode())
        try:
            with resolve(row.path, root).open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                digest.update(f"{size}".encode())
                for offset in (0, (size - _SAMPLED_BYTES) // 2, size - _SAMPLED_BYTES):
                    file.seek(max(0, offset))
                    digest.update(file.read(_SAMPLED_BYTES))
        except (OSError, DataError):
            digest.update(b"missing")
    return digest.hexdigest()[:32]


def _reuse(out: Path, fingerprint: str, overwrite: bool) -> PackReport | None:
    try:
        index = read_index(out)
        whole = all((out / s.name).stat().st_size == s.bytes for s in index.shards)
    except (DataError, OSError):
        index, whole = None, False
    if index is not None and index.input_fingerprint == fingerprint:
        if whole:
            return PackReport(out, index.shards, _read_quarantine(out), True, fingerprint)
        logger.warning("%s: shards are missing or damaged: packing again", out)
        return None
    if not overwrite:
        raise DataError(
            f"{out}: already holds shards packed from another input or with other settings; "
            "choose an empty folder, or pass --overwrite"
        )
    return None


def _clear(out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    clear_shards(out)
    (out / QUARANTINE_NAME).unlink(missing_ok=True)


def _write_quarantine(out: Path, bad: list[BadVideo]) -> None:
    rows = (
        {"data": str(out), "stage": "pack", "shard": None, "key": b.key, "path": b.path,
         "reason": b.reason, "num_questions": b.num_questions}
        for b in bad
    )  # fmt: skip
    write_atomic(out / QUARANTINE_NAME, "".join(json.dumps(row) + "\n" for row in rows))


def _read_quarantine(out: Path) -> tuple[BadVideo, ...]:
    try:
        lines = (out / QUARANTINE_NAME).read_text(encoding="utf-8").splitlines()
        rows = [json.loads(line) for line in lines]
        return tuple(
            BadVideo(r["key"], r["path"], r["reason"], int(r["num_questions"])) for r in rows
        )
    except (OSError, ValueError, KeyError):
        return ()
