"""From one shard format to the other: the same samples in the same shards, labels with them."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from dataloaders.errors import DataError
from dataloaders.index import (
    DatasetIndex,
    SampleEntry,
    ShardInfo,
    write_atomic,
    write_index,
)
from dataloaders.ingest import BadVideo, Clip, sample_key
from dataloaders.labels import META_NAME, LabelSet, write_labels
from dataloaders.location import is_url
from dataloaders.open_source import format_of, open_source
from dataloaders.out_folder import ShardTotals, clear, reusable
from dataloaders.shard_writer import LARGEST_LIMIT, open_writer
from dataloaders.shards import QUARANTINE_NAME
from dataloaders.source import Source

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ConvertReport(ShardTotals):
    """What converting did. ``labels`` are the label sets that were copied."""

    folder: Path
    shards: tuple[ShardInfo, ...]
    bad: tuple[BadVideo, ...] = ()
    labels: tuple[str, ...] = ()
    reused: bool = False


def convert(
    place: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    source_format: str,
    format: str,
    overwrite: bool = False,
    threads: int = 4,
    progress: Callable[[int, int], None] | None = None,
) -> ConvertReport:
    """Write a packed data set anew in another format, byte-equal clips and records.

    Shards are cut where they were cut, so a run sees the same batches of either. Samples that
    cannot be read are left out and listed in ``quarantine.jsonl``.

    Args:
        place: a folder or URL with an index: one that was packed, or that ``gcg index`` was run on.
        out: another folder; made if missing.
        source_format: what ``place`` is said to hold, ``wds`` or ``mds``.
        format: what to write.
        overwrite: replace shards that lie in ``out``.
        threads: samples read at a time.
        progress: called with (samples done, samples in all).

    Raises:
        DataError: ``place`` holds another format or nothing whole, ``out`` is the same folder or
            holds other shards, or no sample can be read.
    """
    out = Path(out)
    if not is_url(place) and out.resolve() == Path(place).resolve():
        raise DataError(f"{out}: is read and written at once; choose another folder to write to")
    found = format_of(place)
    if found != source_format:
        raise DataError(f"{place}: holds {found}, not {source_format}; use --from {found}")
    with open_source(place) as source:
        text = json.dumps(["convert", source.fingerprint, format])
        made_of = hashlib.sha256(text.encode()).hexdigest()[:32]
        done = reusable(out, made_of, overwrite)
        if done is not None:
            return ConvertReport(out, done.shards, reused=True)
        clear(out)
        shards, origins, bad = _write(source, out, format, threads, progress)
        if not shards:
            raise DataError(f"{place}: no sample can be read (first: {bad[0].reason})")
        index = DatasetIndex(tuple(shards), made_of, format)
        labels = [] if is_url(place) else _copy_labels(source, Path(place), out, index, origins)
    if bad:
        write_atomic(out / QUARANTINE_NAME, "".join(_quarantine_line(out, b) for b in bad))
    write_index(out, index)
    return ConvertReport(out, tuple(shards), tuple(bad), tuple(labels))


def _write(
    source: Source,
    out: Path,
    format: str,
    threads: int,
    progress: Callable[[int, int], None] | None,
) -> tuple[list[ShardInfo], list[int], list[BadVideo]]:
    """The new shards, the number of the old shard each was made from, and what was left out."""
    total = sum(shard.num_samples for shard in source.shards)
    # A shard ends where the old one ends, unless the format cannot hold that much.
    biggest = max(shard.bytes for shard in source.shards)
    writer = open_writer(format, out, min(biggest, LARGEST_LIMIT[format]))
    bad: list[BadVideo] = []
    origins: list[int] = []
    done = 0
    try:
        for number in range(len(source.shards)):
            for clip in _clips(source, number, threads):
                if isinstance(clip, BadVideo):
                    logger.warning("left out %s (%s): %s", clip.key, clip.path, clip.reason)
                    bad.append(clip)
                else:
                    writer.add(clip)
                done += 1
                if progress is not None:
                    progress(done, total)
            writer.close_shard()
            origins += [number] * (len(writer.shards) - len(origins))
        writer.finish()
    finally:
        writer.abandon()
    return writer.shards, origins, bad


def _clips(source: Source, number: int, threads: int) -> Iterator[Clip | BadVideo]:
    """A shard's samples in order, a few read ahead."""
    window: deque[Future[Clip | BadVideo]] = deque()
    with ThreadPoolExecutor(max(1, threads), "convert") as pool:
        for entry in source.entries(number):
            window.append(pool.submit(read_clip, source, number, entry))
            if len(window) > 2 * threads:
                yield window.popleft().result()
        while window:
            yield window.popleft().result()


def read_clip(source: Source, number: int, entry: SampleEntry) -> Clip | BadVideo:
    """A packed sample as it is to be written again, or why it cannot be read."""
    suffix = entry.video.name.removeprefix(f"{entry.key}.")
    # What others call a sample may hold dots, at which WebDataset would break the key.
    key = entry.key if "." not in entry.key.rpartition("/")[2] else sample_key(entry.key)
    try:
        sample = source.read(number, entry)
    except (DataError, OSError) as error:
        name = source.shards[number].name
        return BadVideo(entry.key, name, " ".join(str(error).split()), entry.num_questions)
    return Clip(key, suffix, sample.video_bytes, sample.record)


def _quarantine_line(out: Path, bad: BadVideo) -> str:
    row = {"data": str(out), "stage": "convert", "shard": bad.path, "key": bad.key,
           "path": bad.path, "reason": bad.reason, "num_questions": bad.num_questions}  # fmt: skip
    return json.dumps(row) + "\n"


def _copy_labels(
    source: Source, place: Path, out: Path, index: DatasetIndex, origins: list[int]
) -> list[str]:
    """Label sets lie by shard and name the data they are for: both are carried over."""
    copied = []
    for meta_path in sorted((place / "labels").glob(f"*/{META_NAME}")):
        name = meta_path.parent.name
        try:
            labels = LabelSet(meta_path.parent)
            labels.check(data=source.fingerprint)
            rows = (
                (new.stem, labels.for_shard(source.shards[old].stem).values())
                for new, old in zip(index.shards, origins, strict=True)
            )
            meta = labels.meta.model_copy(update={"data": index.fingerprint})
            write_labels(out / "labels" / name, meta, rows)
        except DataError as error:
            logger.warning("label set %s was not copied: %s", name, error)
        else:
            copied.append(name)
    return copied
