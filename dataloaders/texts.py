"""How the questions of a batch become tensors: what the collator asks of a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from torch import Tensor

from dataloaders.manifest import Question


class TextEncoder(Protocol):
    """The model's own tokenizers and prompts (:class:`gcg.questions.QuestionEncoder`).

    The names of what it returns are fields of :class:`dataloaders.batch.Batch`.
    """

    def asked(self, questions: Sequence[Question]) -> Mapping[str, Tensor | None]:
        """What the model is asked: questions, prompts, options."""
        ...

    def answered(self, questions: Sequence[Question]) -> Mapping[str, Tensor | None]:
        """What is right: answers, and which option."""
        ...

    def descriptions(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Event descriptions (P, L): ids and mask."""
        ...

    def lengths(self, questions: Sequence[Question]) -> Sequence[int]:
        """Tokens that the language model reads of each question: questions of like length are put
        together."""
        ...
