"""An epoch's shards dealt to the plan's streams: balanced by visits, read in random order."""

from __future__ import annotations

import heapq
from collections.abc import Collection, Sequence
from itertools import zip_longest
from typing import NamedTuple

import numpy as np

from dataloaders.seeds import permutation


class DealtShards(NamedTuple):
    """The shards of all streams, one stream after the other, in flat arrays: a plan over 100,000
    shards is kept by every rank."""

    shards: np.ndarray  # (n,) int64, each stream's in reading order
    ends: np.ndarray  # (n,) int64: visits of the stream up to and with the shard
    bounds: np.ndarray  # (C + 1,) int64: stream c has shards[bounds[c] : bounds[c + 1]]

    @property
    def loads(self) -> np.ndarray:
        """(C,) int64: visits of each stream."""
        return self.ends[self.bounds[1:] - 1]

    def of(self, stream: int) -> tuple[np.ndarray, np.ndarray]:
        """Shards and ends of one stream."""
        part = slice(self.bounds[stream], self.bounds[stream + 1])
        return self.shards[part], self.ends[part]


def deal(shard_visits: np.ndarray, num_streams: int, seed: int, epoch: int) -> DealtShards:
    """Largest shard first, each to the stream with the least so far.

    Args:
        shard_visits: (shards,) int64; shards without a visit are left out. At least as many as
            ``num_streams`` have some.
    """
    order = permutation(len(shard_visits), "shards", seed, epoch)
    order = order[shard_visits[order] > 0]
    visits = shard_visits[order]
    # (load, stream) as one number, which sorts alike: with 100,000 shards a deal takes a
    # quarter of the time that it takes with pairs.
    heap = list(range(num_streams))
    owners = np.empty(len(order), dtype=np.int64)
    for place in np.argsort(-visits, kind="stable").tolist():
        least = heap[0]
        owners[place] = least % num_streams
        heapq.heapreplace(heap, least + int(visits[place]) * num_streams)
    # Dealt by size, but read in random order: else every epoch would begin with big shards.
    by_stream = np.argsort(owners, kind="stable")
    bounds = np.searchsorted(owners[by_stream], np.arange(num_streams + 1))
    ends = np.cumsum(visits[by_stream])
    before = np.concatenate([[0], ends])[bounds[:-1]]
    ends -= np.repeat(before, np.diff(bounds))
    return DealtShards(order[by_stream], ends, bounds)


def in_turn(streams: Sequence[Sequence[int]], without: Collection[int]) -> list[int]:
    """The shards of several streams, each stream's next one in turn, those in ``without`` left
    out."""
    turns = (shard for turn in zip_longest(*streams) for shard in turn)
    soon = dict.fromkeys(shard for shard in turns if shard is not None)
    return [shard for shard in soon if shard not in without]
