"""A question as an annotation file has it, and which files a benchmark is made of."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

Spans = tuple[tuple[float, float], ...]
_SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


@dataclass(frozen=True)
class Asked:
    """One question, read but not yet checked.

    ``id`` names it within its video, ``key`` in the benchmark's own result files; where two
    questions of a video have one number, ``shared_key`` is the key that both go by. ``fault`` says
    why it cannot be asked (no answer, or one that is none of the options), else it is None.
    ``spans`` are gold, in seconds; ``facts`` are what the file says of the video.
    """

    place: str
    video: str
    id: str
    key: str
    question: str
    answer: str
    options: tuple[str, ...] | None = None
    answer_index: int | None = None
    type: str = ""
    split: str | None = None
    spans: Spans | None = None
    fault: str | None = None
    shared_key: str | None = None
    facts: dict[str, int | None] = field(default_factory=dict)


@dataclass(frozen=True)
class Files:
    """What a benchmark's annotations consist of.

    Args:
        annotations: the file of questions (for Causal-VidQA a folder).
        spans: gold time spans, if they lie in a file of their own (NExT-GQA's ``gsub_*.json``).
        ids: only the videos that this file lists.
        split: written into every question; by default what the file's name says.
    """

    annotations: Path
    spans: Path | None = None
    ids: Path | None = None
    split: str | None = None

    @property
    def split_name(self) -> str | None:
        return self.split or split_of(self.ids) or split_of(self.annotations)


def split_of(path: Path | None) -> str | None:
    """``train``, ``val`` or ``test`` where a file's name has that word: ``STAR_val.json``."""
    if path is None:
        return None
    words = re.findall(r"[a-z]+", path.stem.lower())
    return next((_SPLITS[word] for word in words if word in _SPLITS), None)
