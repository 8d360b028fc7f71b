"""MDS shards that lie compressed: fetched and unpacked by streaming's own code into the cache."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dataloaders.errors import DataError, StorageError
from dataloaders.index import INDEX_NAME, sha256_of
from dataloaders.location import join
from dataloaders.storage.cache import RemoteFile
from dataloaders.storage.folder import Folder, LocalFolder
from dataloaders.storage.options import StorageOptions
from dataloaders.storage.shard_files import CachedShards, ShardFiles
from dataloaders.storage.work_folder import remove_dead, work_folder
from dataloaders.trust import name_fault

logger = logging.getLogger(__name__)

_REMEDY = "run `gcg pack` again, or `gcg index` where the shards come from elsewhere"


def read_rows(place: Folder) -> dict[str, Any]:
    """The rows of streaming's ``index.json`` by shard.

    Raises:
        DataError: the index is missing or damaged.
        StorageError: its URL cannot be reached.
    """
    path = place.at(INDEX_NAME)
    try:
        rows = json.loads(place.read(INDEX_NAME))["shards"]
        for row in rows:
            check_names(path, row)
        return {row["raw_data"]["basename"]: {"zip_data": None, **row} for row in rows}
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read ({error.strerror or 'missing'}); {_REMEDY}"
        ) from None
    except DataError:
        raise
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: not an MDS index ({error!r}); {_REMEDY}") from None


def check_names(path: str, row: Mapping[str, Any]) -> None:
    """Raise DataError unless a row's files lie in the folder of the index at ``path``."""
    for each in filter(None, (row["raw_data"], row.get("zip_data"))):
        if fault := name_fault(each["basename"]):
            raise DataError(f"{path}: shards: {str(each['basename'])[:80]!r}: {fault}; {_REMEDY}")


def compressed(place: Folder) -> dict[str, Any]:
    """As ``read_rows``, if any shard is there compressed only; else nothing."""
    found = read_rows(place)
    packed = [name for name, row in found.items() if row["zip_data"]]
    if isinstance(place, LocalFolder):  # one that was unpacked here is read where it lies
        packed = [name for name in packed if not (place.path / name).exists()]
    return found if packed else {}


def unpacked_shards(
    place: Folder,
    files: Sequence[tuple[str, int, str]],
    rows: Mapping[str, Any],
    options: StorageOptions,
    warm: Callable[[int], object],
) -> ShardFiles:
    """Shards as they are when unpacked, in the node's cache.

    Args:
        files: name, bytes and SHA-256 of each unpacked shard.
        rows: of streaming's index, by name.
        warm: as of ``CachedShards``.

    Raises:
        DataError: a shard that streaming's index does not have, or the package is missing.
    """
    missing = [name for name, _, _ in files if name not in rows]
    if missing:
        raise DataError(f"{place.at(INDEX_NAME)}: has no {missing[0]}; {_REMEDY}")
    if dead := remove_dead(_unpacking(options)):
        logger.info("%s: removed what %d killed processes left", _unpacking(options), dead)
    remote = [
        RemoteFile(join(place.location, *name.split("/")), size, sha256)
        for name, size, sha256 in files
    ]
    by_url = {file.url: rows[name] for file, (name, _, _) in zip(remote, files, strict=True)}
    return CachedShards(remote, options, _Unpacker(place.location, by_url, options), warm)


class _Unpacker:
    """Fetches a shard, unpacks it and verifies it."""

    def __init__(self, location: str, rows: Mapping[str, Any], options: StorageOptions):
        self._location = location
        self._rows = rows
        self._options = options
        self.stop = threading.Event()  # streaming's downloads cannot be ended early

    def __call__(self, file: RemoteFile, path: Path) -> None:
        from dataloaders import mds_library as mds

        try:
            with work_folder(_unpacking(self._options) / file.cached_name) as work:
                arrived = mds.fetch_shard(
                    self._location,
                    work,
                    self._rows[file.url],
                    retries=self._options.retries,
                    timeout=self._options.timeout_s,
                )
                self._check(arrived, file)
                arrived.replace(path)
        except (DataError, MemoryError):
            raise
        except Exception as error:  # each store and each compression has errors of its own
            raise StorageError(
                f"{file.url}: cannot be fetched and unpacked ({type(error).__name__}: {error}); "
                "check the address, the network and the credentials"
            ) from None

    @staticmethod
    def _check(arrived: Path, file: RemoteFile) -> None:
        size, digest = arrived.stat().st_size, sha256_of(arrived)
        if size != file.bytes or file.sha256 not in (None, digest):
            raise StorageError(
                f"{file.url}: unpacked to {size} bytes with SHA-256 {digest[:16]}…, its index "
                f"says {file.bytes} with {(file.sha256 or '')[:16]}…; upload it again, or "
                f"{_REMEDY}"
            )


def _unpacking(options: StorageOptions) -> Path:
    """Beside the cache, on the same disk: what is whole is renamed into it."""
    return options.cache_dir.parent / "unpacking"
