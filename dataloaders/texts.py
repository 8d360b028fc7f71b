"""How questions and answers are written for a model, and how they become token ids."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from dataloaders.errors import DataError
from dataloaders.manifest import Question

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TextCoder:
    """A tokenizer as the collator needs it: a row is ``prefix`` + the text's ids + ``suffix``.

    Args:
        encode: texts -> their token ids, without special tokens or padding.
        pad_id: fills up short rows (labels are filled with -100 instead).
        max_length: longer rows are cut to this many tokens, between prefix and suffix: CLIP reads
            its embedding off the end token, a chat's turn must be closed.
        prefix: ids before every text.
        suffix: ids after every text.

    Raises:
        DataError: there is no room for a text.
    """

    encode: Callable[[list[str]], list[list[int]]]
    pad_id: int
    max_length: int
    prefix: tuple[int, ...] = ()
    suffix: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self._room < 1:
            raise DataError(
                f"max_length = {self.max_length}: leaves no room for a text between "
                f"{len(self.prefix)} tokens before and {len(self.suffix)} after it; allow more"
            )

    @property
    def _room(self) -> int:
        return self.max_length - len(self.prefix) - len(self.suffix)

    def rows(self, texts: list[str]) -> list[list[int]]:
        """Token ids of each text, cut to ``max_length``."""
        return [[*self.prefix, *self._cut(row), *self.suffix] for row in self.encode(texts)]

    def _cut(self, row: list[int]) -> list[int]:
        if len(row) > self._room:
            # Counting every cut would be a flood; that it happens at all is worth knowing.
            logger.debug("a text of %d tokens was cut to %d", len(row), self._room)
        return row[: self._room]


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
