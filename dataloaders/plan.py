"""The plan: which visits make up which global batch. Pure, seekable, the same at any world size.

A *visit* is a video with up to q of its questions: decoded once, encoded once, asked many times.
In every epoch the shards are permuted and dealt to C canonical streams, balanced by visits; a
stream permutes its visits inside blocks of a few shards; every global batch of G visits takes the
next G/C of each stream. Rank r of W serves the streams c with c % W == r, so for every W that
divides C the global batches are the same, each shard is read by one rank, and the position in the
run is (epoch, step), from which anything can be computed without replaying what came before.

What a stream has left after the last whole global batch (``leftover``) is not asked in that epoch;
the next epoch deals anew, so it is another part each time.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from dataloaders.dealing import DealtShards, deal, in_turn
from dataloaders.errors import DataError
from dataloaders.layout import check_layout, check_minimum, divisors
from dataloaders.seeds import int63, permutation
from dataloaders.source import Source
from dataloaders.visits import Visit, num_chunks, visits_of_shard


class _Block(NamedTuple):
    first: int  # position in the stream of the block's first visit
    visits: np.ndarray  # (n, 3) int32


class Plan:
    """The order of a run.

    Args:
        histograms: per shard, ``{questions of a sample: how many samples}``.
        counts: gives the number of questions of each sample of a shard, in shard order. Called
            only for shards of streams that are asked about, and again after it was forgotten.
        seed: of the run.
        num_streams: C. It bounds the world size: W must divide it.
        global_batch: G, in visits; a multiple of C.
        questions_per_visit: q.
        block_shards: how many consecutive shards of a stream are shuffled together.

    Raises:
        DataError: a value that breaks a rule, or too few shards or visits for C streams.
    """

    def __init__(
        self,
        histograms: Sequence[Mapping[int, int]],
        counts: Callable[[int], Sequence[int]],
        *,
        seed: int,
        num_streams: int,
        global_batch: int,
        questions_per_visit: int,
        block_shards: int = 4,
    ):
        check_minimum("data.seed", seed, 0)
        check_minimum("data.questions_per_visit", questions_per_visit, 1)
        check_minimum("data.block_shards", block_shards, 1)
        check_layout(num_streams=num_streams, global_batch=global_batch)
        self.seed = seed
        self.num_streams = num_streams
        self.global_batch = global_batch
        self.questions_per_visit = questions_per_visit
        self.block_shards = block_shards
        self._counts = counts
        self._shard_visits = np.fromiter(
            (
                sum(num_chunks(n, questions_per_visit) * times for n, times in histogram.items())
                for histogram in histograms
            ),
            dtype=np.int64,
            count=len(histograms),
        )
        self._lock = threading.RLock()
        self._epochs: OrderedDict[int, DealtShards] = OrderedDict()
        self._check_size()
        self._blocks: dict[int, OrderedDict[tuple[int, int], _Block]] = {}

    @classmethod
    def for_source(
        cls,
        source: Source,
        *,
        seed: int,
        num_streams: int,
        global_batch: int,
        questions_per_visit: int,
        block_shards: int = 4,
    ) -> Plan:
        """The plan over a packed data set; the arguments are those of the class."""

        def counts(shard: int) -> Sequence[int]:
            return [entry.num_questions for entry in source.entries(shard)]

        return cls(
            [shard.question_counts for shard in source.shards],
            counts,
            seed=seed,
            num_streams=num_streams,
            global_batch=global_batch,
            questions_per_visit=questions_per_visit,
            block_shards=block_shards,
        )

    @property
    def share(self) -> int:
        """G/C: the visits each stream gives to a global batch."""
        return self.global_batch // self.num_streams

    @property
    def total_visits(self) -> int:
        return int(self._shard_visits.sum())

    def parameters(self) -> dict[str, int]:
        """All that the order depends on besides the data; a checkpoint compares them."""
        return {
            "seed": self.seed,
            "streams": self.num_streams,
            "global_batch": self.global_batch,
            "questions_per_visit": self.questions_per_visit,
            "block_shards": self.block_shards,
        }

    def _check_size(self) -> None:
        usable = np.count_nonzero(self._shard_visits)
        if usable < self.num_streams:
            raise DataError(
                f"data.streams = {self.num_streams}: the data set has {usable} shards with "
                "questions, and every stream needs one; use fewer streams, or pack smaller "
                "shards (`gcg pack --shard-mb`)"
            )
        least = int(self._epoch(0).loads.min())
        if least < self.share:
            raise DataError(
                f"data.global_batch = {self.global_batch}: takes {self.share} visits from each of "
                f"{self.num_streams} streams, the smallest has {least}; use a smaller "
                "global batch, fewer streams, or more and smaller shards"
            )

    def steps_per_epoch(self, epoch: int) -> int:
        """How many whole global batches the epoch has, at least 1.

        The same for every epoch: dealing shards by size gives the same loads whichever of two
        equally big shards comes first.
        """
        return int(self._epoch(epoch).loads.min()) // self.share

    def leftover(self, epoch: int) -> int:
        """How many visits are not made in this epoch."""
        return self.total_visits - self.steps_per_epoch(epoch) * self.global_batch

    def stream_shards(self, epoch: int) -> tuple[tuple[int, ...], ...]:
        """The shards of each stream, in the order it reads them."""
        dealt = self._epoch(epoch)
        return tuple(tuple(dealt.of(stream)[0].tolist()) for stream in range(self.num_streams))

    def advance(self, epoch: int, step: int) -> tuple[int, int]:
        """The position after (epoch, step)."""
        step += 1
        return (epoch, step) if step < self.steps_per_epoch(epoch) else (epoch + 1, 0)

    def streams_of(self, rank: int, world_size: int) -> range:
        """The streams a rank serves.

        Raises:
            DataError: the world size does not divide C, or there is no such rank.
        """
        if world_size < 1 or self.num_streams % world_size:
            fitting = ", ".join(map(str, divisors(self.num_streams)))
            raise DataError(
                f"world_size: {world_size}: must divide data.streams = {self.num_streams}; "
                f"use one of {fitting}"
            )
        if not 0 <= rank < world_size:
            raise DataError(f"rank: {rank}: not in 0..{world_size - 1}")
        return range(rank, self.num_streams, world_size)

    def visits(self, epoch: int, step: int, rank: int, world_size: int) -> list[list[Visit]]:
        """A rank's part of a global batch: for each of its streams, in rising order, G/C visits.

        Raises:
            DataError: the world size does not fit, or the epoch has no such step.
        """
        streams = self.streams_of(rank, world_size)
        if not 0 <= step < self.steps_per_epoch(epoch):
            raise DataError(
                f"step: {step}: epoch {epoch} has steps 0..{self.steps_per_epoch(epoch) - 1}"
            )
        start = step * self.share
        return [
            [self.visit(epoch, stream, start + i) for i in range(self.share)] for stream in streams
        ]

    def visit(self, epoch: int, stream: int, position: int) -> Visit:
        """The visit at a position, from 0, of a stream's epoch."""
        block = self._block_at(epoch, stream, position)
        return Visit(*block.visits[position - block.first].tolist(), epoch=epoch)

    def shards_at(
        self, epoch: int, step: int, rank: int, world_size: int
    ) -> tuple[list[int], list[int]]:
        """Which shards a rank reads in a step, and which come next.

        Returns:
            The shards of the blocks that its streams are in, and those of the blocks after them
            (at an epoch's end, of the next epoch's first), each stream's next one in turn.
        """
        first, last = step * self.share, (step + 1) * self.share - 1
        ends = step + 1 == self.steps_per_epoch(epoch)
        current: list[int] = []
        upcoming: list[list[int]] = []
        for stream in self.streams_of(rank, world_size):
            now, after = self.window(epoch, stream, first, last)
            current += now
            upcoming.append(self.window(epoch + 1, stream, 0, 0)[0] if ends or not after else after)
        return current, in_turn(upcoming, current)

    def window(self, epoch: int, stream: int, first: int, last: int) -> tuple[list[int], list[int]]:
        """The shards of the blocks that positions ``first`` to ``last`` of a stream are in, and
        those of the block after them."""
        shards, ends = self._epoch(epoch).of(stream)
        size = self.block_shards
        begin, end = np.searchsorted(ends, [first, last], side="right") // size * size
        return shards[begin : end + size].tolist(), shards[end + size : end + 2 * size].tolist()

    def replacement(self, epoch: int, step: int, position: int, attempt: int) -> Visit:
        """The visit to make instead of one whose clip is bad.

        Args:
            position: 0..G-1, the visit's place in the global batch in stream order.
            attempt: 0, 1, ...: the first few come from the same block, whose shards are being
                read anyway; later ones from the whole stream, in case the block is all bad.
        """
        stream, offset = divmod(position, self.share)
        total = int(self._epoch(epoch).loads[stream])
        first, length = 0, total
        if attempt < 4:
            block = self._block_at(epoch, stream, step * self.share + offset)
            first, length = block.first, len(block.visits)
        draw = int63("replacement", self.seed, epoch, step, position, attempt)
        return self.visit(epoch, stream, first + draw % length)

    def questions(self, visit: Visit, num_questions: int) -> list[int]:
        """Which of a video's questions the visit asks, rising. Chunks are balanced in size, and
        drawn anew each epoch."""
        key = ("questions", self.seed, visit.epoch, visit.shard, visit.sample)
        order = permutation(num_questions, *key)
        chunks = np.array_split(order, num_chunks(num_questions, self.questions_per_visit))
        return sorted(chunks[visit.chunk].tolist())

    def _epoch(self, epoch: int) -> DealtShards:
        with self._lock:
            if epoch not in self._epochs:
                self._epochs[epoch] = deal(self._shard_visits, self.num_streams, self.seed, epoch)
                if len(self._epochs) > 3:
                    self._epochs.popitem(last=False)
            return self._epochs[epoch]

    def _block_at(self, epoch: int, stream: int, position: int) -> _Block:
        shards, ends = self._epoch(epoch).of(stream)
        number = int(np.searchsorted(ends, position, side="right")) // self.block_shards
        with self._lock:
            blocks = self._blocks.setdefault(stream, OrderedDict())
            if (epoch, number) in blocks:
                blocks.move_to_end((epoch, number))
                return blocks[epoch, number]
            start = number * self.block_shards
            chosen = shards[start : start + self.block_shards].tolist()
            visits = self._shuffled((epoch, stream, number), chosen)
            block = _Block(int(ends[start - 1]) if start else 0, visits)
            blocks[epoch, number] = block
            # The one being read, the next, into which prefetch looks, and one for replacements.
            if len(blocks) > 3:
                blocks.popitem(last=False)
            return block

    def _shuffled(self, key: tuple[int, int, int], shards: Sequence[int]) -> np.ndarray:
        parts = []
        for shard in shards:
            visits = visits_of_shard(self._counts(shard), self.questions_per_visit)
            if len(visits) != self._shard_visits[shard]:
                raise DataError(
                    f"shard {shard}: its index has {len(visits)} visits, the data set's index "
                    f"says {self._shard_visits[shard]}; run `gcg pack` again"
                )
            parts.append(np.insert(visits, 0, shard, axis=1))
        joined = np.concatenate(parts)
        return joined[permutation(len(joined), "visits", self.seed, *key)]
