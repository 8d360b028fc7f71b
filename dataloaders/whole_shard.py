"""A shard's file as a whole: whether it is the one in the index, and what is in it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dataloaders.errors import DataError, StorageError
from dataloaders.index import SampleEntry
from dataloaders.scan_tar import scan_tar_file
from dataloaders.shard_source import ShardSource
from dataloaders.storage.folder import RemoteFolder


class LostShardError(DataError):
    """Not one byte of a shard can be read: it is not there, or does not unpack."""


def fault_of(source: ShardSource, number: int) -> str | None:
    """What is wrong with a shard's file; None if it is the one in the index. Reads all of it.

    Of a damaged shard at a URL the source reads what lies there from then on.

    Raises:
        LostShardError: nothing of it can be read.
        StorageError: its place cannot be reached, or the cache not be used.
    """
    shard = source.shards[number]
    try:
        size, digest = _look(source, number)
        if digest != shard.sha256 and source.files.refetch(number):  # this disk's copy went bad
            size, digest = _look(source, number)
    except StorageError as error:
        take_as_found(source, number, error)
        size, digest = _look_again(source, number)
    except FileNotFoundError as error:
        raise LostShardError(error.strerror or str(error)) from None
    except OSError as error:  # a bad block: which samples it is in, their reading tells
        return f"cannot be read to its end ({error.strerror or error})"
    if size != shard.bytes:
        return f"{size} bytes, the index says {shard.bytes}"
    return None if digest == shard.sha256 else "SHA-256 is not the one in the index"


def take_as_found(source: ShardSource, number: int, why: StorageError | None = None) -> None:
    """Let the source read a shard at a URL as it lies there, damaged as it may be.

    Args:
        why: the error by which it was noticed.

    Raises:
        LostShardError: it is not there.
        StorageError: its place cannot be reached.
    """
    shard, place = source.shards[number], source.place
    size = shard.bytes
    if isinstance(place, RemoteFolder):
        try:
            stated = place.size(source.stored_name(number))
        except FileNotFoundError:
            raise LostShardError("nothing there") from None
        if stated is None:
            raise why or StorageError(f"{place.at(shard.name)}: the server does not state its size")
        if not source.compressed:
            size = stated
    source.files.take_as_found(number, size)


def _look_again(source: ShardSource, number: int) -> tuple[int, str]:
    try:
        return _look(source, number)
    except StorageError as error:
        if source.compressed:  # reachable, as its size was told, so it is the archive
            raise LostShardError(str(error)) from None
        raise


def _look(source: ShardSource, number: int) -> tuple[int, str]:
    """Size and SHA-256."""
    digest, offset = hashlib.sha256(), 0
    with source.files.open(number) as fd:
        while chunk := os.pread(fd, 1 << 20, offset):
            digest.update(chunk)
            offset += len(chunk)
    return offset, digest.hexdigest()


def scan(source: ShardSource, number: int, rows: Mapping[str, Any]) -> list[SampleEntry]:
    """A shard's samples by reading it whole, as packing does.

    Args:
        rows: of streaming's index, for MDS.

    Raises:
        DataError: it is damaged, or not laid out as `gcg pack` does.
    """
    shard = source.shards[number]
    if shard.records_sha256:
        raise DataError(f"{shard.name}: its records lie beside it")
    with source.files.open(number) as fd:
        if source.index.format == "wds":
            with os.fdopen(os.dup(fd), "rb") as file:
                return scan_tar_file(file, source.place.at(shard.name))
        from dataloaders import mds_library as mds
        from dataloaders.mds_writer import scan_mds

        if shard.name not in rows:
            raise DataError(f"{shard.name}: not in streaming's index")
        try:
            return scan_mds(mds.reader_of(Path(source.name), rows[shard.name]), fd)
        except DataError:
            raise
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{shard.name}: a damaged row in streaming's index ({error})") from None
