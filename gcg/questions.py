"""Questions, options and answers as the model reads them: prompts, token ids, masks.

P = questions, O = the most options one of them has, L* = tokens of a text, padded to the longest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from gcg.answering import IGNORED
from gcg.config import GCGConfig
from gcg.errors import ModelError
from gcg.presets import resolve_preset
from gcg.profiles import resolve_profile
from gcg.text_codes import RoleTokens, fill
from gcg.tokens import TokenSet


class Asked(Protocol):
    """A question; ``options`` is None where the answer is free text."""

    @property
    def question(self) -> str: ...

    @property
    def options(self) -> Sequence[str] | None: ...


class Answered(Asked, Protocol):
    """A question with its right answer; with options also the answer's place among them."""

    @property
    def answer(self) -> str: ...

    @property
    def answer_index(self) -> int | None: ...


@dataclass(frozen=True)
class Query:
    """A question that nobody knows the answer to."""

    question: str
    options: Sequence[str] | None = None


@dataclass(frozen=True)
class PromptTemplate:
    """How questions and answers are written for the LLM.

    ``multiple_choice`` and ``open_ended`` may use {question} and {options}; ``option`` {letter}
    and {option}; ``answer`` {letter} and {answer} (the letter is empty without options).

    Raises:
        ModelError: one of them is no such template.
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

    def prompt(self, asked: Asked) -> str:
        if asked.options is None:
            return self.open_ended.format(question=asked.question, options="")
        options = self.separator.join(
            self.option.format(letter=_letter(i), option=option)
            for i, option in enumerate(asked.options)
        )
        return self.multiple_choice.format(question=asked.question, options=options)

    def options(self, asked: Asked) -> list[str]:
        """What the LLM would have to say for each option; nothing for an open question."""
        return [
            self.answer.format(letter=_letter(i), answer=option)
            for i, option in enumerate(asked.options or ())
        ]

    def right(self, asked: Answered) -> str:
        """What it should say."""
        if asked.options is None:
            return self.answer.format(letter="", answer=asked.answer)
        return self.options(asked)[asked.answer_index or 0]


@dataclass(frozen=True)
class QuestionEncoder:
    """Makes the model's text tensors; all ids and masks are int64, masks 1 on text.

    Args:
        clip: tokens of the text tower, for questions, descriptions, options.
        qformer: of the Q-Former, for questions.
        prompt: of the LLM, for its input.
        answer: of the LLM, for its labels (with its end token).
        template: how prompts and answers are written.
        answer_texts: whether options and answers go to the text tower, too.
        one_row: whether the LLM reads prompt and answer in one row, as decoder-only ones do.
    """

    clip: RoleTokens
    qformer: RoleTokens
    prompt: RoleTokens
    answer: RoleTokens
    template: PromptTemplate
    answer_texts: bool = False
    one_row: bool = False

    def asked(self, questions: Sequence[Asked]) -> dict[str, Tensor | None]:
        """What the model is asked.

        ``question_ids``, ``question_mask`` (P, Lq) for the text tower, ``qformer_*`` (P, Lf),
        ``prompt_*`` (P, Lp); ``option_ids`` (P, O, Lo): what the LLM would say, -100 on padding,
        None where no question has options; ``option_text_*`` (P, O, Lt), or None: the options for
        the text tower. A question with fewer options has rows of padding.
        """
        texts = [asked.question for asked in questions]
        question_ids, question_mask = self.clip.padded(texts)
        qformer_ids, qformer_mask = self.qformer.padded(texts)
        prompt_ids, prompt_mask = self.prompt.padded([self.template.prompt(q) for q in questions])
        option_text_ids, option_text_mask = self._option_texts(questions)
        return {
            "question_ids": question_ids,
            "question_mask": question_mask,
            "qformer_ids": qformer_ids,
            "qformer_mask": qformer_mask,
            "prompt_ids": prompt_ids,
            "prompt_mask": prompt_mask,
            "option_ids": self._option_labels(questions),
            "option_text_ids": option_text_ids,
            "option_text_mask": option_text_mask,
        }

    def answered(self, questions: Sequence[Answered]) -> dict[str, Tensor | None]:
        """What is right.

        ``answer_ids`` (P, La): the LLM's labels, -100 on padding; ``answer_index`` (P,), -1 for an
        open question; ``answer_text_*`` (P, Lt), or None: the answers for the text tower.
        """
        right = self.answer.rows([self.template.right(question) for question in questions])
        text_ids = text_mask = None
        if self.answer_texts:
            text_ids, text_mask = self.clip.padded([question.answer for question in questions])
        return {
            "answer_ids": fill(right, IGNORED),
            "answer_index": torch.tensor(
                [-1 if q.options is None else q.answer_index or 0 for q in questions]
            ),
            "answer_text_ids": text_ids,
            "answer_text_mask": text_mask,
        }

    def descriptions(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Event descriptions for the text tower: ids (P, Ld) and their mask."""
        return self.clip.padded(texts)

    def lengths(self, questions: Sequence[Answered]) -> list[int]:
        """Tokens of each question in the row that the LLM reads, its soft prompt left out."""
        texts = [self.template.prompt(question) for question in questions]
        lengths = [len(row) for row in self.prompt.rows(texts)]
        if not self.one_row:
            return lengths
        right = self.answer.rows([self.template.right(question) for question in questions])
        return [length + len(row) for length, row in zip(lengths, right, strict=True)]

    def _option_labels(self, questions: Sequence[Asked]) -> Tensor | None:
        if all(question.options is None for question in questions):
            return None
        rows = _per_question(self.answer, [self.template.options(q) for q in questions])
        return fill(rows, IGNORED).view(len(questions), -1, _longest(rows))

    def _option_texts(self, questions: Sequence[Asked]) -> tuple[Tensor | None, Tensor | None]:
        if not self.answer_texts or not any(question.options for question in questions):
            return None, None
        rows = _per_question(self.clip, [list(q.options or ()) for q in questions])
        shape = (len(questions), -1, _longest(rows))
        masks = [[1] * len(row) for row in rows]
        return fill(rows, self.clip.pad_id).view(shape), fill(masks, 0).view(shape)


