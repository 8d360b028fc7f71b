"""Random access to the samples of a packed data set, whatever format it is stored in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from dataloaders.index import SampleEntry, ShardInfo
from dataloaders.manifest import Video


@dataclass(frozen=True, slots=True)
class Sample:
    """The encoded clip and its record."""

    key: str
    video_bytes: bytes
    record: Video


@runtime_checkable
class Source(Protocol):
    """What the plan and the loaders need of a data set, whatever format it is stored in.

    The rules a format has to keep, which the contract tests check for each:

    * ``shards`` is the same list, in the same order, on every rank, and knowing it costs no
      reading of samples;
    * ``fingerprint`` changes whenever the bytes or the order of any sample change;
    * ``entries(i)`` is cheap (an index, never a scan), lists shard i's samples in a fixed order,
      and gives each one's key, frame count and number of questions;
    * ``read(i, entry)`` is random access, safe from many threads at once, and raises DataError
      rather than return damaged bytes; ``read_record(i, entry)`` reads the record alone;
    * ``prefetch`` changes nothing but the time that reading takes.
    """

    @property
    def name(self) -> str:
        """What messages call the data set: its path or URL."""
        ...

    @property
    def shards(self) -> Sequence[ShardInfo]: ...

    @property
    def fingerprint(self) -> str: ...

    def entries(self, shard: int) -> Sequence[SampleEntry]: ...

    def read(self, shard: int, entry: SampleEntry) -> Sample: ...

    def read_record(self, shard: int, entry: SampleEntry) -> Video: ...

    def prefetch(self, current: Sequence[int], upcoming: Sequence[int]) -> None:
        """Told by a loader which shards are being read and which come next, soonest first, so
        that they can be fetched in the background. Returns at once; nothing to do for local data.
        """
        ...

    def close(self) -> None: ...

    def __enter__(self) -> Source: ...

    def __exit__(self, *_: object) -> None: ...
