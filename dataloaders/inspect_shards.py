"""Whether a packed folder is whole: index, tars, checksums, records, and every clip decoded."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from dataloaders.container import decode_test
from dataloaders.errors import DataError
from dataloaders.in_order import map_in_order
from dataloaders.index import (
    DatasetIndex,
    Member,
    SampleEntry,
    ShardInfo,
    crc32_of,
    read_entries,
    read_index,
    sha256_of,
)
from dataloaders.ingest import INGEST_TIMEOUT_S
from dataloaders.manifest import Video, describe
from dataloaders.scan_tar import scan_tar
from dataloaders.time_limit import TimeLimit, TooManyStuckError


@dataclass(frozen=True)
class Fault:
    """What is wrong with a shard, or with the sample ``key`` of it."""

    shard: str
    key: str | None
    reason: str


@dataclass
class Inspection:
    """What a packed folder holds. ``good``: for each shard, the samples that are fine."""

    folder: Path
    index: DatasetIndex
    faults: list[Fault] = field(default_factory=list)
    good: list[list[SampleEntry]] = field(default_factory=list)
    codecs: Counter[str] = field(default_factory=Counter)

    @property
    def num_samples(self) -> int:
        """As the index says."""
        return sum(shard.num_samples for shard in self.index.shards)

    @property
    def num_good(self) -> int:
        return sum(map(len, self.good))


class Checked(NamedTuple):
    """A sample after its test: why it is bad, or None and its codec."""

    reason: str | None
    codec: str = ""


def inspect_shards(
    folder: str | os.PathLike[str],
    *,
    quick: bool = False,
    threads: int = 2,
    decode_timeout_s: float = INGEST_TIMEOUT_S,
    progress: Callable[[int], object] = lambda count: None,
) -> Inspection:
    """Verify every shard and sample of a packed folder; reads all of it, writes nothing.

    Args:
        quick: verify sizes, checksums and records, but decode nothing.
        threads: clips decoded at a time.
        decode_timeout_s: a clip that decodes for longer is a fault; 0: no limit.
        progress: called with how many more samples are done.

    Raises:
        DataError: there is no index to hold the folder against, or the shards are not ours.
        TooManyStuckError: so many clips hang their decoder that the process cannot go on.
    """
    folder = Path(folder)
    found = Inspection(folder, read_index(folder))
    if found.index.features is not None:
        raise DataError(
            f"{folder}: holds frame features, not clips: there is nothing to decode; inspect the "
            "clips that they were made of"
        )
    if found.index.format != "wds" or any(shard.records_sha256 for shard in found.index.shards):
        raise DataError(
            f"{folder}: format: {found.index.format}: only tars that `gcg pack` wrote can be "
            "inspected; write them so with `gcg pack IN OUT --from wds` or `--from mds`"
        )
    limit = TimeLimit(decode_timeout_s, setting="--decode-timeout")
    seen: set[str] = set()
    try:
        for shard in found.index.shards:
            entries = _entries(folder, shard, found.faults)
            test = partial(_test, folder / shard.name, quick, limit)
            good: list[SampleEntry] = []
            for entry, result in zip(entries, map_in_order(test, entries, threads), strict=True):
                reason = "the key is in another shard too" if entry.key in seen else result.reason
                seen.add(entry.key)
                if reason is None:
                    good.append(entry)
                    found.codecs[result.codec] += 1
                else:
                    found.faults.append(Fault(shard.name, entry.key, reason))
                progress(1)
            progress(max(0, shard.num_samples - len(entries)))
            found.good.append(good)
    finally:
        limit.close()
    return found


def _entries(folder: Path, shard: ShardInfo, faults: list[Fault]) -> Sequence[SampleEntry]:
    """The samples to test, from the tar if it is the one in the index, else from its sidecar."""
    path = folder / shard.name

    def note(reason: object, key: str | None = None) -> None:
        faults.append(Fault(shard.name, key, str(reason)))

    sidecar = None
    try:
        sidecar = read_entries(folder, shard)
    except DataError as error:
        note(error)
    try:
        whole = _check_bytes(path, shard)
    except OSError as error:
        note(f"{error.strerror or error}: all its {shard.num_samples} samples are lost")
        return []
    if whole is not None:
        note(whole)
        if sidecar is not None:
            return sidecar  # its checksums tell which samples the damage is in
    try:
        tar = scan_tar(path)
    except DataError as error:
        note(error)
        return []
    for entry, there in zip(sidecar or tar, tar, strict=False):
        if entry != there:
            note("its sidecar has another place, size or checksum than the tar", there.key)
    return tar


def _check_bytes(path: Path, shard: ShardInfo) -> str | None:
    size = path.stat().st_size
    if size != shard.bytes:
        return f"{size} bytes, index.json says {shard.bytes}"
    return None if sha256_of(path) == shard.sha256 else "SHA-256 is not the one in index.json"


def _test(path: Path, quick: bool, limit: TimeLimit, entry: SampleEntry) -> Checked:
    try:
        data, record = read_sample(path, entry)
        asked = len(record.questions)
        if (record.frame_count, asked) != (entry.frame_count, entry.num_questions):
            return Checked(
                f"its record has {record.frame_count} frames and {asked} questions, its index "
                f"{entry.frame_count} and {entry.num_questions}"
            )
        if quick:
            return Checked(None, record.codec or "unknown")
        info = limit.run(partial(decode_test, data, name=entry.video.name), entry.video.name)
        if info.frame_count != entry.frame_count:
            return Checked(f"{info.frame_count} frames decode, its index says {entry.frame_count}")
        return Checked(None, info.codec)
    except (MemoryError, TooManyStuckError):
        raise
    except DataError as error:
        return Checked(str(error))
    except Exception as error:  # a clip can break a decoder in any way
        return Checked(" ".join(f"{type(error).__name__}: {error}".split()))


def read_sample(path: Path, entry: SampleEntry) -> tuple[bytes, Video]:
    """A sample's clip and record out of a tar.

    Raises:
        DataError: the bytes are not the ones of the entry, or the record is no manifest row.
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        data = _member(file.fileno(), entry.video)
        text = _member(file.fileno(), entry.record)
    try:
        return data, Video.model_validate_json(text)
    except ValidationError as error:
        raise DataError(f"{entry.record.name}: {describe(error)}") from None


def _member(fd: int, member: Member) -> bytes:
    data = os.pread(fd, member.size, member.offset)
    if len(data) != member.size or crc32_of(data) != member.crc32:
        raise DataError(
            f"{member.name}: {len(data)} bytes with CRC-32 {crc32_of(data):08x}, its index says "
            f"{member.size} with {member.crc32:08x}"
        )
    return data
