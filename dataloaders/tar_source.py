"""Reading WebDataset tars by their sidecar index: a `pread` and a checksum a sample."""

from __future__ import annotations

import os
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pydantic import ValidationError

from dataloaders.errors import DataError
from dataloaders.feature_info import FeatureInfo
from dataloaders.index import Member, SampleEntry, ShardInfo, crc32_of, read_entries, read_index
from dataloaders.manifest import Video, describe
from dataloaders.source import Sample

_REMEDY = "run `gcg pack` again"


class TarSource:
    """A folder of WebDataset tars with the sidecar index that ``pack`` writes.

    Args:
        folder: where ``index.json`` lies.
        max_open: tars kept open at a time.
        max_indexed: shards whose index is kept in memory; the rest is read again when needed. A
            rank draws from its streams times ``block_shards`` shards at a time; keep more.
        retries: how often an operating-system error (a network file system's hiccup) is tried
            again before it is raised, waiting 0.1 s, 0.2 s, ... between.

    Raises:
        DataError: no index, no shards, or a tar that is not the size its index says.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        max_open: int = 64,
        max_indexed: int = 256,
        retries: int = 2,
    ):
        self._folder = Path(folder)
        self._index = read_index(self._folder)
        self._fingerprint = self._index.fingerprint
        self._check_sizes()
        self._files = _OpenFiles(max_open)
        self._retries = retries
        self._max_indexed = max_indexed
        self._entries: OrderedDict[int, list[SampleEntry]] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def name(self) -> str:
        return str(self._folder)

    @property
    def folder(self) -> Path:
        return self._folder

    @property
    def shards(self) -> Sequence[ShardInfo]:
        return self._index.shards

    @property
    def fingerprint(self) -> str:
        return self._fingerprint

    @property
    def features(self) -> FeatureInfo | None:
        """What features the shards hold; None: clips."""
        return self._index.features

    def _check_sizes(self) -> None:
        for shard in self._index.shards:
            path = self._folder / shard.name
            try:
                size = path.stat().st_size
            except OSError as error:
                raise DataError(f"{path}: in the index but {error.strerror}; {_REMEDY}") from None
            if size != shard.bytes:
                raise DataError(
                    f"{path}: {size} bytes, its index says {shard.bytes}: the index does not fit "
                    f"its tar; {_REMEDY}"
                )

    def entries(self, shard: int) -> Sequence[SampleEntry]:
        with self._lock:
            if shard in self._entries:
                self._entries.move_to_end(shard)
                return self._entries[shard]
        entries = read_entries(self._folder, self._index.shards[shard])
        with self._lock:
            self._entries[shard] = entries
            if len(self._entries) > self._max_indexed:
                self._entries.popitem(last=False)
        return entries

    def read(self, shard: int, entry: SampleEntry) -> Sample:
        """Read one sample and verify it.

        Raises:
            DataError: short read, checksum mismatch, or a record that is not a manifest row.
            OSError: the file system failed more than ``retries`` times.
        """
        path = self._folder / self._index.shards[shard].name
        record = self.read_record(shard, entry)
        return Sample(entry.key, self._member(path, entry.video), record)

    def read_record(self, shard: int, entry: SampleEntry) -> Video:
        """Read a sample's record alone; errors as ``read``."""
        path = self._folder / self._index.shards[shard].name
        try:
            return Video.model_validate_json(self._member(path, entry.record))
        except ValidationError as error:
            raise DataError(f"{path}: {entry.record.name}: {describe(error)}; {_REMEDY}") from None

    def _member(self, path: Path, member: Member) -> bytes:
        data = self._pread(path, member.offset, member.size)
        if len(data) != member.size or crc32_of(data) != member.crc32:
            raise DataError(
                f"{path}: {member.name}: {len(data)} bytes with CRC-32 {crc32_of(data):08x}, its "
                f"index says {member.size} with {member.crc32:08x}; {_REMEDY}"
            )
        return data

    def _pread(self, path: Path, offset: int, size: int) -> bytes:
        for attempt in range(self._retries + 1):
            try:
                with self._files.open(path) as fd:
                    return _pread_all(fd, offset, size)
            except OSError:
                if attempt == self._retries:
                    raise
                time.sleep(0.1 * 2**attempt)
        raise AssertionError("unreachable")

    def close(self) -> None:
        """Close the open tars; a later read opens them again."""
        self._files.close()

    def __enter__(self) -> TarSource:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _pread_all(fd: int, offset: int, size: int) -> bytes:
    # One call returns at most 2 GiB, and may return less on a network file system.
    parts = []
    while size > 0:
        part = os.pread(fd, size, offset)
        if not part:
            break
        parts.append(part)
        offset += len(part)
        size -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


class _OpenFiles:
    """At most ``limit`` files open, least recently used closed first, never one that is in use."""

    def __init__(self, limit: int):
        self._limit = limit
        self._lock = threading.Lock()
        self._open: OrderedDict[Path, tuple[int, int]] = OrderedDict()  # path -> fd, users

    @contextmanager
    def open(self, path: Path) -> Iterator[int]:
        with self._lock:
            fd, users = self._open.pop(path, (-1, 0))
            if fd < 0:
                fd = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
            self._open[path] = (fd, users + 1)
            self._evict()
        try:
            yield fd
        finally:
            with self._lock:
                fd, users = self._open[path]
                self._open[path] = (fd, users - 1)
                self._evict()

    def _evict(self) -> None:
        idle = [path for path, (_, users) in self._open.items() if users == 0]
        for path in idle[: max(0, len(self._open) - self._limit)]:
            os.close(self._open.pop(path)[0])

    def close(self) -> None:
        with self._lock:
            for path in [path for path, (_, users) in self._open.items() if users == 0]:
                os.close(self._open.pop(path)[0])
