"""Frozen features of a data set, computed once and kept: what the grounding study trains on.

V = videos, Q = questions, T = frames, L = words, O = options, C = joint width.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor
from torch.serialization import safe_globals

from gcg.description import describe

NUM_FRAMES = 32
VERSION = 3


@dataclass(frozen=True)
class Question:
    """One question: ``video`` is the row of its video, ``spans`` gold seconds or empty."""

    video: int
    id: str
    type: str
    text: str
    options: tuple[str, ...]
    answer: int
    spans: tuple[tuple[float, float], ...]


@dataclass
class Features:
    """A data set: ``frames`` (V, T, C); ``durations`` (V,) in seconds.

    Per question: ``words`` (L, C), ``pooled`` (Q, C), ``statements`` (Q, O, C) of the question with
    each option filled in, ``clauses`` (Q, 2, C), the asked event and the event that dates it. The
    event description of question q is ``statements[q, answer]``. ``splits`` names question rows.
    ``sentences`` (V, T, S, C): of each caption, where frames are captions.
    """

    name: str
    frames: Tensor
    durations: Tensor
    questions: list[Question]
    words: list[Tensor]
    pooled: Tensor
    statements: Tensor
    clauses: Tensor
    splits: dict[str, list[int]] = field(default_factory=dict)
    sentences: Tensor | None = None


Encoder = Callable[[Sequence[str]], tuple[list[Tensor], Tensor]]


def cached(path: Path, build: Callable[[], Features]) -> Features:
    """The features kept at ``path``, or those that ``build`` makes, kept there from now on."""
    if path.exists():
        with safe_globals([Features, Question]):  # nothing else may be made of it
            kept = torch.load(path, weights_only=True)
        if kept["version"] == VERSION:
            return kept["features"]
    features = build()
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    torch.save({"version": VERSION, "features": features}, partial)
    partial.replace(path)
    return features


def assemble(
    name: str,
    frames_VTC: Tensor,
    durations_V: Tensor,
    questions: list[Question],
    encode: Encoder,
    splits: dict[str, list[int]],
) -> Features:
    """Encode every text of the questions and put a data set together."""
    words, pooled = encode([q.text for q in questions])
    most = max(len(q.options) for q in questions)
    statements = [describe(q.text, option) for q in questions for option in _filled(q, most)]
    asked_and_dated = [clause for q in questions for clause in clauses_of(q.text)]
    return Features(
        name=name,
        frames=frames_VTC,
        durations=durations_V,
        questions=questions,
        words=words,
        pooled=pooled,
        statements=encode(statements)[1].unflatten(0, (-1, most)),
        clauses=encode(asked_and_dated)[1].unflatten(0, (-1, 2)),
        splits=splits,
    )


def _filled(question: Question, most: int) -> Iterator[str]:
    """The options, the last repeated where a question has fewer than others."""
    for number in range(most):
        yield question.options[min(number, len(question.options) - 1)]


_LINKS = (" after ", " before ", " when ", " while ", " as ", " at the ")


def clauses_of(question: str) -> tuple[str, str]:
    """(what is asked, the clause that dates it); the whole question twice without such a clause.

    >>> clauses_of("what does the boy do after he fell")
    ('what does the boy do', 'he fell')
    """
    text = question.strip().rstrip("?")
    found = [(text.find(link), link) for link in _LINKS if link in text]
    if not found:
        return text, text
    place, link = min(found)
    return text[:place], text[place + len(link) :]


def held_out(names: Sequence[str], share: float, salt: str) -> set[str]:
    """The same share of the names every time, chosen by a hash."""
    ranked = sorted(names, key=lambda n: hashlib.sha256(f"{salt}/{n}".encode()).digest())
    return set(ranked[: round(share * len(ranked))])
