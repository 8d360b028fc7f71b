"""From loaded visits to a rank's part of a global batch: count, tell twins apart, deal, collate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

from dataloaders.batch import Batch, Collator, VisitData
from dataloaders.bucketing import deal
from dataloaders.errors import DataError
from dataloaders.quarantine import BadSample, Quarantine


@dataclass(frozen=True)
class StepBatch:
    """A rank's part of one global batch, in micro-batches."""

    epoch: int
    step: int
    micro: list[Batch]

    @property
    def num_pairs(self) -> int:
        """Question-video pairs of this rank; sum over ranks for the global number."""
        return sum(batch.num_pairs for batch in self.micro)


class Stage(Protocol):
    """What is done with each step after it is assembled, one step ahead of the consumer."""

    def prepare(self, batch: StepBatch) -> StepBatch:
        """In a thread of the loader's, in step order."""
        ...

    def receive(self, batch: StepBatch) -> None:
        """In the consumer's thread, as the step is handed over."""
        ...


class Loaded(NamedTuple):
    """A visit, or none where every replacement was bad too, and what was bad on the way."""

    data: VisitData | None
    bad: list[BadSample]
    data_name: str


@dataclass(frozen=True)
class Assembler:
    """Makes steps of visits. Called in step order, by one thread.

    Args:
        collate: makes micro-batches.
        quarantine: counts what was good and bad.
        micro_batch: visits of one forward pass; it divides the rank's part.
        contrast_group: as of :class:`dataloaders.loader.Loader`.
        whole_groups: consecutive visits of the rank's part are whole contrast groups, which are not
            to be cut.
        num_groups: of the global batch.
    """

    collate: Collator
    quarantine: Quarantine
    micro_batch: int
    contrast_group: int
    whole_groups: bool
    num_groups: int

    def __call__(self, epoch: int, step: int, loaded: Sequence[Loaded]) -> StepBatch:
        """One step's batches.

        Raises:
            DataError: a visit without a usable clip, or the budget of bad samples is spent.
        """
        visits: list[VisitData] = []
        for data, bad, name in loaded:
            for sample in bad:
                self.quarantine.bad(sample)
            if data is None:
                raise DataError(
                    f"{name}: epoch {epoch}, step {step}: {len(bad)} clips tried for "
                    f"one visit and all bad (last: {bad[-1].shard}: {bad[-1].key}: "
                    f"{bad[-1].reason}); repair the data and run `gcg pack` again"
                )
            self.quarantine.good(name)
            visits.append(data)
        visits = self._separate_twins(visits)
        parts = [[visits[k] for k in part] for part in self._dealt(visits)]
        return StepBatch(epoch, step, [self.collate(part, epoch) for part in parts])

    def _dealt(self, visits: Sequence[VisitData]) -> list[list[int]]:
        size = self.micro_batch
        together = self.contrast_group if self.whole_groups else 1
        if size in (together, len(visits)):  # there is nothing to choose
            return [list(range(i, i + size)) for i in range(0, len(visits), size)]
        return deal(self.collate.lengths(visits), size, together)

    def _separate_twins(self, visits: Sequence[VisitData]) -> list[VisitData]:
        """Take a video's second visit in a contrast group out of it: its frames are no negatives
        for the same video.

        The new number depends on the global batch alone, also where the group spans ranks: a video
        is in one shard, a shard in one stream, a stream on one rank, so the other visit is here.
        (A video that several sets of a mixture have can be on two ranks: it is then taken for two.)
        """
        seen: dict[tuple[int, str], int] = {}
        out = []
        for visit in visits:
            times = seen.setdefault((visit.group, visit.video.id), 0)
            seen[visit.group, visit.video.id] += 1
            out.append(replace(visit, group=visit.group + times * self.num_groups))
        return out
