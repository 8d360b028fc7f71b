"""Writing shards as MDS: MosaicML streaming's own writer, with our index beside its own."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from dataloaders import mds_library as mds
from dataloaders.errors import DataError
from dataloaders.index import (
    INDEX_NAME,
    Member,
    SampleEntry,
    ShardInfo,
    crc32_of,
    describe_shard,
    write_entries,
)
from dataloaders.ingest import Clip
from dataloaders.manifest import Video
from dataloaders.shard_writer import LARGEST_LIMIT, dump

_WORK_NAME = ".mds-work"


class MdsShardWriter:
    """Writes clips into MDS shards one after the other; a shard appears once it is whole.

    MDSWriter holds a shard in memory until it is cut, and again while it writes it: have three
    times ``limit`` free. It works in a folder of its own inside ``out``, from where whole shards
    are renamed into place; streaming's ``index.json`` comes last.

    Args:
        out: the folder, which exists.
        limit: bytes of clips after which a shard is closed; a bigger clip gets its own.

    Raises:
        DataError: a limit whose shards could pass the format's 4 GiB.
    """

    def __init__(self, out: Path, limit: int):
        largest = LARGEST_LIMIT["mds"]
        if limit > largest:
            raise DataError(
                f"shard_bytes: {limit}: at most {largest} for MDS, whose offsets are 32 bits wide; "
                "choose smaller shards (--shard-mb), or --format wds"
            )
        self._out = out
        self._limit = limit
        self._work = out / _WORK_NAME
        shutil.rmtree(self._work, ignore_errors=True)
        self._writer = mds.open_writer(self._work)
        self._size = 0
        self._open = False
        self.shards: list[ShardInfo] = []

    def go_on_after(self, shards: Sequence[ShardInfo]) -> None:
        mds.go_on_after(self._writer, shards)
        self.shards += shards

    def add(self, clip: Clip) -> None:
        if self._open and self._size + len(clip.data) > self._limit:
            self.close_shard()
        record = dump(clip)
        if self._writer.new_shard_size + len(clip.data) + 4 * len(record) >= mds.MAX_SHARD_BYTES:
            raise DataError(
                f"{clip.key}: {len(clip.data)} bytes: an MDS shard holds less than 4 GiB; shorten "
                "or transcode the clip, or choose --format wds"
            )
        self._writer.write(
            {"key": clip.key, "record": record, "suffix": clip.suffix, "video": clip.data}
        )
        self._size += len(clip.data)
        self._open = True

    def close_shard(self) -> None:
        if not self._open:
            return
        row = mds.cut(self._writer)
        name = row["raw_data"]["basename"]
        written = self._work / name
        _flush_to_disk(written)
        entries = scan_mds(mds.reader_of(self._work, row))
        shard = describe_shard(written, name, entries)
        write_entries(self._out / shard.entries_name, entries)
        written.replace(self._out / name)
        self.shards.append(shard)
        self._size, self._open = 0, False

    def finish(self) -> None:
        self.close_shard()
        self._writer.finish()
        index = self._work / INDEX_NAME
        _flush_to_disk(index)
        index.replace(self._out / INDEX_NAME)
        self._work.rmdir()

    def abandon(self) -> None:
        """Drop what an exception left open."""
        self._writer.cancel_future_jobs()
        shutil.rmtree(self._work, ignore_errors=True)


def scan_mds(reader: mds.MDSReader, fd: int | None = None) -> list[SampleEntry]:
    """Index a shard of ours by reading it whole. ``fd``: of its file, if it lies elsewhere.

    Raises:
        DataError: it is damaged, or others wrote it.
    """
    if set(reader.column_names) != set(mds.COLUMNS):
        raise DataError(f"{reader.raw_data.basename}: has other columns than `gcg pack` writes")
    found = mds.samples(reader) if fd is None else mds.samples_of(reader, fd)
    try:
        return [_entry(columns) for columns in found]
    except DataError:
        raise
    except ValueError as error:  # no text, or no manifest row
        raise DataError(f"{reader.raw_data.basename}: a damaged record or key ({error})") from None


def _entry(columns: dict[str, mds.Column]) -> SampleEntry:
    key, suffix = columns["key"].value(), columns["suffix"].value()
    record = Video.model_validate_json(columns["record"].data)
    return SampleEntry(
        key,
        member(f"{key}.{suffix}", columns["video"]),
        member(f"{key}.json", columns["record"]),
        record.frame_count or 0,
        len(record.questions),
    )


def member(name: str, column: mds.Column) -> Member:
    return Member(name, column.offset, len(column.data), crc32_of(column.data))


def _flush_to_disk(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
