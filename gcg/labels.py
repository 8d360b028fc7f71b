"""Pseudo-labels (step 3): which K frames of a clip a question is about, by several strategies.

A strategy sees how like each frame is to the event description and to the question, and how like
neighbouring frames are to each other; it never sees a gold span.

T = frames, K = moments, P = question-video pairs, D_C = joint image-text width.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from torch import Tensor
from torch.nn import functional as F

from gcg.selection import hard_topk

_RELATION = re.compile(r"\b(after|before)\b", re.IGNORECASE)


class Evidence(NamedTuple):
    """What a clip's P labels are chosen by, float32, all cosines.

    ``description`` and ``question`` (P, T): of each frame with each pair's two texts.
    ``neighbours`` (T-1,): of frame t with frame t+1. ``direction`` (P,), int64: :func:`direction`.
    """

    description: Tensor
    question: Tensor
    neighbours: Tensor
    direction: Tensor


class Chosen(NamedTuple):
    """``moments`` (P, K): frame numbers, int64, rising. ``similarity`` (P, T): the row they were
    chosen by, the higher the likelier."""

    moments: Tensor
    similarity: Tensor


def gather_evidence(
    frames_TC: Tensor, descriptions_PC: Tensor, questions_PC: Tensor, questions: list[str]
) -> Evidence:
    """Evidence from joint-space vectors (any length) and the P questions' words."""
    frames = F.normalize(frames_TC.float(), dim=-1)
    return Evidence(
        description=F.normalize(descriptions_PC.float(), dim=-1) @ frames.T,
        question=F.normalize(questions_PC.float(), dim=-1) @ frames.T,
        neighbours=(frames[:-1] * frames[1:]).sum(dim=-1),
        direction=torch.tensor([direction(text) for text in questions], dtype=torch.int64),
    )


def direction(question: str) -> int:
    """Where a question's answer lies from the event it names: 1 after it, -1 before it, 0 unsaid.

    >>> direction("what does the boy do after he sits down")
    1
    """
    found = _RELATION.search(question)
    return 0 if found is None else {"after": 1, "before": -1}[found.group(1).lower()]


