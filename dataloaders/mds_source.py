"""Reading MDS shards by our index beside theirs: one read and a checksum a sample.

Shards that lie here whole are read where they lie. Others -- behind a URL, or compressed -- are
fetched and unpacked by streaming's own machinery into a bounded cache.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pydantic import ValidationError

from dataloaders.errors import DataError
from dataloaders.index import (
    INDEX_NAME,
    OWN_INDEX_NAME,
    Member,
    SampleEntry,
    ShardInfo,
    crc32_of,
    read_entries,
    read_index,
)
from dataloaders.location import is_url, join
from dataloaders.manifest import Video, describe
from dataloaders.mds_cache import ShardCache
from dataloaders.source import Sample
from dataloaders.storage.options import StorageOptions
from dataloaders.tar_source import pread_all

_REMEDY = "run `gcg pack` again, or `gcg index` where the shards come from elsewhere"
_TIMEOUT_S = 120.0


class MdsSource:
    """A folder of MDS shards with the index that ``pack`` or ``index_folder`` writes.

    Args:
        place: a folder, or a URL that streaming or fsspec can read.
        storage: where and how much of fetched shards is kept, of this data set, by all processes
            of the machine.
        max_indexed: shards whose index is kept in memory, as in ``TarSource``.
        retries: how often a failed read or download is tried again.

    Raises:
        DataError: no index, no shards, or a shard that is not the size its index says.
    """

    def __init__(
        self,
        place: str | os.PathLike[str],
        storage: StorageOptions | None = None,
        *,
        max_indexed: int = 256,
        retries: int = 2,
    ):
        self._place = os.fspath(place)
        options = storage or StorageOptions()
        self._cache_root = options.cache_dir / "mds"
        self._retries = retries
        self._max_indexed = max_indexed
        self._entries: OrderedDict[int, list[SampleEntry]] = OrderedDict()
        self._lock = threading.Lock()
        self._remote = is_url(self._place)
        self._folder = self._fetch_indexes() if self._remote else Path(self._place)
        self._index = read_index(self._folder)
        self._fingerprint = self._index.fingerprint
        self._shards = self._open_cache(options.cache_bytes) if self._must_fetch() else None

    @property
    def name(self) -> str:
        return self._place

    @property
    def folder(self) -> Path:
        """Where the index lies: the data set's own folder, or a copy's."""
        return self._folder

    @property
    def shards(self) -> Sequence[ShardInfo]:
        return self._index.shards

    @property
    def fingerprint(self) -> str:
        return self._fingerprint

    def _must_fetch(self) -> bool:
        """Whether shards have to be fetched: else they lie here, each of the right size."""
        if self._remote:
            return True
        for shard in self._index.shards:
            path = self._folder / shard.name
            try:
                size = path.stat().st_size
            except OSError as error:
                if list(self._folder.glob(f"{shard.name}.*")):  # only its compressed form is here
                    return True
                raise DataError(f"{path}: in the index but {error.strerror}; {_REMEDY}") from None
            if size != shard.bytes:
                raise DataError(
                    f"{path}: {size} bytes, its index says {shard.bytes}: the index does not fit "
                    f"its shard; {_REMEDY}"
                )
        return False

    def _open_cache(self, limit: int) -> ShardCache:
        from dataloaders import mds_library as mds

        biggest = max(shard.bytes for shard in self._index.shards)
        if limit < biggest:
            raise DataError(
                f"data.cache_gb: {limit / 1e9:g}: the biggest shard of {self.name} has {biggest} "
                "bytes; allow a few shards a worker"
            )
        rows = {row["raw_data"]["basename"]: row for row in mds.read_mds_index(self._folder)}
        missing = [shard.name for shard in self._index.shards if shard.name not in rows]
        if missing:
            raise DataError(f"{join(self.name, INDEX_NAME)}: has no {missing[0]}; {_REMEDY}")

        def fetch(shard: ShardInfo, folder: Path) -> Path:
            try:
                return mds.fetch_shard(
                    self.name, folder, rows[shard.name], retries=self._retries, timeout=_TIMEOUT_S
                )
            except Exception as error:  # each store has errors of its own
                raise _unfetched(join(self.name, shard.name), error) from None

        return ShardCache(self._cache_root / self._fingerprint, limit, fetch)

    def _fetch_indexes(self) -> Path:
        """Both index files, always anew, into a folder named after what they say."""
        self._cache_root.mkdir(parents=True, exist_ok=True)
        arrived = Path(tempfile.mkdtemp(prefix="index-", dir=self._cache_root))
        try:
            for name in (OWN_INDEX_NAME, INDEX_NAME):
                self._fetch(name, arrived)
            index = read_index(arrived)
            folder = self._cache_root / index.fingerprint / "index"
            folder.mkdir(parents=True, exist_ok=True)
            for name in (OWN_INDEX_NAME, INDEX_NAME):
                (arrived / name).replace(folder / name)
        finally:
            shutil.rmtree(arrived, ignore_errors=True)
        return folder

    def _fetch(self, name: str, folder: Path) -> None:
        from dataloaders import mds_library as mds

        place = join(self._place, name)
        for attempt in range(self._retries + 1):
            try:
                return mds.fetch_file(place, folder / name, _TIMEOUT_S)
            except FileNotFoundError:
                raise DataError(f"{place}: missing: not a packed MDS data set; {_REMEDY}") from None
            except Exception as error:  # each store has errors of its own
                if attempt == self._retries:
                    raise _unfetched(place, error) from None
                time.sleep(0.1 * 2**attempt)
        raise AssertionError("unreachable")

    def _beside(self, name: str, *, anew: bool = False) -> Path:
        """A small file beside the shards, as it lies here; ``anew``: the copy is no good."""
        path = self._folder / name
        if self._remote and (anew or not path.exists()):
            # Fetched under a name of this process, and renamed: others may want it too.
            arrived = Path(tempfile.mkdtemp(prefix="file-", dir=self._folder))
            try:
                self._fetch(name, arrived)
                (arrived / name).replace(path)
            finally:
                shutil.rmtree(arrived, ignore_errors=True)
        return path

    def entries(self, shard: int) -> Sequence[SampleEntry]:
        with self._lock:
            if shard in self._entries:
                self._entries.move_to_end(shard)
                return self._entries[shard]
        info = self._index.shards[shard]
        self._beside(info.entries_name)
        try:
            entries = read_entries(self._folder, info)
        except DataError:
            if not self._remote:
                raise
            self._beside(info.entries_name, anew=True)
            entries = read_entries(self._folder, info)
        with self._lock:
            self._entries[shard] = entries
            if len(self._entries) > self._max_indexed:
                self._entries.popitem(last=False)
        return entries

    def prefetch(self, current: Sequence[int], upcoming: Sequence[int]) -> None:
        """Fetches nothing ahead: a shard comes when its first sample is read."""

    def read(self, shard: int, entry: SampleEntry) -> Sample:
        """Read one sample and verify it.

        Raises:
            DataError: short read, checksum mismatch, or a record that is not a manifest row.
            OSError: the file system failed more than ``retries`` times.
        """
        record = self.read_record(shard, entry)
        return Sample(entry.key, self._from_shard(shard, entry.video), record)

    def read_record(self, shard: int, entry: SampleEntry) -> Video:
        """Read a sample's record alone; errors as ``read``."""
        info = self._index.shards[shard]
        if info.records_sha256:
            text = self._from_file(self._beside(info.records_name), entry.record)
        else:
            text = self._from_shard(shard, entry.record)
        try:
            return Video.model_validate_json(text)
        except ValidationError as error:
            raise DataError(
                f"{join(self.name, info.records_name)}: {entry.record.name}: {describe(error)}; "
                f"{_REMEDY}"
            ) from None

    def _from_shard(self, shard: int, member: Member) -> bytes:
        info = self._index.shards[shard]
        if self._shards is None:
            return self._from_file(self._folder / info.name, member)
        for attempt in range(2):
            with self._shards.open(info) as fd:
                data = pread_all(fd, member.offset, member.size)
            if _is_whole(data, member) or attempt:
                break
            self._shards.drop(info)  # the copy may have been damaged here: fetch it again
        return _checked(data, member, join(self.name, info.name))

    def _from_file(self, path: Path, member: Member) -> bytes:
        for attempt in range(self._retries + 1):
            try:
                with _opened(path) as fd:
                    return _checked(pread_all(fd, member.offset, member.size), member, str(path))
            except OSError:
                if attempt == self._retries:
                    raise
                time.sleep(0.1 * 2**attempt)
        raise AssertionError("unreachable")

    def close(self) -> None:
        """Nothing stays open between reads."""

    def __enter__(self) -> MdsSource:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _unfetched(place: str, error: Exception) -> DataError:
    return DataError(
        f"{place}: cannot be fetched ({type(error).__name__}: {error}); check the address, the "
        "network and the credentials"
    )


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def _is_whole(data: bytes, member: Member) -> bool:
    return len(data) == member.size and crc32_of(data) == member.crc32


def _checked(data: bytes, member: Member, place: str) -> bytes:
    if not _is_whole(data, member):
        raise DataError(
            f"{place}: {member.name}: {len(data)} bytes with CRC-32 {crc32_of(data):08x}, its "
            f"index says {member.size} with {member.crc32:08x}; {_REMEDY}"
        )
    return data
