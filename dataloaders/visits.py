"""Visits: how the questions of a video are cut into pieces that are asked together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Visit(NamedTuple):
    """Chunk ``chunk`` of the questions of sample ``sample`` of shard ``shard``, in pass ``epoch``
    over the data set, which says how its questions are cut; all from 0."""

    shard: int
    sample: int
    chunk: int
    epoch: int = 0


def num_chunks(num_questions: int, questions_per_visit: int) -> int:
    """How many visits it takes to ask all questions of a video."""
    return -(-num_questions // questions_per_visit)


def visits_of_shard(counts: Sequence[int], questions_per_visit: int) -> np.ndarray:
    """(n, 2) int32 of (sample, chunk), in shard order; ``counts``: questions of each sample."""
    chunks = -(-np.asarray(counts, dtype=np.int64) // questions_per_visit)
    samples = np.repeat(np.arange(len(chunks)), chunks)
    starts = np.repeat(np.cumsum(chunks) - chunks, chunks)
    return np.stack([samples, np.arange(len(samples)) - starts], axis=1).astype(np.int32)
