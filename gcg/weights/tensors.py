"""Tensors that lie in files, read a part at a time, and what can be composed of them.

A file is read with plain reads into fresh memory, never mapped: mapped pages count as the reader's
resident memory, so that a rank which keeps an eighth of a model would still show all of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from gcg.errors import ModelError


class Weight(Protocol):
    """A tensor whose values can be had a part at a time."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> torch.dtype: ...

    def flat(self, start: int, stop: int) -> Tensor:
        """Values ``start`` to ``stop`` of the tensor flattened row by row: 1-D, on the CPU.

        Reads no more of the file than these values, and keeps nothing.
        """
        ...


def whole(weight: Weight) -> Tensor:
    """All values, in the tensor's own shape."""
    return weight.flat(0, prod(weight.shape)).reshape(weight.shape)


@dataclass(frozen=True)
class StoredTensor:
    """A contiguous tensor in a file: ``offset`` is its first value's place in bytes."""

    path: Path
    offset: int
    shape: tuple[int, ...]
    dtype: torch.dtype

    def flat(self, start: int, stop: int) -> Tensor:
        size = self.dtype.itemsize
        values = torch.empty(max(stop - start, 0), dtype=self.dtype)
        buffer: Any = values.view(torch.uint8).numpy()
        left = memoryview(buffer)
        with self.path.open("rb", buffering=0) as file:
            file.seek(self.offset + start * size)
            while left:  # a single read returns 2 GiB at most
                count = file.readinto(left)
                if not count:
                    raise ModelError(
                        f"{self.path}: ends before byte {self.offset + stop * size}, which its "
                        "index promises; the copy is incomplete, fetch the file again"
                    )
                left = left[count:]
        return values


@dataclass(frozen=True)
class InMemory:
    """A tensor that had to be made whole, such as one that was stored quantised."""

    tensor: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.tensor.shape)

    @property
    def dtype(self) -> torch.dtype:
        return self.tensor.dtype

    def flat(self, start: int, stop: int) -> Tensor:
        return self.tensor.detach().reshape(-1)[start:stop]


@dataclass(frozen=True)
class Zeros:
    """Zeros that no file holds."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    def flat(self, start: int, stop: int) -> Tensor:
        return torch.zeros(max(stop - start, 0), dtype=self.dtype)


@dataclass(frozen=True)
class Joined:
    """Tensors one below the other, along the first dimension."""

    parts: tuple[Weight, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return (sum(part.shape[0] for part in self.parts), *self.parts[0].shape[1:])

    @property
    def dtype(self) -> torch.dtype:
        return self.parts[0].dtype

    def flat(self, start: int, stop: int) -> Tensor:
        pieces, first = [], 0
        for part in self.parts:
            size = prod(part.shape)
            low, high = max(start - first, 0), min(stop - first, size)
            if low < high:
                pieces.append(part.flat(low, high))
            first += size
        return torch.cat(pieces) if pieces else torch.empty(0, dtype=self.dtype)


@dataclass(frozen=True)
class Rows:
    """Rows ``first`` to ``last`` of a tensor, along the first dimension."""

    whole: Weight
    first: int
    last: int

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.last - self.first, *self.whole.shape[1:])

    @property
    def dtype(self) -> torch.dtype:
        return self.whole.dtype

    def flat(self, start: int, stop: int) -> Tensor:
        skipped = self.first * prod(self.whole.shape[1:])
        return self.whole.flat(skipped + start, skipped + stop)


@dataclass(frozen=True)
class Transposed:
    """A matrix the other way round. Reads it all, whatever is asked: for small ones alone."""

    matrix: Weight

    @property
    def shape(self) -> tuple[int, ...]:
        rows, columns = self.matrix.shape
        return columns, rows

    @property
    def dtype(self) -> torch.dtype:
        return self.matrix.dtype

    def flat(self, start: int, stop: int) -> Tensor:
        return whole(self.matrix).T.reshape(-1)[start:stop].clone()
