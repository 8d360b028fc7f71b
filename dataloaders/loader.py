"""The training loader: plan -> read -> decode -> collate, ahead of the consumer in threads."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from torch import Tensor

from dataloaders.assemble import Assembler, Loaded, Stage, StepBatch
from dataloaders.batch import Collator, VisitData
from dataloaders.errors import DataError
from dataloaders.fetch import ClipDecoder, make_fetcher
from dataloaders.labels import LabelSet
from dataloaders.layout import check_layout, check_minimum
from dataloaders.mixture import MixturePlan
from dataloaders.plan import Plan
from dataloaders.prefetch import Job, Prefetcher
from dataloaders.quarantine import BadSample, Quarantine
from dataloaders.source import Source
from dataloaders.time_limit import DECODE_TIMEOUT_S
from dataloaders.visits import Visit

logger = logging.getLogger(__name__)

STATE_VERSION = 1
MAX_REPLACEMENTS = 8


class Loader:
    """Yields ``StepBatch`` for step after step and epoch after epoch, without end.

    Args:
        source: the packed data set, or a mixture of several; not closed here.
        plan: the order, made for the same source.
        collate: makes micro-batches.
        decoder: makes frames of clips.
        num_frames: T, frames sampled of each clip.
        rank: of this process.
        world_size: how many there are; it must divide the plan's streams.
        micro_batch: visits of one forward pass; by default the rank's whole part. Of the rank's
            part those with texts of like length are put together (:mod:`dataloaders.bucketing`).
        contrast_group: consecutive visits of the global batch that are each other's negatives;
            they may lie in several micro-batches and on several ranks. A video that is in a group
            twice (or replaces a bad one in it) leaves the group the second time.
        labels: pseudo-labels, of each part if it is a mixture; every question needs one.
        quarantine: policy for bad samples; by default the default budget and no file.
        decode_threads: clips decoded at a time.
        decode_timeout_s: a clip that decodes for longer is a bad sample; 0: no limit.
        prefetch_steps: steps held ready at most, which bounds the memory.
        stage: what is done with a step while the consumer works on the one before; one of the steps
            that are held has been through it, and two are held at least.

    The position moves when a step is handed over, never on prefetch: ``state_dict`` taken after
    step n, loaded into a new loader at any world size that fits, gives step n + 1 next.
    Close it, or use it as a context manager, to end its threads.

    Raises:
        DataError: values that do not fit each other; while iterating, a spent budget of bad
            samples, a question without label, a damaged index.
    """

    def __init__(
        self,
        source: Source,
        plan: Plan | MixturePlan,
        collate: Collator,
        decoder: ClipDecoder,
        *,
        num_frames: int,
        rank: int = 0,
        world_size: int = 1,
        micro_batch: int | None = None,
        contrast_group: int = 1,
        labels: LabelSet | Sequence[LabelSet] | None = None,
        quarantine: Quarantine | None = None,
        decode_threads: int = 4,
        decode_timeout_s: float = DECODE_TIMEOUT_S,
        prefetch_steps: int = 2,
        stage: Stage | None = None,
    ):
        check_layout(
            num_streams=plan.num_streams,
            global_batch=plan.global_batch,
            world_size=world_size,
            micro_batch=micro_batch,
            contrast_group=contrast_group,
        )
        check_minimum("data.decode_threads", decode_threads, 1)
        check_minimum("data.prefetch_steps", prefetch_steps, 1)
        self._streams = plan.streams_of(rank, world_size)
        self._source = source
        self._plan = plan
        self._fetcher = make_fetcher(source, labels, num_frames, decoder, decode_timeout_s)
        self._num_frames = num_frames
        self._rank = rank
        self._world_size = world_size
        self._contrast_group = contrast_group
        self.quarantine = quarantine if quarantine is not None else Quarantine()
        size = micro_batch or plan.global_batch // world_size
        # Otherwise groups span micro-batches anyway, or consecutive visits are of several groups.
        whole = size % contrast_group == 0 and (world_size == 1 or plan.share % contrast_group == 0)
        num_groups = plan.global_batch // contrast_group
        self._assemble = Assembler(
            collate, self.quarantine, size, contrast_group, whole, num_groups
        )
        self._threads = decode_threads
        self._depth = prefetch_steps
        self._position = (0, 0)
        self._stage = stage
        # The last of them hands over; each takes from the one before.
        self._prefetchers: list[Prefetcher[StepBatch]] = []
        self.last_wait_s = 0.0
        leftover = plan.leftover(0)
        if leftover * 10 > plan.total_visits:
            logger.warning(
                "%s: %d of %d visits are left over in each epoch: pack more and smaller shards, "
                "or use fewer streams",
                source.name, leftover, plan.total_visits,
            )  # fmt: skip

    @property
    def position(self) -> tuple[int, int]:
        """(epoch, step) of the step that is handed over next."""
        return self._position

    def counters(self) -> dict[str, int]:
        """The quarantine's, and ``timeouts``: clips given up since decoding took too long."""
        return {**self.quarantine.counters(), "timeouts": self._fetcher.timeouts}

    @property
    def plan(self) -> Plan | MixturePlan:
        return self._plan

    def __iter__(self) -> Iterator[StepBatch]:
        return self

    def __next__(self) -> StepBatch:
        """The next step. ``last_wait_s`` is then the seconds the caller waited for it."""
        if not self._prefetchers:
            self._start()
        last = self._prefetchers[-1]
        batch = next(last)
        self.last_wait_s = last.last_wait_s
        if self._stage is not None:
            self._stage.receive(batch)
        self._position = self._plan.advance(batch.epoch, batch.step)
        return batch

    def _start(self) -> None:
        jobs = self._jobs(*self._position)
        depth = self._depth if self._stage is None else max(1, self._depth - 1)
        first = Prefetcher(jobs, threads=self._threads, depth=depth)
        self._prefetchers.append(first)
        if self._stage is not None:
            staged = _one_by_one(first, self._stage)
            self._prefetchers.append(Prefetcher(staged, threads=1, depth=1, name="stage"))

    def _jobs(self, epoch: int, step: int) -> Iterator[Job[StepBatch]]:
        # A step whose clips are not all read yet may still need the shards of the one before.
        recent: deque[list[int]] = deque(maxlen=self._depth + 1)
        told = None
        while True:
            current, upcoming = self._plan.shards_at(epoch, step, self._rank, self._world_size)
            recent.append(current)
            reading = list(dict.fromkeys(shard for shards in recent for shard in shards))
            if told != (reading, upcoming):
                told = (reading, upcoming)
                self._fetcher.prefetch(reading, upcoming)
            shares = self._plan.visits(epoch, step, self._rank, self._world_size)
            visits = [
                (stream * self._plan.share + i, visit)
                for stream, own in zip(self._streams, shares, strict=True)
                for i, visit in enumerate(own)
            ]
            # Clips are decoded to where the batch has them: collating copies no pixels.
            room = self._fetcher.room(len(visits))
            parts = [
                partial(self._load, epoch, step, *visit, None if room is None else room[row])
                for row, visit in enumerate(visits)
            ]
            yield Job(parts, partial(self._assemble, epoch, step))
            epoch, step = self._plan.advance(epoch, step)

    def _load(
        self, epoch: int, step: int, position: int, visit: Visit, room: Tensor | None
    ) -> Loaded:
        """One visit, or a replacement that depends on nothing but its place in the run."""
        bad: list[BadSample] = []
        name = self._fetcher.data_name(visit.shard)
        for attempt in range(MAX_REPLACEMENTS + 1):
            clip = self._fetcher.clip(visit.shard, visit.sample, None if bad else room)
            if not isinstance(clip, BadSample):
                video = clip.video
                chosen = self._plan.questions(visit, len(video.questions))
                questions = [video.questions[i] for i in chosen]
                labels = self._fetcher.labels(visit.shard, video, questions)
                group = position // self._contrast_group
                visit_data = VisitData.of(
                    video, questions, labels, clip.frames, group=group, position=position
                )
                return Loaded(visit_data, bad, name)
            bad.append(clip)
            visit = self._plan.replacement(epoch, step, position, attempt)
        return Loaded(None, bad, name)

    def _fingerprint(self) -> dict[str, Any]:
        return {
            "data": self._source.fingerprint,
            **self._plan.parameters(),
            "num_frames": self._num_frames,
            "contrast_group": self._contrast_group,
        }

    def state_dict(self) -> dict[str, Any]:
        """The position and what it is a position in; plain JSON values, the same on all ranks."""
        epoch, step = self._position
        return {
            "version": STATE_VERSION,
            "epoch": epoch,
            "step": step,
            "fingerprint": self._fingerprint(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to a position; constant time, nothing is replayed.

        Raises:
            DataError: the state is of another version, data set or plan. World size, micro-batch
                and threads may differ: the global batches are the same.
        """
        if state.get("version") != STATE_VERSION:
            raise DataError(
                f"loader state: version: {state.get('version')!r}: this release reads "
                f"{STATE_VERSION}; resume with the release that wrote it"
            )
        saved = state.get("fingerprint", {})
        for name, value in self._fingerprint().items():
            if saved.get(name) != value:
                raise DataError(
                    f"loader state: data.{name}: the checkpoint has {saved.get(name)!r}, this run "
                    f"{value!r}; resume with the same value, or start a new run"
                )
        epoch, step = int(state["epoch"]), int(state["step"])
        if epoch < 0 or not 0 <= step < self._plan.steps_per_epoch(epoch):
            raise DataError(
                f"loader state: ({epoch}, {step}): no such epoch and step; the state is damaged"
            )
        self.close()
        self._position = (epoch, step)

    def close(self) -> None:
        """End the threads; iterating again goes on at ``position``."""
        # From the first on: the others then wait for nothing.
        for prefetcher in self._prefetchers:
            prefetcher.close()
        self._prefetchers.clear()
        self._fetcher.close()

    def __enter__(self) -> Loader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _one_by_one(steps: Prefetcher[StepBatch], stage: Stage) -> Iterator[Job[StepBatch]]:
    while True:
        yield Job([partial(next, steps)], lambda batches: stage.prepare(batches[0]))
