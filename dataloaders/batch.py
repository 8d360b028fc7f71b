"""Batches: visits in, the model's keyword arguments out.

Shapes: V visits (videos), P question-video pairs, T frames, H W pixels, K moments, O options,
L* tokens of a text, padded to the longest of the batch.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Literal

import torch
from torch import Tensor

from dataloaders.errors import DataError
from dataloaders.labels import Label
from dataloaders.manifest import Question, Video
from dataloaders.seeds import noise_seed

logger = logging.getLogger(__name__)

IGNORED = -100  # the label that cross-entropy leaves out


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

    pixel_values: Tensor  # (V, T, 3, H, W) float32, normalised
    video_index: Tensor  # (P,) int64: the row of pixel_values a pair asks about
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
    moments: Tensor | None  # (P, K) int64: pseudo-label frames, rising; None without labels
    noise_seeds: Tensor  # (P,) int64: from run seed, epoch, video and question
    contrast_group: Tensor  # (V,) int64: only videos of one group are each other's negatives
    meta: BatchMeta

    @property
    def num_pairs(self) -> int:
        return len(self.video_index)

    def model_inputs(self) -> dict[str, Tensor | None]:
        """The model's keyword arguments: everything but ``meta`` and ``option_ids``."""
        left_out = ("meta", "option_ids")
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in left_out}

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
    """One loaded visit: the collator's input. ``group`` is its contrast group."""

    video: Video
    questions: Sequence[Question]
    labels: Sequence[Label] | None
    pixels: Tensor  # (T, 3, H, W) float32
    times: Tensor  # (T,) float64 seconds
    group: int


@dataclass(frozen=True)
class TextCoder:
    """A tokenizer as the collator needs it.

    Args:
        encode: texts -> token ids with the special tokens of its model, no padding.
        pad_id: fills up short rows (labels are filled with -100 instead).
        max_length: longer rows are cut to this many tokens.
        eos_id: if a row that is cut ended with this token, the cut row does too: CLIP reads its
            embedding off the end token.
        padding_side: "left" for the prompt of a decoder-only LLM that generates.
    """

    encode: Callable[[list[str]], list[list[int]]]
    pad_id: int
    max_length: int
    eos_id: int | None = None
    padding_side: Literal["right", "left"] = "right"

    def rows(self, texts: list[str]) -> list[list[int]]:
        """Token ids of each text, cut to ``max_length``."""
        return [self._cut(row) for row in self.encode(texts)]

    def _cut(self, row: list[int]) -> list[int]:
        if len(row) <= self.max_length:
            return row
        # Counting every cut would be a flood; that it happens at all is worth knowing.
        logger.debug("a text of %d tokens was cut to %d", len(row), self.max_length)
        cut = row[: self.max_length]
        if self.eos_id is not None and row[-1] == self.eos_id:
            cut[-1] = self.eos_id
        return cut


@dataclass(frozen=True)
class PromptTemplate:
    """How questions and answers are written for the LLM.

    ``multiple_choice`` and ``open_ended`` may use {question} and {options}; ``option`` {letter}
    and {option}; ``answer`` {letter} and {answer} (the letter is empty without options).
    """

    multiple_choice: str = "Question: {question} Options: {options} Answer:"
    open_ended: str = "Question: {question} Answer:"
    option: str = "({letter}) {option}"
    separator: str = " "
    answer: str = "{answer}"

    def __post_init__(self) -> None:
        _try_template("multiple_choice", self.multiple_choice, question="", options="")
        _try_template("open_ended", self.open_ended, question="", options="")
        _try_template("option", self.option, letter="", option="")
        _try_template("answer", self.answer, letter="", answer="")

    def prompt(self, question: Question) -> str:
        if question.options is None:
            return self.open_ended.format(question=question.question, options="")
        options = self.separator.join(
            self.option.format(letter=_letter(i), option=option)
            for i, option in enumerate(question.options)
        )
        return self.multiple_choice.format(question=question.question, options=options)

    def answers(self, question: Question) -> list[str]:
        """The target text of each option; of the answer alone for an open-ended question."""
        if question.options is None:
            return [self.answer.format(letter="", answer=question.answer)]
        return [
            self.answer.format(letter=_letter(i), answer=option)
            for i, option in enumerate(question.options)
        ]


def _letter(index: int) -> str:
    return chr(ord("A") + index) if index < 26 else str(index + 1)


