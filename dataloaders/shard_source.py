"""Reading shards by their sidecar index: a `pread` and a checksum a sample, whatever the format.

Our index says where in a shard's file the bytes of a clip and of its record begin. That is all it
takes, so WebDataset tars and MDS shards are read by the same code.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from dataloaders.errors import DataError, StorageError
from dataloaders.feature_info import FeatureInfo
from dataloaders.index import (
    DatasetIndex,
    Member,
    SampleEntry,
    ShardInfo,
    crc32_of,
    read_entries,
    read_index,
)
from dataloaders.manifest import Video, describe
from dataloaders.mds_compressed import compressed, unpacked_shards
from dataloaders.recover import rebuild_entries
from dataloaders.source import Sample
from dataloaders.storage.folder import Folder, LocalFolder, open_folder
from dataloaders.storage.options import StorageOptions
from dataloaders.storage.shard_files import ShardFiles, open_shards

logger = logging.getLogger(__name__)

REMEDY = "repair it with `gcg inspect SHARDS --repair OUT`, or run `gcg pack` again"


class ShardSource:
    """A folder of shards with the index that ``pack`` or ``gcg index`` writes.

    At a URL, a shard is fetched whole into the node's cache when a sample of it is read, or before
    (``prefetch``), and read from there; so is one that lies there compressed, also in a folder.

    Args:
        place: where ``index.json`` lies, a path or a URL.
        storage: settings for a URL.
        max_open: local shards kept open at a time.
        max_indexed: shards whose index is kept in memory; the rest is read again when needed. A
            rank draws from its streams times ``block_shards`` shards at a time; keep more.
        retries: how often an operating-system error (a network file system's hiccup) is tried
            again before it is raised, waiting 0.1 s, 0.2 s, ... between.
        max_lost_share: the share of samples, 0..1, that may lie in shards which are missing or
            not the size their index says. Such shards are warned of, and what cannot be read of
            them is refused sample by sample.
        as_found: open it in whatever state it is, for inspection.

    Raises:
        DataError: no index, no shards, or a larger share in damaged local shards.
        StorageError: a URL that cannot be reached.
    """

    def __init__(
        self,
        place: str | os.PathLike[str],
        storage: StorageOptions | None = None,
        *,
        max_open: int = 64,
        max_indexed: int = 256,
        retries: int = 2,
        max_lost_share: float = 0.0,
        as_found: bool = False,
    ):
        self._place = open_folder(place, storage)
        self._index = read_index(self._place)
        self._fingerprint = self._index.fingerprint
        files = [(shard.name, shard.bytes, shard.sha256) for shard in self._index.shards]
        packed = self._packed = self._compressed(as_found)
        self.compressed = bool(packed)  # they lie there in another form than the index describes
        if packed:
            options = storage or StorageOptions()
            self._files = unpacked_shards(self._place, files, packed, options, self.entries)
        else:
            if isinstance(self._place, LocalFolder) and not as_found:
                self._check_sizes(self._place.path, max_lost_share)
            self._files = open_shards(self._place, files, max_open=max_open, warm=self.entries)
        self._retries = retries
        self._max_indexed = max_indexed
        self._entries: OrderedDict[int, list[SampleEntry]] = OrderedDict()
        self._records: OrderedDict[str, bytes] = OrderedDict()
        self._lock = threading.Lock()

    def _compressed(self, as_found: bool) -> dict[str, Any]:
        if self._index.format != "mds":
            return {}
        try:
            return compressed(self._place)
        except StorageError:
            raise
        except DataError:
            if as_found:
                return {}
            raise

    @property
    def name(self) -> str:
        return self._place.location

    @property
    def place(self) -> Folder:
        return self._place

    @property
    def index(self) -> DatasetIndex:
        return self._index

    def stored_name(self, shard: int) -> str:
        """What lies at the place for a shard: an archive of it where shards lie compressed."""
        name = self._index.shards[shard].name
        archive = self._packed[name]["zip_data"] if self._packed else None
        return str(archive["basename"]) if archive else name

    @property
    def files(self) -> ShardFiles:
        """The shards' own files, to be read whole."""
        return self._files

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

    def _check_sizes(self, folder: Path, max_lost_share: float) -> None:
        faults, lost, total = [], 0, 0
        for shard in self._index.shards:
            total += shard.num_samples
            fault = _fault(folder / shard.name, shard)
            if fault is not None:
                faults.append(fault)
                lost += shard.num_samples
        if faults and lost > max_lost_share * total:
            others = f" (and {len(faults) - 1} more shards)" if len(faults) > 1 else ""
            raise DataError(f"{faults[0]}{others}; {REMEDY}")
        for fault in faults:
            logger.warning("%s; those of its clips that cannot be read are skipped", fault)

    def entries(self, shard: int) -> Sequence[SampleEntry]:
        with self._lock:
            if shard in self._entries:
                self._entries.move_to_end(shard)
                return self._entries[shard]
        info = self._index.shards[shard]
        try:
            entries = read_entries(self._place, info)
        except StorageError:
            raise
        except DataError as fault:
            if not isinstance(self._place, LocalFolder) or self._index.format != "wds":
                raise
            entries = rebuild_entries(self._place.path, info, fault)
        with self._lock:
            self._entries[shard] = entries
            if len(self._entries) > self._max_indexed:
                self._entries.popitem(last=False)
        return entries

    def prefetch(self, current: Sequence[int], upcoming: Sequence[int]) -> None:
        self._files.prefetch(current, upcoming)

    def read(self, shard: int, entry: SampleEntry) -> Sample:
        """Read one sample and verify it.

        Raises:
            DataError: short read, checksum mismatch, or a record that is not a manifest row.
            StorageError: the shard's URL cannot be reached, or its cache not be used.
            OSError: the file system failed more than ``retries`` times.
        """
        record = self.read_record(shard, entry)
        return Sample(entry.key, self._member(shard, entry.video), record)

    def read_record(self, shard: int, entry: SampleEntry) -> Video:
        """Read a sample's record alone; errors as ``read``."""
        info = self._index.shards[shard]
        if info.records_sha256:  # shards of others may lack records
            text = self._beside(info.records_name, entry.record)
        else:
            text = self._member(shard, entry.record)
        try:
            return Video.model_validate_json(text)
        except ValidationError as error:
            raise DataError(
                f"{self._path(shard)}: {entry.record.name}: {describe(error)}; {REMEDY}"
            ) from None

    def _beside(self, name: str, member: Member) -> bytes:
        """A record from the file beside a shard, kept in memory while it is read from."""
        with self._lock:
            text = self._records.get(name)
        if text is None:
            text = self._place.read(name)
            with self._lock:
                self._records[name] = text
                if len(self._records) > self._max_indexed:
                    self._records.popitem(last=False)
        data = text[member.offset : member.offset + member.size]
        if not _is_whole(data, member):
            raise DataError(
                f"{self._place.at(name)}: {member.name}: not what its index says; run `gcg index` "
                "again"
            )
        return data

    def _path(self, shard: int) -> str:
        return self._place.at(self._index.shards[shard].name)

    def _member(self, shard: int, member: Member) -> bytes:
        data = self._pread(shard, member.offset, member.size)
        if not _is_whole(data, member) and self._files.refetch(shard):
            data = self._pread(shard, member.offset, member.size)
        if not _is_whole(data, member):
            raise DataError(
                f"{self._path(shard)}: {member.name}: {len(data)} bytes with CRC-32 "
                f"{crc32_of(data):08x}, its index says {member.size} with {member.crc32:08x}; "
                f"{REMEDY}"
            )
        return data

    def _pread(self, shard: int, offset: int, size: int) -> bytes:
        for attempt in range(self._retries + 1):
            try:
                with self._files.open(shard) as fd:
                    return pread_all(fd, offset, size)
            except FileNotFoundError as error:
                raise DataError(f"{self._path(shard)}: {error.strerror}; {REMEDY}") from None
            except OSError:
                if attempt == self._retries:
                    raise
                time.sleep(0.1 * 2**attempt)
        raise AssertionError("unreachable")

    def close(self) -> None:
        """Close the open shards; a later read opens them again."""
        self._files.close()

    def __enter__(self) -> ShardSource:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _fault(path: Path, shard: ShardInfo) -> str | None:
    try:
        size = path.stat().st_size
    except OSError as error:
        return f"{path}: in the index but {error.strerror}"
    if size == shard.bytes:
        return None
    return f"{path}: {size} bytes, its index says {shard.bytes}: the index does not fit its shard"


def _is_whole(data: bytes, member: Member) -> bool:
    return len(data) == member.size and crc32_of(data) == member.crc32


def pread_all(fd: int, offset: int, size: int) -> bytes:
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