class Strategy(BaseModel):
    """A strategy with its options. ``name`` is the word a user writes; the fields are options."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    name: ClassVar[str]
    meaning: ClassVar[str]

    def row(self, evidence: Evidence) -> Tensor:
        """The row (P, T) the moments are chosen by."""
        raise NotImplementedError

    def choose(self, evidence: Evidence, num_moments: int) -> Chosen:
        """K moments a pair: by default the K highest of the row, of equals the earlier frame."""
        row = self.row(evidence)
        return Chosen(hard_topk(row, num_moments), row)

    @property
    def options(self) -> dict[str, int | float]:
        """The options by the names a user writes (``lambda``)."""
        return self.model_dump(by_alias=True)

    @property
    def spelled(self) -> str:
        """As :func:`parse_strategy` reads it: the name, and what is not at its default."""
        changed = [
            f"{key}={value}"
            for key, value in self.options.items()
            if value != type(self)().options[key]
        ]
        return f"{self.name}:{','.join(changed)}" if changed else self.name


class TopK(Strategy):
    """The K frames most like the description (the paper)."""

    name = "topk"
    meaning = "the frames most like the description (the paper)"

    def row(self, evidence: Evidence) -> Tensor:
        return evidence.description


class Soft(TopK):
    """As ``topk``; training fits the mixture to softmax(s / temperature) of the stored row, with
    ``loss.target: soft`` and ``loss.soft_temperature``, so the temperature is no option here."""

    name = "soft"
    meaning = "as topk, for training on the whole row (loss.target: soft)"


class Merge(Strategy):
    """Neighbouring frames are joined, the most alike pair first, until ``segments`` remain.

    A segment's score is its frames' mean similarity to the description; the softmax of the scores
    over ``temperature`` is its share of the K keyframes, dealt by highest averages (d'Hondt): the
    j-th most similar frame of a segment bids share / j, and the K highest bids win.
    """

    name = "merge"
    meaning = "frames of the best of a few segments of frames that look alike"
    segments: int = Field(default=12, ge=1)
    temperature: float = Field(default=0.05, gt=0)

    def segment_of_frame(self, neighbours: Tensor) -> Tensor:
        """The rising segment number of each frame, int64 (T,); of equal joins the earlier first."""
        num_joins = max(len(neighbours) + 1 - self.segments, 0)
        order = neighbours.argsort(descending=True, stable=True)
        cut = torch.ones_like(neighbours, dtype=torch.int64)
        cut[order[:num_joins]] = 0
        return F.pad(cut.cumsum(0), (1, 0))

    def row(self, evidence: Evidence) -> Tensor:
        segment_T = self.segment_of_frame(evidence.neighbours)
        member_NT = F.one_hot(segment_T).T.to(evidence.description.dtype)
        mean_PN = evidence.description @ member_NT.T / member_NT.sum(dim=1)
        return mean_PN[:, segment_T]

    def choose(self, evidence: Evidence, num_moments: int) -> Chosen:
        row = self.row(evidence)
        similarity_PT = evidence.description
        segment_T = self.segment_of_frame(evidence.neighbours)
        # How many frames of its own segment come before a frame in the order of similarity.
        rank_PT = similarity_PT.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
        earlier_PTT = rank_PT.unsqueeze(1) < rank_PT.unsqueeze(2)
        own_TT = segment_T.unsqueeze(0) == segment_T.unsqueeze(1)
        place_PT = (earlier_PTT & own_TT).sum(dim=2) + 1
        # Frames share their segment's softmax term, so the normaliser cancels out of the order.
        bids = row / self.temperature - place_PT.log()
        return Chosen(hard_topk(bids, num_moments), row)


class Steepness(Strategy):
    """Where the similarity to the description, smoothed over ``width`` frames, changes fastest."""

    name = "steepness"
    meaning = "where the similarity to the description changes fastest"
    width: int = Field(default=3, ge=1)

    @field_validator("width")
    @classmethod
    def _odd(cls, value: int) -> int:
        if value % 2 == 0:
            raise ValueError("must be odd, so that a frame lies in the middle")
        return value

    def row(self, evidence: Evidence) -> Tensor:
        smooth = moving_average(evidence.description, self.width)
        padded = F.pad(smooth.unsqueeze(1), (1, 1), mode="replicate").squeeze(1)
        # Half the difference of a frame's two neighbours; the clip's ends have one neighbour.
        span = torch.full_like(padded[0, 2:], 2.0)
        span[0] = span[-1] = 1.0
        return (padded[:, 2:] - padded[:, :-2]).abs() / span


class Contrast(Strategy):
    """s = cos(C, description) - lambda·cos(C, question): what the answer adds to the question."""

    name = "contrast"
    meaning = "like the description, less lambda times like the question"
    lambda_: float = Field(default=0.4, ge=0, alias="lambda")

    def row(self, evidence: Evidence) -> Tensor:
        return evidence.description - self.lambda_ * evidence.question


class Order(Contrast):
    """Ours: ``contrast``, and where the question says "after" ("before") an event, a frame gains by
    how much of that event lies before (after) it.

    The named event's place is softmax(cos(C, question) / temperature) over the frames; ``gain`` is
    what a frame gets that has all of it on the right side.
    """

    name = "order"
    meaning = "as contrast, preferring frames after (before) what the question says they follow"
    gain: float = Field(default=0.05, ge=0)
    temperature: float = Field(default=0.05, gt=0)

    def row(self, evidence: Evidence) -> Tensor:
        place_PT = torch.softmax(evidence.question / self.temperature, dim=1)
        upto_PT = place_PT.cumsum(dim=1)
        from_PT = 1 - upto_PT + place_PT
        sign_P1 = evidence.direction.unsqueeze(1)
        share = torch.where(sign_P1 > 0, upto_PT, from_PT) * (sign_P1 != 0)
        return super().row(evidence) + self.gain * share


STRATEGIES: dict[str, type[Strategy]] = {
    kind.name: kind for kind in (TopK, Soft, Merge, Steepness, Contrast, Order)
}


def make_strategy(name: str, options: Mapping[str, Any] | None = None) -> Strategy:
    """The strategy of that name; options are checked and may be strings.

    Raises ValueError, one line, for an unknown name, an unknown option or a value out of range.
    """
    kind = STRATEGIES.get(name)
    if kind is None:
        raise ValueError(f"strategy: {name}: unknown; choose one of {', '.join(STRATEGIES)}")
    try:
        return kind.model_validate(dict(options or {}))
    except ValidationError as error:
        fault = error.errors()[0]
        option = ".".join(map(str, fault["loc"]))
        has = ", ".join(f"{key}={value}" for key, value in kind().options.items()) or "none"
        rule = fault["msg"].removeprefix("Value error, ")
        if fault["type"] == "extra_forbidden":
            rule = "no such option"
        raise ValueError(
            f"strategy {name}: {option} = {fault['input']}: {rule}; its options and their "
            f"defaults: {has}"
        ) from None


def parse_strategy(text: str) -> Strategy:
    """``NAME`` or ``NAME:KEY=VALUE,KEY=VALUE``, such as ``contrast:lambda=0.7``.

    Raises ValueError, one line, where that is not what it says.
    """
    name, _, rest = text.partition(":")
    options: dict[str, str] = {}
    for part in filter(None, rest.split(",")):
        key, equals, value = part.partition("=")
        if not equals or not key.strip():
            raise ValueError(
                f"strategy: {text}: {part!r} is no option; write NAME:KEY=VALUE,KEY=VALUE"
            )
        if key.strip() in options:
            raise ValueError(f"strategy: {text}: {key.strip()} is given twice; give it once")
        options[key.strip()] = value.strip()
    return make_strategy(name.strip(), options)


def moving_average(rows_PT: Tensor, width: int) -> Tensor:
    """Mean over ``width`` (odd) frames around each; beyond its ends a row goes on as it ends."""
    half = width // 2
    padded = F.pad(rows_PT.unsqueeze(1), (half, half), mode="replicate")
    return F.avg_pool1d(padded, 2 * half + 1, stride=1).squeeze(1)