def _try_template(name: str, template: str, **values: str) -> None:
    try:
        template.format(**values)
    except (KeyError, IndexError, ValueError) as error:
        allowed = ", ".join(f"{{{key}}}" for key in values)
        raise DataError(
            f"prompt.{name}: {template!r}: not a template ({error!r}); it may use {allowed}"
        ) from None


@dataclass(frozen=True)
class Collator:
    """Makes batches of visits.

    Args:
        clip: tokenizer of the CLIP text tower, for questions and descriptions.
        qformer: tokenizer of the Q-Former, for questions.
        prompt: tokenizer of the LLM, for its input.
        answer: tokenizer of the LLM, for its labels (with its end token).
        template: how prompts and answers are written.
        seed: the run's; noise seeds come from it.
    """

    clip: TextCoder
    qformer: TextCoder
    prompt: TextCoder
    answer: TextCoder
    template: PromptTemplate
    seed: int

    def __call__(self, visits: Sequence[VisitData], epoch: int) -> Batch:
        """One batch, its pairs in the order of the visits and of their questions."""
        pairs = [(row, q) for row, visit in enumerate(visits) for q in visit.questions]
        questions = [question for _, question in pairs]
        texts = [question.question for question in questions]
        question_ids, question_mask = _padded(self.clip, texts)
        qformer_ids, qformer_mask = _padded(self.qformer, texts)
        prompt_ids, prompt_mask = _padded(self.prompt, [self.template.prompt(q) for q in questions])
        description_ids, description_mask, moments = self._labels(visits)
        answer_ids, option_ids = self._answers(questions)
        seeds = [noise_seed(self.seed, epoch, visits[row].video.id, q.id) for row, q in pairs]
        return Batch(
            pixel_values=torch.stack([visit.pixels for visit in visits]),
            video_index=torch.tensor([row for row, _ in pairs], dtype=torch.int64),
            question_ids=question_ids,
            question_mask=question_mask,
            description_ids=description_ids,
            description_mask=description_mask,
            qformer_ids=qformer_ids,
            qformer_mask=qformer_mask,
            prompt_ids=prompt_ids,
            prompt_mask=prompt_mask,
            answer_ids=answer_ids,
            option_ids=option_ids,
            moments=moments,
            noise_seeds=torch.tensor(seeds, dtype=torch.int64),
            contrast_group=torch.tensor([visit.group for visit in visits], dtype=torch.int64),
            meta=_meta(visits, pairs),
        )

    def _labels(
        self, visits: Sequence[VisitData]
    ) -> tuple[Tensor, Tensor, Tensor] | tuple[None, None, None]:
        labels = [label for visit in visits for label in visit.labels or ()]
        if not labels:
            return None, None, None
        ids, mask = _padded(self.clip, [label.description for label in labels])
        moments = torch.tensor([label.moments for label in labels], dtype=torch.int64)
        return ids, mask, moments

    def _answers(self, questions: Sequence[Question]) -> tuple[Tensor, Tensor | None]:
        """(P, La) labels of the right answers and (P, O, Lo) labels of all options."""
        targets = [self.template.answers(question) for question in questions]
        rows = iter(self.answer.rows([text for texts in targets for text in texts]))
        coded = [[next(rows) for _ in texts] for texts in targets]
        right = [rows[q.answer_index or 0] for rows, q in zip(coded, questions, strict=True)]
        answer_ids = _fill(right, IGNORED)
        if all(question.options is None for question in questions):
            return answer_ids, None
        # An open-ended pair, or one with fewer options, gets rows of nothing but -100.
        options = [
            rows if q.options is not None else [] for rows, q in zip(coded, questions, strict=True)
        ]
        most = max(len(rows) for rows in options)
        flat = [row for rows in options for row in rows + [[]] * (most - len(rows))]
        return answer_ids, _fill(flat, IGNORED).view(len(questions), most, -1)


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


def _padded(coder: TextCoder, texts: list[str]) -> tuple[Tensor, Tensor]:
    """(P, L) ids padded to the longest, and their mask."""
    rows = coder.rows(texts)
    left = coder.padding_side == "left"
    return _fill(rows, coder.pad_id, left), _fill([[1] * len(row) for row in rows], 0, left)


def _fill(rows: Sequence[Sequence[int]], value: int, left: bool = False) -> Tensor:
    longest = max(1, *(len(row) for row in rows), 1)
    out = torch.full((len(rows), longest), value, dtype=torch.int64)
    for i, row in enumerate(rows):
        if row:
            where = slice(longest - len(row), None) if left else slice(0, len(row))
            out[i, where] = torch.tensor(row, dtype=torch.int64)
    return out
