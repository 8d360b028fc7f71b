"""Whether a packed data set is whole: index, shards, checksums, records, and every clip decoded.

Samples are read as training reads them, by ``ShardSource``: so one code inspects tars and MDS,
packed here or only indexed, in a folder or at a URL.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import numpy as np

from dataloaders.container import decode_test
from dataloaders.errors import DataError, StorageError
from dataloaders.in_order import map_in_order
from dataloaders.index import DatasetIndex, SampleEntry, read_entries
from dataloaders.ingest import INGEST_TIMEOUT_S
from dataloaders.inspect_index import index_faults, streaming_rows
from dataloaders.open_source import open_source
from dataloaders.shard_source import REMEDY, ShardSource
from dataloaders.source import Sample
from dataloaders.storage.options import StorageOptions
from dataloaders.time_limit import TimeLimit, TooManyStuckError
from dataloaders.whole_shard import LostShardError, fault_of, scan


@dataclass(frozen=True)
class Fault:
    """What is wrong with a shard or an index, or with the sample ``key`` of a shard."""

    shard: str
    key: str | None
    reason: str


@dataclass
class Inspection:
    """What a data set holds.

    good: for each shard, the samples that are fine. damaged: numbers of the shards that are not the
    ones in the index. stale: names of shards that are, though what lies beside them (of shards that
    others wrote) is not right, so that samples which are there cannot be read.
    """

    place: str
    storage: StorageOptions | None
    index: DatasetIndex
    faults: list[Fault] = field(default_factory=list)
    good: list[list[SampleEntry]] = field(default_factory=list)
    codecs: Counter[str] = field(default_factory=Counter)
    damaged: set[int] = field(default_factory=set)
    stale: list[str] = field(default_factory=list)

    @property
    def num_samples(self) -> int:
        """As the index says."""
        return sum(shard.num_samples for shard in self.index.shards)

    @property
    def num_good(self) -> int:
        return sum(map(len, self.good))

    def note(self, shard: str, reason: object, key: str | None = None) -> None:
        self.faults.append(Fault(shard, key, " ".join(str(reason).split())))


class Checked(NamedTuple):
    """A sample after its test: why it is bad, or None and its codec. ``unread``: its bytes or its
    record are not the ones in the index."""

    reason: str | None
    codec: str = ""
    unread: bool = False


class _Listed(NamedTuple):
    """The samples to test. ``whole``: their shard is the one in the index. ``scanned``: they were
    found in the shard itself, so their places and checksums are right."""

    entries: Sequence[SampleEntry]
    whole: bool = False
    scanned: bool = False


def inspect_shards(
    place: str | os.PathLike[str],
    storage: StorageOptions | None = None,
    *,
    quick: bool = False,
    threads: int = 2,
    decode_timeout_s: float = INGEST_TIMEOUT_S,
    progress: Callable[[int], object] = lambda count: None,
) -> Inspection:
    """Verify every shard and sample of a data set; reads all of it, writes nothing.

    Args:
        place: a folder or URL with an index, of `gcg pack`, `gcg extract` or `gcg index`.
        storage: settings for a URL.
        quick: verify sizes, checksums and records, but decode nothing.
        threads: clips decoded at a time.
        decode_timeout_s: a clip that decodes for longer is a fault; 0: no limit.
        progress: called with how many more samples are done.

    Raises:
        DataError: there is no index to hold the data against.
        StorageError: a URL that cannot be reached, or a cache that cannot be used.
        TooManyStuckError: so many clips hang their decoder that the process cannot go on.
    """
    limit = TimeLimit(decode_timeout_s, setting="--decode-timeout")
    with open_source(place, storage, as_found=True) as source:
        found = Inspection(source.name, storage, source.index)
        rows = streaming_rows(source, found.note)
        index_faults(source.index, rows, found.note)
        seen: set[str] = set()
        try:
            for number, shard in enumerate(source.shards):
                source.prefetch([number], range(number + 1, min(number + 2, len(source.shards))))
                listed = _list(source, number, rows, found)
                test = partial(_test, source, number, quick, limit)
                good: list[SampleEntry] = []
                results = map_in_order(test, listed.entries, threads)
                for entry, result in zip(listed.entries, results, strict=True):
                    reason = "the key is in another shard too" if entry.key in seen else None
                    seen.add(entry.key)
                    if (reason := reason or result.reason) is None:
                        good.append(entry)
                        found.codecs[result.codec] += 1
                    else:
                        found.note(shard.name, reason, entry.key)
                        if listed.whole and not listed.scanned and result.unread:
                            _note_stale(found, shard.name)
                    progress(1)
                progress(max(0, shard.num_samples - len(listed.entries)))
                found.good.append(good)
        finally:
            limit.close()
    return found


def _list(source: ShardSource, number: int, rows: dict[str, dict], found: Inspection) -> _Listed:
    """From the shard if it is the one in the index, else from its sidecar, whose checksums tell
    which samples the damage is in."""
    shard = source.shards[number]
    sidecar = None
    try:
        sidecar = read_entries(source.place, shard)
        _check_records(source, number)
    except StorageError:
        raise
    except DataError as error:
        found.note(shard.name, error)
    try:
        fault = fault_of(source, number)
    except LostShardError as error:
        found.note(shard.name, f"{error}: all its {shard.num_samples} samples are lost")
        found.damaged.add(number)
        return _Listed([])
    if fault is not None:
        found.note(shard.name, fault)
        found.damaged.add(number)
        if sidecar is not None:
            return _Listed(sidecar)
    try:
        there = scan(source, number, rows)
    except DataError as error:
        if sidecar is not None:  # others wrote it
            return _Listed(sidecar, whole=True)
        if fault is None:
            _note_stale(found, shard.name)
        else:
            found.note(shard.name, error)
        return _Listed([])
    if sidecar is None:
        return _Listed(there, fault is None, scanned=True)
    return _Listed(_held_against(sidecar, there, shard.name, found), True, scanned=True)


def _check_records(source: ShardSource, number: int) -> None:
    shard = source.shards[number]
    if not shard.records_sha256:
        return
    path = source.place.at(shard.records_name)
    try:
        data = source.place.read(shard.records_name)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or 'missing'})") from None
    if hashlib.sha256(data).hexdigest() != shard.records_sha256:
        raise DataError(f"{path}: SHA-256 is not the one in the index")


def _held_against(
    sidecar: list[SampleEntry], there: list[SampleEntry], name: str, found: Inspection
) -> list[SampleEntry]:
    """The sidecar's samples as they are in the shard. The shard may hold more: those that
    `gcg index` left out."""
    by_key = {entry.key: entry for entry in there}
    entries = []
    for entry in sidecar:
        if entry.key not in by_key:
            found.note(name, "in its sidecar, but not in the shard", entry.key)
            continue
        if entry != by_key[entry.key]:
            found.note(
                name, "its sidecar has another place, size or checksum than the shard", entry.key
            )
        entries.append(by_key[entry.key])
    return entries


def _note_stale(found: Inspection, name: str) -> None:
    if name in found.stale:
        return
    found.stale.append(name)
    found.note(
        name,
        "is whole, but what lies beside it does not fit it: run `gcg index` again, which makes it "
        "anew from the shard",
    )


def _test(
    source: ShardSource, number: int, quick: bool, limit: TimeLimit, entry: SampleEntry
) -> Checked:
    try:
        sample = source.read(number, entry)
    except StorageError:
        raise
    except (DataError, OSError) as error:
        where = f"{source.place.at(source.shards[number].name)}: "
        reason = str(error).removeprefix(where).removesuffix(f"; {REMEDY}")
        return Checked(reason, unread=True)
    record = sample.record
    asked = len(record.questions)
    if (record.frame_count, asked) != (entry.frame_count, entry.num_questions):
        return Checked(
            f"its record has {record.frame_count} frames and {asked} questions, its index "
            f"{entry.frame_count} and {entry.num_questions}",
            unread=True,
        )
    if quick:
        return Checked(None, record.codec or "unknown")
    name = entry.video.name
    work = partial(_decode, source, sample, entry, name)
    try:
        return limit.run(work, name)
    except (MemoryError, TooManyStuckError):
        raise
    except DataError as error:
        return Checked(str(error))
    except Exception as error:  # a clip can break a decoder in any way
        return Checked(f"{type(error).__name__}: {error}")


def _decode(source: ShardSource, sample: Sample, entry: SampleEntry, name: str) -> Checked:
    if source.features is not None:
        from dataloaders.feature_reader import FeatureReader

        read = FeatureReader(source.features)
        read(sample.video_bytes, np.arange(1), frame_count=entry.frame_count, name=name)
        return Checked(None, "features")
    info = decode_test(sample.video_bytes, name=name)
    if info.frame_count != entry.frame_count:
        return Checked(f"{info.frame_count} frames decode, its index says {entry.frame_count}")
    return Checked(None, info.codec)
