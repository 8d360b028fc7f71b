"""Several data sets in one run: which set each visit of a global batch comes from, and which visit.

Every set has a plan of its own over the same C streams. In an epoch stream c makes ``quotas[i]``
visits of set i, the same number in every stream, spread evenly: the n-th visit of a stream is of
set 0 wherever ``floor((n·q + f) / T)`` steps up, f being drawn from (seed, epoch, stream); what is
left over goes to set 1 in the same way, and so on. So how many visits of each set came before any
position is a matter of arithmetic, and resuming costs the same at every step. A set's own passes
run on from epoch to epoch: what it has left over in one is made first in the next.

W = world size, C = streams, G = global batch, T = visits of a stream in an epoch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from dataloaders.dealing import in_turn
from dataloaders.errors import DataError
from dataloaders.layout import check_layout, check_minimum
from dataloaders.plan import Plan
from dataloaders.seeds import int63
from dataloaders.set_quotas import SetRule, quotas_of, trimmed
from dataloaders.source import Source
from dataloaders.visits import Visit


class _Draw(NamedTuple):
    """The ``number``-th visit of set ``part`` in a stream, counted over the whole run."""

    part: int
    number: int


class MixturePlan:
    """The order of a run over several data sets; answers what :class:`Plan` answers.

    Shards are numbered through: set i's begin after those of the sets before it.

    Args:
        plans: one a set, each with a global batch of C: one visit a stream.
        shard_counts: shards of each set.
        rules: all with ``repeat``, passes over the set in an epoch, or all with ``weight``, shares
            of an epoch that is as long as all sets together.
        seed, num_streams, global_batch: of the run, as for :class:`Plan`.

    Raises:
        DataError: rules that do not go together, or too few visits for a global batch.
    """

    def __init__(
        self,
        plans: Sequence[Plan],
        shard_counts: Sequence[int],
        rules: Sequence[SetRule],
        *,
        seed: int,
        num_streams: int,
        global_batch: int,
    ):
        assert len(plans) == len(shard_counts) == len(rules)
        assert all(plan.global_batch == plan.num_streams == num_streams for plan in plans)
        check_layout(num_streams=num_streams, global_batch=global_batch)
        self.seed = seed
        self.num_streams = num_streams
        self.global_batch = global_batch
        self._plans = tuple(plans)
        self._first = [sum(shard_counts[:i]) for i in range(len(plans))]
        # The same in every epoch: see Plan.steps_per_epoch.
        self._passes = [plan.steps_per_epoch(0) for plan in plans]
        wanted = quotas_of(rules, self._passes)
        self._steps = sum(wanted) // self.share
        if self._steps == 0:
            raise DataError(
                f"data.global_batch = {global_batch}: takes {self.share} visits from each of "
                f"{num_streams} streams, the mixture has {sum(wanted)}; use a smaller global "
                "batch, or repeat the sets more often"
            )
        self.quotas = trimmed(wanted, self._steps * self.share)
        self._asked = [
            plan.total_visits * quota / passes
            for plan, quota, passes in zip(plans, wanted, self._passes, strict=True)
        ]

    @classmethod
    def for_sources(
        cls,
        sources: Sequence[Source],
        rules: Sequence[SetRule],
        *,
        seed: int,
        num_streams: int,
        global_batch: int,
        questions_per_visit: int,
        block_shards: int = 4,
    ) -> MixturePlan:
        """The plan over packed data sets; a set's own order depends on its place in the list."""
        check_minimum("data.seed", seed, 0)
        plans = []
        for number, (source, rule) in enumerate(zip(sources, rules, strict=True)):
            try:
                plan = Plan.for_source(
                    source,
                    seed=int63("set", seed, number),
                    num_streams=num_streams,
                    global_batch=num_streams,
                    questions_per_visit=questions_per_visit,
                    block_shards=block_shards,
                )
            except DataError as error:
                setting, _, rest = str(error).partition(": ")
                raise DataError(f"{setting}: {rule.name}: {rest}") from None
            plans.append(plan)
        counts = [len(source.shards) for source in sources]
        return cls(
            plans, counts, rules, seed=seed, num_streams=num_streams, global_batch=global_batch
        )

    @property
    def share(self) -> int:
        """G/C: the visits each stream gives to a global batch."""
        return self.global_batch // self.num_streams

    @property
    def total_visits(self) -> int:
        """Of an epoch, with what it leaves over."""
        return round(sum(self._asked))

    def steps_per_epoch(self, epoch: int) -> int:
        """How many whole global batches the epoch has, at least 1; the same for every epoch."""
        return self._steps

    def leftover(self, epoch: int) -> int:
        """How many visits an epoch is short of what the rules ask for; the next goes on there."""
        return max(0, self.total_visits - self._steps * self.global_batch)

    def parameters(self) -> dict[str, Any]:
        """All that the order depends on besides the data; a checkpoint compares them."""
        own = {"seed": self.seed, "streams": self.num_streams, "global_batch": self.global_batch}
        shared = self._plans[0].parameters()
        return {**shared, **own, "mixture": list(self.quotas)}

    def stream_shards(self, epoch: int) -> tuple[tuple[int, ...], ...]:
        """The shards that each stream reads in the epoch, set by set; each set's in its order."""
        streams: list[list[int]] = [[] for _ in range(self.num_streams)]
        for part, plan in enumerate(self._plans):
            quota, passes = self.quotas[part], self._passes[part]
            if not quota:
                continue
            begin, end = epoch * quota, (epoch + 1) * quota - 1
            for number in range(begin // passes, end // passes + 1):
                for stream, shards in enumerate(plan.stream_shards(number)):
                    streams[stream] += [self._first[part] + shard for shard in shards]
        return tuple(tuple(dict.fromkeys(shards)) for shards in streams)

    def advance(self, epoch: int, step: int) -> tuple[int, int]:
        """The position after (epoch, step)."""
        step += 1
        return (epoch, step) if step < self._steps else (epoch + 1, 0)

    def streams_of(self, rank: int, world_size: int) -> range:
        """The streams a rank serves; errors as :meth:`Plan.streams_of`."""
        return self._plans[0].streams_of(rank, world_size)

    def visits(self, epoch: int, step: int, rank: int, world_size: int) -> list[list[Visit]]:
        """A rank's part of a global batch: for each of its streams, in rising order, G/C visits.

        Raises:
            DataError: the world size does not fit, or the epoch has no such step.
        """
        streams = self.streams_of(rank, world_size)
        if not 0 <= step < self._steps:
            raise DataError(f"step: {step}: epoch {epoch} has steps 0..{self._steps - 1}")
        start = step * self.share
        return [
            [self._visit(epoch, stream, start + i) for i in range(self.share)] for stream in streams
        ]

    def shards_at(
        self, epoch: int, step: int, rank: int, world_size: int
    ) -> tuple[list[int], list[int]]:
        """Which shards a rank reads in a step, and which come next; as :meth:`Plan.shards_at`."""
        start, stop = step * self.share, (step + 1) * self.share
        current: list[int] = []
        upcoming: list[list[int]] = []
        for stream in self.streams_of(rank, world_size):
            before, after = (self._counts(epoch, stream, slot) for slot in (start, stop))
            for part, quota in enumerate(self.quotas):
                if quota:
                    # A set that this step makes no visit of is where its next one is.
                    first = epoch * quota + before[part]
                    last = max(first, epoch * quota + after[part] - 1)
                    now, later = self._window(part, stream, first, last)
                    current += now
                    upcoming.append(later)
        return current, in_turn(upcoming, current)

    def _window(self, part: int, stream: int, first: int, last: int) -> tuple[list[int], list[int]]:
        """As :meth:`Plan.window`, for visits of one set counted over the whole run."""
        plan, passes = self._plans[part], self._passes[part]
        begin, end = divmod(first, passes), divmod(last, passes)
        now: list[int] = []
        if begin[0] != end[0]:
            now += plan.window(begin[0], stream, begin[1], passes - 1)[0]
            begin = (end[0], 0)
        here, later = plan.window(end[0], stream, begin[1], end[1])
        later = later or plan.window(end[0] + 1, stream, 0, 0)[0]
        offset = self._first[part]
        return [offset + shard for shard in now + here], [offset + shard for shard in later]

    def replacement(self, epoch: int, step: int, position: int, attempt: int) -> Visit:
        """The visit to make instead of a bad one: of the same set, as :meth:`Plan.replacement`."""
        stream, offset = divmod(position, self.share)
        draw = self._draw(epoch, stream, step * self.share + offset)
        pass_number, place = divmod(draw.number, self._passes[draw.part])
        visit = self._plans[draw.part].replacement(pass_number, place, stream, attempt)
        return visit._replace(shard=visit.shard + self._first[draw.part])

    def questions(self, visit: Visit, num_questions: int) -> list[int]:
        """Which of a video's questions the visit asks, rising."""
        part = self.part_of(visit.shard)
        own = visit._replace(shard=visit.shard - self._first[part])
        return self._plans[part].questions(own, num_questions)

    def part_of(self, shard: int) -> int:
        """The set that a shard belongs to."""
        return max(i for i, first in enumerate(self._first) if first <= shard)

    def _visit(self, epoch: int, stream: int, slot: int) -> Visit:
        draw = self._draw(epoch, stream, slot)
        pass_number, place = divmod(draw.number, self._passes[draw.part])
        visit = self._plans[draw.part].visit(pass_number, stream, place)
        return visit._replace(shard=visit.shard + self._first[draw.part])

    def _counts(self, epoch: int, stream: int, slot: int) -> list[int]:
        """How many visits of each set a stream has made in an epoch before a slot, 0..T."""
        total, counts = sum(self.quotas), []
        for part, quota in enumerate(self.quotas):
            counts.append(self._before(epoch, stream, part, slot, quota, total))
            slot -= counts[-1]
            total -= quota
        return counts

    def _before(self, epoch: int, stream: int, part: int, slot: int, quota: int, total: int) -> int:
        """Of the first ``slot`` of ``total`` visits, those of a set that has ``quota`` of them."""
        if not quota:
            return 0
        phase = int63("mixture", self.seed, epoch, stream, part) % total
        return (slot * quota + phase) // total

    def _draw(self, epoch: int, stream: int, slot: int) -> _Draw:
        """Which visit of which set a stream makes at a slot, 0..T-1, of an epoch."""
        total = sum(self.quotas)
        for part, quota in enumerate(self.quotas):
            before = self._before(epoch, stream, part, slot, quota, total)
            if self._before(epoch, stream, part, slot + 1, quota, total) > before:
                return _Draw(part, epoch * quota + before)
            slot -= before
            total -= quota
        raise AssertionError("the last set with a quota takes every slot")
