"""One reader's texts as token ids, padded to the longest of a batch."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gcg.errors import ModelError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RoleTokens:
    """How one reader's texts become ids: a row is ``prefix`` + ``encode(text)`` + ``suffix``.

    Args:
        encode: texts to their token ids, without special tokens or padding.
        pad_id: fills up short rows.
        max_length: longer rows are cut to this many tokens, between prefix and suffix: CLIP reads
            its embedding off the end token, a chat's turn must be closed.
        prefix: ids before every text.
        suffix: ids after every text.

    Raises:
        ModelError: there is no room for a text.
    """

    encode: Callable[[list[str]], list[list[int]]]
    pad_id: int
    max_length: int
    prefix: tuple[int, ...] = ()
    suffix: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self._room < 1:
            raise ModelError(
                f"max_length = {self.max_length}: leaves no room for a text between "
                f"{len(self.prefix)} tokens before and {len(self.suffix)} after it; allow more"
            )

    @property
    def _room(self) -> int:
        return self.max_length - len(self.prefix) - len(self.suffix)

    def rows(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, cut to ``max_length``."""
        return [[*self.prefix, *self._cut(row), *self.suffix] for row in self.encode(list(texts))]

    def padded(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Ids (P, L), int64, padded to the longest text, and their mask: 1 on text."""
        rows = self.rows(texts)
        return fill(rows, self.pad_id), fill([[1] * len(row) for row in rows], 0)

    def _cut(self, row: list[int]) -> list[int]:
        if len(row) > self._room:
            # Counting every cut would be a flood; that it happens at all is worth knowing.
            log.debug("a text of %d tokens was cut to %d", len(row), self._room)
        return row[: self._room]


def fill(rows: Sequence[Sequence[int]], value: int) -> Tensor:
    """Rows of ids as one int64 tensor (P, L), L at least 1, short rows filled up with a value."""
    longest = max(1, *(len(row) for row in rows), 1)
    out = torch.full((len(rows), longest), value, dtype=torch.int64)
    for i, row in enumerate(rows):
        out[i, : len(row)] = torch.tensor(row, dtype=torch.int64)
    return out