def question_encoder(config: GCGConfig, tokens: TokenSet) -> QuestionEncoder:
    """The encoder of a model's texts."""
    return QuestionEncoder(
        clip=tokens.clip,
        qformer=tokens.qformer,
        prompt=tokens.prompt,
        answer=tokens.answer,
        template=PromptTemplate(multiple_choice=config.llm.prompt, open_ended=config.llm.prompt),
        answer_texts=resolve_profile(config).pooled_texts,
        one_row=not resolve_preset(config).llm.is_encoder_decoder,
    )


def _per_question(tokens: RoleTokens, texts: Sequence[list[str]]) -> list[list[int]]:
    """One row a text, and empty rows where a question has fewer texts than another."""
    most = max(len(each) for each in texts)
    coded = iter(tokens.rows([text for each in texts for text in each]))
    rows: list[list[int]] = []
    for each in texts:
        rows += [next(coded) for _ in each] + [[] for _ in range(most - len(each))]
    return rows


def _longest(rows: Sequence[Sequence[int]]) -> int:
    return max(1, *(len(row) for row in rows), 1)


def _letter(index: int) -> str:
    return chr(ord("A") + index) if index < 26 else str(index + 1)


def _try_template(name: str, template: str, **values: str) -> None:
    try:
        template.format(**values)
    except (KeyError, IndexError, ValueError) as error:
        allowed = ", ".join(f"{{{key}}}" for key in values)
        raise ModelError(
            f"prompt.{name}: {template!r}: not a template ({error!r}); it may use {allowed}"
        ) from None
