"""Packing: videos of a manifest -> WebDataset tars with a sidecar index.

What makes a folder of shards trustworthy: every clip was decoded once on the way in, the record
holds what the file really is, and ``index.json`` is written last.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from dataloaders.bad_questions import BadQuestion
from dataloaders.errors import DataError
from dataloaders.index import (
    DatasetIndex,
    ShardInfo,
    write_index,
)
from dataloaders.ingest import INGEST_TIMEOUT_S, BadVideo, Ingest, prepare_all, resolve
from dataloaders.journal import Finished, Journal
from dataloaders.layout import check_minimum
from dataloaders.left_out import QUARANTINE_NAME, read_quarantine, write_quarantine
from dataloaders.manifest import Video
from dataloaders.out_folder import ShardTotals, clear, reusable
from dataloaders.shard_writer import open_writer
from dataloaders.transcode import TranscodeSettings

logger = logging.getLogger(__name__)

_PACK_VERSION = 1
_SAMPLED_BYTES = 1 << 16


@dataclass(frozen=True)
class PackReport(ShardTotals):
    """What packing did. ``reused`` says that the folder already held exactly this, ``resumed`` how
    many shards an attempt that was interrupted had left whole."""

    folder: Path
    shards: tuple[ShardInfo, ...]
    bad: tuple[BadVideo, ...] = ()
    bad_questions: tuple[BadQuestion, ...] = ()
    reused: bool = False
    resumed: int = 0
    fingerprint: str = ""


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
    transcode: TranscodeSettings | None = None,
    decode_timeout_s: float = INGEST_TIMEOUT_S,
    bad_questions: Sequence[BadQuestion] = (),
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
        transcode: how clips are encoded anew; None keeps their bytes.
        decode_timeout_s: a clip that takes longer to test or encode is left out; 0: no limit.
        bad_questions: what was left out when the rows were read, to be listed with the rest.
        progress: called with (videos done, videos in all).

    Returns:
        The report; broken and missing clips are in ``bad`` and in ``quarantine.jsonl``.

    Raises:
        DataError: no videos, none usable, an id twice, or a folder with other content.
    """
    rows = list(videos)
    out, root = Path(out), Path(root)
    ingest = Ingest(root, verify, transcode, decode_timeout_s)
    _check_rows(rows, out, shard_bytes, min_shards)
    size = _total_bytes(rows, root)
    if transcode is None:
        layout = Layout(format, min(shard_bytes, max(1, size // min_shards)))
    else:  # how small the clips become is not known before
        most = max(1, len(rows) // min_shards) if min_shards > 1 else None
        layout = Layout(format, shard_bytes, most)
    fingerprint = _input_fingerprint(rows, ingest, layout)
    done = reusable(out, fingerprint, overwrite)
    journal = Journal(out, fingerprint)
    if done is not None:
        journal.remove()
        return PackReport(out, done.shards, *read_quarantine(out), True, 0, fingerprint)
    kept = journal.read()
    clear(out, keep=kept.shards)
    journal.begin(kept)
    if kept.shards:
        logger.info("%s: goes on after %d whole shards", out, len(kept.shards))
    resumed = len(kept.shards)
    shards, bad = _write_shards(rows, out, ingest, layout, threads, journal, kept, progress)
    write_quarantine(out, bad, bad_questions)
    if not shards:
        first = bad[0]
        raise DataError(
            f"{out}: none of the {len(rows)} videos can be used (first: {first.path}: "
            f"{first.reason}); see {out / QUARANTINE_NAME}"
        )
    write_index(out, DatasetIndex(tuple(shards), fingerprint, format))
    journal.remove()
    return PackReport(
        out, tuple(shards), tuple(bad), tuple(bad_questions), False, resumed, fingerprint
    )


class Layout(NamedTuple):
    """The format, and when a shard is closed: before it grows past so many bytes of clips, or has
    so many."""

    format: str
    shard_bytes: int
    shard_clips: int | None = None


def _write_shards(
    rows: list[Video],
    out: Path,
    ingest: Ingest,
    layout: Layout,
    threads: int,
    journal: Journal,
    kept: Finished,
    progress: Callable[[int, int], None] | None,
) -> tuple[list[ShardInfo], list[BadVideo]]:
    """The rows after those that ``kept`` accounts for; all shards and bad clips, its own included.

    A shard is closed by what comes next, which then begins the next one: so going on after a shard
    gives the bytes of a pack that was never interrupted.
    """
    writer = open_writer(layout.format, out, layout.shard_bytes)
    writer.go_on_after(kept.shards)
    bad, noted, in_shard = list(kept.bad), len(kept.bad), 0

    def note(rows_done: int) -> None:
        nonlocal noted, in_shard
        journal.add(writer.shards[-1], rows_done, bad[noted:])
        noted, in_shard = len(bad), 0

    if progress is not None and kept.rows:
        progress(kept.rows, len(rows))
    clips = prepare_all(rows[kept.rows :], ingest, threads)
    try:
        for done, clip in enumerate(clips, start=kept.rows + 1):
            if isinstance(clip, BadVideo):
                logger.warning("left out %s (%s): %s", clip.key, clip.path, clip.reason)
                bad.append(clip)
            else:
                if in_shard == layout.shard_clips:
                    writer.close_shard()
                    note(done - 1)
                closed = len(writer.shards)
                writer.add(clip)
                if len(writer.shards) > closed:
                    note(done - 1)
                in_shard += 1
            if progress is not None:
                progress(done, len(rows))
        if in_shard:
            writer.close_shard()
            note(len(rows))
        writer.finish()
    finally:
        writer.abandon()
    return writer.shards, bad


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


def _input_fingerprint(rows: list[Video], ingest: Ingest, layout: Layout) -> str:
    """Of the rows, of the settings, and of the files' sizes and sampled bytes.

    Not of time stamps: a data set made again, or copied, is the same input. Sampling 64 KiB at the
    head, the middle and the tail keeps "nothing to do" fast; a container's tables are in there,
    and they change with nearly any change of a clip.
    """
    settings: list[object] = [_PACK_VERSION, layout.shard_bytes, ingest.verify]
    if layout.format != "wds":
        settings.append(layout.format)
    if ingest.transcode is not None:
        settings += [str(ingest.transcode), layout.shard_clips]
    digest = hashlib.sha256(json.dumps(settings).encode())
    for row in rows:
        digest.update(row.model_dump_json(exclude={"transcoded"}).encode())
        try:
            with resolve(row.path, ingest.root).open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                digest.update(f"{size}".encode())
                for offset in (0, (size - _SAMPLED_BYTES) // 2, size - _SAMPLED_BYTES):
                    file.seek(max(0, offset))
                    digest.update(file.read(_SAMPLED_BYTES))
        except (OSError, DataError):
            digest.update(b"missing")
    return digest.hexdigest()[:32]
