"""Texts of like length side by side: how a rank's visits are dealt into micro-batches.

A micro-batch's texts are padded to its longest. What a pair computes depends on no other pair, so
which visits share a micro-batch is free: only the sums of a step are rounded in another order.
"""

from __future__ import annotations

from collections.abc import Sequence


def deal(lengths: Sequence[int], micro_batch: int, together: int = 1) -> list[list[int]]:
    """The visits of each micro-batch, by their place in ``lengths``; a function of these alone.

    Visits stay in their order where another would save nothing: it costs a copy of the frames,
    which are decoded side by side before it is known. In the new order the longest come first: the
    memory that they take serves the others.

    Args:
        lengths: tokens of each visit's longest text.
        micro_batch: visits of each; it divides their number.
        together: so many consecutive visits are dealt as one; it divides ``micro_batch``.
    """
    assert len(lengths) % micro_batch == 0
    assert micro_batch % together == 0
    places = list(range(len(lengths)))
    units = [places[i : i + together] for i in range(0, len(places), together)]
    units.sort(key=lambda unit: -max(lengths[k] for k in unit))  # stable: ties stay in order
    sorted_places = [place for unit in units for place in unit]
    dealt = [sorted(part) for part in _cut(sorted_places, micro_batch)]
    plain = _cut(places, micro_batch)
    return dealt if _padded(dealt, lengths) < _padded(plain, lengths) else plain


def _cut(places: list[int], micro_batch: int) -> list[list[int]]:
    return [places[i : i + micro_batch] for i in range(0, len(places), micro_batch)]


def _padded(parts: list[list[int]], lengths: Sequence[int]) -> int:
    """Tokens of the parts' longest texts, which is what each of theirs is padded to."""
    return sum(max(lengths[k] for k in part) for part in parts)
