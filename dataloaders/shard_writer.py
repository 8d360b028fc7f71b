"""Writing shards: clips one after the other into tars, each with the index beside it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, Protocol

from webdataset.writer import TarWriter

from dataloaders.index import ShardInfo, describe_shard, write_entries
from dataloaders.ingest import Clip
from dataloaders.scan_tar import scan_tar

# What a shard may be cut at. MDS has 32-bit offsets, which records and a last clip must fit too.
LARGEST_LIMIT = {"wds": 1 << 62, "mds": 3 << 30}


class ShardWriter(Protocol):
    """Writes clips one after the other, whatever the format; the cuts are the same in each."""

    shards: list[ShardInfo]

    def go_on_after(self, shards: Sequence[ShardInfo]) -> None:
        """Count shards as written that an earlier attempt left whole; before anything is added."""
        ...

    def add(self, clip: Clip) -> None:
        """Write a clip; before it, close a shard that it would make too big."""
        ...

    def close_shard(self) -> None:
        """Close the open shard, if there is one: index it and give it its name."""
        ...

    def finish(self) -> None:
        """Close the last shard, and write what else the format needs."""
        ...

    def abandon(self) -> None:
        """Close what an exception left open, without finishing it."""
        ...


def dump(clip: Clip) -> str:
    """A clip's record as it is stored, the same in every format."""
    return clip.record.model_dump_json(exclude_none=True)


def open_writer(format: str, out: Path, limit: int) -> ShardWriter:
    """The writer of a format, ``wds`` or ``mds``; the arguments are those of the classes.

    Raises:
        DataError: the format's library is not installed, or cannot make shards that big.
    """
    if format == "mds":
        from dataloaders.mds_writer import MdsShardWriter

        return MdsShardWriter(out, limit)
    return TarShardWriter(out, limit)


class TarShardWriter:
    """Writes clips into WebDataset tars one after the other; a shard appears once it is whole.

    Args:
        out: the folder, which exists.
        limit: bytes of clips after which a shard is closed; a bigger clip gets its own.
    """

    def __init__(self, out: Path, limit: int):
        self._out = out
        self._limit = limit
        self._file: BinaryIO | None = None
        self._tar: TarWriter | None = None
        self._size = 0
        self.shards: list[ShardInfo] = []

    def go_on_after(self, shards: Sequence[ShardInfo]) -> None:
        self.shards += shards

    def add(self, clip: Clip) -> None:
        if self._tar is not None and self._size + len(clip.data) > self._limit:
            self.close_shard()
        if self._tar is None:
            self._file = self._partial.open("wb")
            # Fixed time, owner and mode: the same input gives the same bytes. PAX adds a header
            # only where a name or a size does not fit the plain one.
            self._tar = TarWriter(self._file, encoder=False, mtime=0, format="PAX_FORMAT")
        self._tar.write({"__key__": clip.key, clip.suffix: clip.data, "json": dump(clip).encode()})
        self._size += len(clip.data)

    def close_shard(self) -> None:
        if self._tar is None or self._file is None:
            return
        self._tar.close()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        entries = scan_tar(self._partial)
        shard = describe_shard(self._partial, self._name, entries)
        write_entries(self._out / shard.entries_name, entries)
        self._partial.replace(self._out / shard.name)
        self.shards.append(shard)
        self._tar, self._file, self._size = None, None, 0

    def finish(self) -> None:
        self.close_shard()

    def abandon(self) -> None:
        """Close what an exception left open; its ``.partial`` file stays and is cleared later."""
        if self._tar is not None and self._file is not None:
            self._tar.close()
            self._file.close()

    @property
    def _name(self) -> str:
        return f"shard-{len(self.shards):06d}.tar"

    @property
    def _partial(self) -> Path:
        return self._out / f"{self._name}.partial"
