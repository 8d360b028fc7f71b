"""The evaluation loader: every question exactly once, at any world size."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from typing import NamedTuple

import numpy as np

from dataloaders.batch import Batch, Collator, VisitData
from dataloaders.errors import DataError
from dataloaders.fetch import Clip, ClipDecoder, Fetcher
from dataloaders.labels import LabelSet
from dataloaders.layout import check_minimum
from dataloaders.manifest import Question, Video
from dataloaders.prefetch import Job, Prefetcher
from dataloaders.quarantine import BadSample
from dataloaders.source import Source
from dataloaders.time_limit import DECODE_TIMEOUT_S
from dataloaders.visits import Visit, num_chunks, visits_of_shard

# Shards fetched from a URL ahead of the one that is being read.
SHARDS_AHEAD = 2


@dataclass(frozen=True)
class SkippedQuestion:
    """A question that cannot be asked, since its clip is bad: evaluation counts it."""

    video: str
    question: str
    type: str
    shard: str
    reason: str


class _Part(NamedTuple):
    """Consecutive visits to one sample: decoded once."""

    shard: int
    sample: int
    chunks: tuple[int, ...]


class EvalLoader:
    """Yields this rank's batches in data-set order, once; iterate again for another pass.

    The visits of the whole data set are numbered; rank r of W asks numbers r*N//W up to
    (r+1)*N//W. Nothing is dropped and nothing replaced.

    Args:
        source: the packed data set; not closed here.
        collate: makes batches.
        decoder: makes frames of clips.
        num_frames: T, frames sampled of each clip.
        questions_per_visit: q, the most questions asked in one visit.
        micro_batch: the most visits in a batch.
        labels: pseudo-labels, for the oracle; every question then needs one.
        rank, world_size: this process; any world size will do.
        limit: only the data set's first so many visits.
        equal_steps: yield as many times on every rank, None where this rank has nothing left or
            only bad clips: for models that synchronise in every forward pass (ZeRO-3).
        decode_threads, decode_timeout_s, prefetch_steps: as in ``Loader``.

    ``skipped`` lists the questions of bad clips met in the current or last pass.

    Raises:
        DataError: values that do not fit; while iterating, a question without label or a damaged
            index.
    """

    def __init__(
        self,
        source: Source,
        collate: Collator,
        decoder: ClipDecoder,
        *,
        num_frames: int,
        questions_per_visit: int = 8,
        micro_batch: int = 4,
        labels: LabelSet | None = None,
        rank: int = 0,
        world_size: int = 1,
        limit: int | None = None,
        equal_steps: bool = False,
        decode_threads: int = 4,
        decode_timeout_s: float = DECODE_TIMEOUT_S,
        prefetch_steps: int = 2,
    ):
        check_minimum("data.questions_per_visit", questions_per_visit, 1)
        check_minimum("data.micro_batch", micro_batch, 1)
        check_minimum("data.decode_threads", decode_threads, 1)
        check_minimum("data.prefetch_steps", prefetch_steps, 1)
        check_minimum("world_size", world_size, 1)
        if not 0 <= rank < world_size:
            raise DataError(f"rank: {rank}: not in 0..{world_size - 1}")
        self._source = source
        self._collate = collate
        self._fetcher = Fetcher(
            source, labels, num_frames, decoder, decode_timeout_s=decode_timeout_s
        )
        self._questions_per_visit = questions_per_visit
        self._micro_batch = micro_batch
        self._equal_steps = equal_steps
        self._threads = decode_threads
        self._depth = prefetch_steps
        self._ends = list(accumulate(self._shard_visits(i) for i in range(len(source.shards))))
        total = self._ends[-1] if limit is None else min(limit, self._ends[-1])
        self._range = range(rank * total // world_size, (rank + 1) * total // world_size)
        self._most = -(-total // world_size)
        self._table = (-1, np.empty((0, 2), dtype=np.int32))
        self.skipped: list[SkippedQuestion] = []
        self.last_wait_s = 0.0

    def _shard_visits(self, shard: int) -> int:
        histogram = self._source.shards[shard].question_counts
        q = self._questions_per_visit
        return sum(num_chunks(n, q) * times for n, times in histogram.items())

    def __len__(self) -> int:
        """How often a pass yields on this rank (fewer if all clips of a batch are bad)."""
        visits = self._most if self._equal_steps else len(self._range)
        return -(-visits // self._micro_batch)

    def __iter__(self) -> Iterator[Batch | None]:
        self.skipped = []
        batches = Prefetcher(self._jobs(), threads=self._threads, depth=self._depth, name="eval")
        try:
            for batch in batches:
                self.last_wait_s = batches.last_wait_s
                if batch is not None or self._equal_steps:
                    yield batch
        finally:
            batches.close()
            self._fetcher.close()

    def _jobs(self) -> Iterator[Job[Batch | None]]:
        for start in range(0, len(self) * self._micro_batch, self._micro_batch):
            numbers = self._range[start : start + self._micro_batch]
            parts = [partial(self._load, part) for part in self._parts(numbers)]
            yield Job(parts, self._assemble)

    def _parts(self, numbers: Sequence[int]) -> list[_Part]:
        parts: list[_Part] = []
        for number in numbers:
            shard, sample, chunk, _ = self._visit(number)
            if parts and parts[-1][:2] == (shard, sample):
                parts[-1] = _Part(shard, sample, (*parts[-1].chunks, chunk))
            else:
                parts.append(_Part(shard, sample, (chunk,)))
        return parts

    def _visit(self, number: int) -> Visit:
        shard = bisect_right(self._ends, number)
        if self._table[0] != shard:  # visits come in order, so one shard's table is enough
            first, last = (bisect_right(self._ends, n) for n in (self._range[0], self._range[-1]))
            # Clips of the shard before may not all be read yet.
            current = range(max(first, shard - 1), shard + 1)
            self._fetcher.prefetch(current, range(shard + 1, min(shard + SHARDS_AHEAD, last) + 1))
            counts = [entry.num_questions for entry in self._source.entries(shard)]
            self._table = (shard, visits_of_shard(counts, self._questions_per_visit))
        first = self._ends[shard - 1] if shard else 0
        sample, chunk = self._table[1][number - first].tolist()
        return Visit(shard, sample, chunk)

    def _load(self, part: _Part) -> list[VisitData] | list[SkippedQuestion]:
        clip = self._fetcher.clip(part.shard, part.sample)
        if isinstance(clip, BadSample):
            return self._skip(part, clip)
        return [self._visit_data(part, clip, chunk) for chunk in part.chunks]

    def _visit_data(self, part: _Part, clip: Clip, chunk: int) -> VisitData:
        questions = self._chunk(clip.video.questions, chunk)
        labels = self._fetcher.labels(part.shard, clip.video, questions)
        return VisitData.of(clip.video, questions, labels, clip.frames, group=0)

    def _chunk(self, questions: list[Question], chunk: int) -> list[Question]:
        q = self._questions_per_visit
        return questions[chunk * q : (chunk + 1) * q]

    def _skip(self, part: _Part, bad: BadSample) -> list[SkippedQuestion]:
        video = self._record(part)
        if video is None:
            # Not even the record can be read: name the questions by number, so they are counted.
            q = self._questions_per_visit
            total = self._source.entries(part.shard)[part.sample].num_questions
            numbers = [n for c in part.chunks for n in range(c * q, min(total, (c + 1) * q))]
            return [SkippedQuestion(bad.key, f"#{n}", "", bad.shard, bad.reason) for n in numbers]
        return [
            SkippedQuestion(video.id, question.id, question.type, bad.shard, bad.reason)
            for chunk in part.chunks
            for question in self._chunk(video.questions, chunk)
        ]

    def _record(self, part: _Part) -> Video | None:
        entry = self._source.entries(part.shard)[part.sample]
        try:
            return self._source.read_record(part.shard, entry)
        except (DataError, OSError):
            return None

    def _assemble(self, loaded: list[list[VisitData] | list[SkippedQuestion]]) -> Batch | None:
        visits: list[VisitData] = []
        for items in loaded:
            for item in items:
                if isinstance(item, SkippedQuestion):
                    self.skipped.append(item)
                else:
                    visits.append(item)
        return self._collate(visits, 0) if visits else None
