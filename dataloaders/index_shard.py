"""Indexing one foreign shard: its samples, their clips probed, their records completed."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dataloaders.errors import DataError
from dataloaders.foreign import FoundSample, Names, Part
from dataloaders.foreign_tar import tar_samples
from dataloaders.index import (
    Member,
    SampleEntry,
    ShardInfo,
    crc32_of,
    describe_shard,
    write_atomic,
    write_entries,
)
from dataloaders.ingest import probed
from dataloaders.manifest import Video
from dataloaders.records import Records
from dataloaders.shard_source import pread_all
from dataloaders.trust import key_fault

_TIMEOUT_S = 600.0


@dataclass(frozen=True)
class BadFound:
    """A sample that was left out, and why."""

    shard: str
    key: str
    reason: str
    num_questions: int = 0


@dataclass(frozen=True)
class Done:
    """What one shard held; no ``shard`` where no sample was usable."""

    shard: ShardInfo | None
    bad: tuple[BadFound, ...]
    videos: tuple[str, ...]


class ShardFile:
    """A shard as it lies in the folder: ``path`` may be the compressed form of ``name``.

    ``row``: of the MDS index; None for a tar.
    """

    def __init__(self, name: str, path: Path, row: dict[str, Any] | None = None):
        self.name, self.path, self.row = name, path, row
        found = path.stat()
        self.size, self.mtime_ns = found.st_size, found.st_mtime_ns


@dataclass(frozen=True)
class _Usable:
    entry: SampleEntry  # its record's place is right only if the record lies in the shard as it is
    record: Video
    text: bytes
    in_shard: bool


def index_shard(
    folder: Path,
    file: ShardFile,
    records: Records,
    names: Names,
    verify: bool,
    advance: Callable[[int], None],
) -> Done:
    """Write a shard's sidecar, and its records where it lacks them.

    Args:
        advance: called with the bytes done since, up to the file's size in all.

    Raises:
        DataError: the shard is damaged.
    """
    usable: list[_Usable] = []
    bad: list[BadFound] = []
    seen: set[str] = set()
    left = file.size
    with _unpacked(folder, file, names) as (path, found), _opened(path) as fd:
        for sample in found:
            result = _use(fd, sample, records, verify, seen)
            if isinstance(result, str):
                bad.append(BadFound(file.name, sample.key, " ".join(result.split())))
            else:
                usable.append(result)
            step = min(left, sample.video.size if sample.video else 0)
            left -= step
            advance(step)
        advance(left)
        if not usable:
            return Done(None, tuple(bad), ())
        shard = _write(folder, path, file.name, usable)
    return Done(shard, tuple(bad), tuple(each.record.id for each in usable))


@contextmanager
def _unpacked(
    folder: Path, file: ShardFile, names: Names
) -> Iterator[tuple[Path, list[FoundSample]]]:
    """The shard's own file, decompressed if need be, and what is in it."""
    if file.row is None:
        yield file.path, tar_samples(file.path, names)
        return
    from dataloaders import mds_library as mds
    from dataloaders.foreign_mds import mds_samples

    with tempfile.TemporaryDirectory(prefix="gcg-index-") as work:
        root = folder
        if file.path != folder / file.name:
            root = Path(work)
            try:
                place = os.fspath(folder)
                mds.fetch_shard(place, root, file.row, retries=0, timeout=_TIMEOUT_S)
            except Exception as error:  # each compression has errors of its own
                raise DataError(
                    f"{file.path}: cannot be decompressed ({error}); copy it again"
                ) from None
        yield root / file.name, mds_samples(mds.reader_of(root, file.row), names)


def _use(
    fd: int, sample: FoundSample, records: Records, verify: bool, seen: set[str]
) -> _Usable | str:
    """The sample's entry and completed record, or why it cannot be used."""
    if sample.problem or sample.video is None:
        return sample.problem
    if fault := key_fault(sample.video.name):  # which begins with the key
        return f"{sample.video.name[:80]!r}: {fault}"
    if sample.key in seen:
        return "this key occurs a second time in the shard"
    seen.add(sample.key)
    try:
        video, data = _read(fd, sample.video)
        inner = _read(fd, sample.record) if sample.record is not None else None
        row = records.find(sample.key, inner[1] if inner else None)
        record = probed(row, data, verify, Path(sample.video.name).name)
    except MemoryError:
        raise
    except DataError as error:
        return str(error)
    except Exception as error:  # a clip can break a decoder in any way; none may stop the rest
        return f"{type(error).__name__}: {error}"
    text = record.model_dump_json(exclude_none=True).encode()
    place = inner[0] if inner else Member(f"{sample.key}.json", 0, len(text), crc32_of(text))
    entry = SampleEntry(sample.key, video, place, record.frame_count or 0, len(record.questions))
    return _Usable(entry, record, text, inner is not None and inner[1] == text)


def _read(fd: int, part: Part) -> tuple[Member, bytes]:
    data = pread_all(fd, part.offset, part.size)
    if len(data) != part.size:
        raise DataError(f"{part.name}: {len(data)} of {part.size} bytes at byte {part.offset}")
    return Member(part.name, part.offset, part.size, crc32_of(data)), data


def _write(folder: Path, path: Path, name: str, usable: list[_Usable]) -> ShardInfo:
    entries = [each.entry for each in usable]
    shard = describe_shard(path, name, entries)
    if not all(each.in_shard for each in usable):
        text = b"".join(each.text + b"\n" for each in usable)
        shard = replace(shard, records_sha256=hashlib.sha256(text).hexdigest())
        write_atomic(folder / shard.records_name, text.decode())
        entries, offset = [], 0
        for each in usable:
            size = len(each.text)
            place = Member(each.entry.record.name, offset, size, crc32_of(each.text))
            entries.append(replace(each.entry, record=place))
            offset += size + 1
    write_entries(folder / shard.entries_name, entries)
    return shard


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)
