"""Batches: visits in, the model's keyword arguments out.

Shapes: V visits (videos), P question-video pairs, T frames, H W pixels, K moments, O options,
L* tokens of a text, padded to the longest of the batch; of frame features, L tokens of width D and
an embedding of width E a frame.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor

from dataloaders.features import FrameFeatures
from dataloaders.fetch import Frames
from dataloaders.frame_memory import FrameMemory
from dataloaders.labels import Label
from dataloaders.manifest import Question, Video
from dataloaders.seeds import noise_seed
from dataloaders.texts import TextEncoder


@dataclass(frozen=True)
class BatchMeta:
    """What is known about a batch beside its tensors: P entries each, except ``times``.

    ``durations`` are in seconds; ``spans`` are gold and for evaluation only; ``times`` is
    (V, T) float64, the seconds of the frames.
    """

    videos: tuple[str, ...]
    questions: tuple[str, ...]
    question_texts: tuple[str, ...]
    types: tuple[str, ...]
    answers: tuple[str, ...]
    options: tuple[tuple[str, ...] | None, ...]
    answer_indices: tuple[int | None, ...]
    spans: tuple[tuple[tuple[float, float], ...] | None, ...]
    durations: tuple[float | None, ...]
    times: Tensor


@dataclass(frozen=True)
class Batch:
    """A micro-batch. Token ids and masks are int64, masks are 1 on text and 0 on padding."""

    pixel_values: Tensor | None  # (V, T, 3, H, W) float32, normalised; None: features are there
    frame_tokens: Tensor | None  # (V, T, L, D) fp16 or fp32: features in place of pixels
    frame_embeddings: Tensor | None  # (V, T, E), likewise: to compare frames with texts by
    video_index: Tensor  # (P,) int64: the row of the frames a pair asks about
    question_ids: Tensor  # (P, Lq): the question, for the CLIP text tower
    question_mask: Tensor
    description_ids: Tensor | None  # (P, Ld): the event description, for the same; training only
    description_mask: Tensor | None
    qformer_ids: Tensor  # (P, Lf): the question, for the Q-Former
    qformer_mask: Tensor
    prompt_ids: Tensor  # (P, Lp): the prompt of the LLM
    prompt_mask: Tensor
    answer_ids: Tensor  # (P, La): the LLM's labels, -100 where padded
    option_ids: Tensor | None  # (P, O, Lo): labels of each option; None if no pair has options
    option_text_ids: Tensor | None  # (P, O, Lt): each option's words, for the CLIP text tower
    option_text_mask: Tensor | None  # all 0 where a pair has fewer options
    answer_text_ids: Tensor | None  # (P, Lt): the right answer's words, for the same
    answer_text_mask: Tensor | None
    answer_index: Tensor  # (P,) int64: the right option, -1 for an open-ended question
    moments: Tensor | None  # (P, K) int64: pseudo-label frames, rising; None without labels
    similarity: Tensor | None  # (P, T) float32: what the moments were chosen by
    noise_seeds: Tensor  # (P,) int64: from run seed, epoch, video and question
    contrast_group: Tensor  # (V,) int64: only videos of one group are each other's negatives
    positions: Tensor  # (V,) int64: the visit's place in the global batch, in the plan's order
    meta: BatchMeta

    @property
    def num_pairs(self) -> int:
        return len(self.video_index)

    @property
    def pixels(self) -> Tensor:
        """``pixel_values`` of a batch that was decoded from clips."""
        assert self.pixel_values is not None
        return self.pixel_values

    def model_inputs(self) -> dict[str, Tensor | None]:
        """The model's keyword arguments: everything but ``meta`` and ``option_ids``."""
        left_out = ("meta", "option_ids")
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in left_out}

    def asked(self) -> dict[str, Tensor | None]:
        """The tensors of the questions alone, without what is right and what was labelled before;
        but ``moments``, which the oracle looks at."""
        told = ("meta", "answer_", "description_", "similarity", "contrast_group", "positions")
        return {f.name: getattr(self, f.name) for f in fields(self) if not f.name.startswith(told)}

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Batch:
        """The batch with its tensors on a device (``meta`` stays on the host)."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Batch:
        """The batch in page-locked memory, from which copies to a GPU can overlap."""
        return self._map(lambda tensor: tensor.pin_memory())

    def _map(self, change: Callable[[Tensor], Tensor]) -> Batch:
        tensors = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "meta"}
        return replace(self, **{n: change(t) for n, t in tensors.items() if t is not None})


@dataclass(frozen=True)
class VisitData:
    """One loaded visit: the collator's input. ``group`` is its contrast group, ``position`` its
    place in the global batch. It has pixels or features."""

    video: Video
    questions: Sequence[Question]
    labels: Sequence[Label] | None
    pixels: Tensor | None  # (T, 3, H, W) float32
    times: Tensor  # (T,) float64 seconds
    group: int
    position: int = 0
    features: FrameFeatures | None = None

    @classmethod
    def of(
        cls,
        video: Video,
        questions: Sequence[Question],
        labels: Sequence[Label] | None,
        frames: Frames,
        *,
        group: int,
        position: int = 0,
    ) -> VisitData:
        """A visit to a sample that was read."""
        pixels, times, features = frames
        return cls(video, questions, labels, pixels, times, group, position, features)


@dataclass(frozen=True)
class Collator:
    """Makes batches of visits.

    Args:
        texts: the model's own way to read questions, answers and descriptions.
        seed: the run's; noise seeds come from it.
    """

    texts: TextEncoder
    seed: int
    _memory: FrameMemory = field(default_factory=FrameMemory, init=False, repr=False, compare=False)

    def lengths(self, visits: Sequence[VisitData]) -> list[int]:
        """Tokens of the longest text of each visit, as the language model reads it."""
        found = iter(self.texts.lengths([q for visit in visits for q in visit.questions]))
        return [max((next(found) for _ in visit.questions), default=0) for visit in visits]

    def __call__(self, visits: Sequence[VisitData], epoch: int) -> Batch:
        """One batch, its pairs in the order of the visits and of their questions."""
        pairs = [(row, q) for row, visit in enumerate(visits) for q in visit.questions]
        questions = [question for _, question in pairs]
        labels = [label for visit in visits for label in visit.labels or ()]
        descriptions: tuple[Tensor | None, Tensor | None] = (None, None)
        if labels:
            descriptions = self.texts.descriptions([label.description for label in labels])
        features = [visit.features for visit in visits]
        seeds = [noise_seed(self.seed, epoch, visits[row].video.id, q.id) for row, q in pairs]
        words: dict[str, Any] = {**self.texts.asked(questions), **self.texts.answered(questions)}
        return Batch(
            pixel_values=_stacked([visit.pixels for visit in visits], self._memory),
            frame_tokens=_stacked([f.tokens if f else None for f in features]),
            frame_embeddings=_stacked([f.embeddings if f else None for f in features]),
            video_index=torch.tensor([row for row, _ in pairs], dtype=torch.int64),
            description_ids=descriptions[0],
            description_mask=descriptions[1],
            moments=torch.tensor([label.moments for label in labels]) if labels else None,
            similarity=torch.tensor([label.similarity for label in labels]) if labels else None,
            noise_seeds=torch.tensor(seeds, dtype=torch.int64),
            contrast_group=torch.tensor([visit.group for visit in visits], dtype=torch.int64),
            positions=torch.tensor([visit.position for visit in visits], dtype=torch.int64),
            meta=_meta(visits, pairs),
            **words,
        )


def _meta(visits: Sequence[VisitData], pairs: Sequence[tuple[int, Question]]) -> BatchMeta:
    questions = [question for _, question in pairs]
    return BatchMeta(
        videos=tuple(visits[row].video.id for row, _ in pairs),
        questions=tuple(q.id for q in questions),
        question_texts=tuple(q.question for q in questions),
        types=tuple(q.type for q in questions),
        answers=tuple(q.answer for q in questions),
        options=tuple(None if q.options is None else tuple(q.options) for q in questions),
        answer_indices=tuple(q.answer_index for q in questions),
        spans=tuple(None if q.spans is None else tuple(q.spans) for q in questions),
        durations=tuple(visits[row].video.duration for row, _ in pairs),
        times=torch.stack([visit.times for visit in visits]),
    )


def _stacked(frames: Sequence[Tensor | None], memory: FrameMemory | None = None) -> Tensor | None:
    """One tensor of all visits' frames; None where they have none. A data set has one kind.

    Frames that were decoded side by side into one piece of memory are not copied. Others are, on
    the host to ``memory``.
    """
    there = [each for each in frames if each is not None]
    assert len(there) in (0, len(frames))
    if not there:
        return None
    first, step = there[0], there[0].numel()
    if all(_lies_at(each, first, k * step) for k, each in enumerate(there)):
        shape, strides = (len(there), *first.shape), (step, *first.stride())
        return first.as_strided(shape, strides, first.storage_offset())
    if memory is None or first.device.type != "cpu":
        return torch.stack(there)
    return torch.stack(there, out=memory.take((len(there), *first.shape)))


def _lies_at(frames: Tensor, first: Tensor, offset: int) -> bool:
    one_memory = frames.untyped_storage().data_ptr() == first.untyped_storage().data_ptr()
    alike = (frames.shape, frames.dtype) == (first.shape, first.dtype) and frames.is_contiguous()
    return (
        one_memory
        and alike
        and int(frames.storage_offset()) == int(first.storage_offset()) + offset
    )
