"""How many visits of each data set of a mixture a stream makes in an epoch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from dataloaders.errors import DataError


class SetRule(NamedTuple):
    """How much of one data set goes into an epoch: passes over it, or a weight among the sets."""

    name: str
    repeat: float | None = None
    weight: float | None = None


def quotas_of(rules: Sequence[SetRule], passes: Sequence[int]) -> list[int]:
    """Visits of each set that a stream makes in an epoch, before whole global batches are cut.

    Args:
        passes: the visits that a stream makes in one pass over each set.

    Raises:
        DataError: rules that do not go together.
    """
    for rule in rules:
        for name, value in (("repeat", rule.repeat), ("weight", rule.weight)):
            if value is not None and not value > 0:
                raise DataError(f"data.train: {rule.name}: {name}: {value}: must be above 0")
    if all(rule.weight is None for rule in rules):
        return [
            max(1, int((rule.repeat or 1) * each)) for rule, each in zip(rules, passes, strict=True)
        ]
    if any(rule.weight is None or rule.repeat is not None for rule in rules):
        raise DataError(
            "data.train: weight: some sets have a weight and some a repeat; give every set a "
            "weight, or none"
        )
    weights = [float(rule.weight or 0) for rule in rules]
    return _shares(sum(passes), weights)


def _shares(total: int, weights: Sequence[float]) -> list[int]:
    """Whole numbers that sum to ``total``, in proportion, by largest remainder; at least 1 each."""
    exact = [max(1.0, total * weight / sum(weights)) for weight in weights]
    shares = [int(value) for value in exact]
    order = sorted(range(len(shares)), key=lambda i: (shares[i] - exact[i], i))
    for i in order[: max(0, total - sum(shares))]:
        shares[i] += 1
    return shares


def trimmed(quotas: Sequence[int], total: int) -> tuple[int, ...]:
    """``quotas`` made to sum to ``total``, which is less by under one step: the largest give."""
    result = list(quotas)
    for _ in range(sum(quotas) - total):
        largest = max(range(len(result)), key=lambda i: (result[i], -i))
        result[largest] -= 1
    return tuple(result)
