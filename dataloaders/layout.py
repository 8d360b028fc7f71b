"""The arithmetic of a global batch: what has to divide what.

A global batch has positions 0..G-1 in plan order: stream c of C holds the G/C positions from
c·G/C on. A *contrast group* is a block of consecutive positions, so which visits are each other's
negatives depends on neither world size nor micro-batch.
"""

from __future__ import annotations

from math import isqrt

from dataloaders.errors import DataError


def divisors(number: int) -> list[int]:
    small = [d for d in range(1, isqrt(number) + 1) if number % d == 0]
    return small + [number // d for d in reversed(small) if d * d != number]


def check_minimum(name: str, value: int, least: int) -> None:
    """Raise DataError unless ``value`` is a whole number of at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise DataError(f"{name}: {value!r}: must be a whole number of at least {least}")


def check_layout(
    *,
    num_streams: int,
    global_batch: int,
    world_size: int = 1,
    micro_batch: int | None = None,
    contrast_group: int = 1,
) -> None:
    """Check the counts of visits against each other; cheap, so do it before a worker starts.

    Args:
        num_streams: C, canonical streams.
        global_batch: G, visits of an optimizer step over all ranks.
        world_size: W.
        micro_batch: visits of one forward pass on one rank; by default the rank's whole share.
        contrast_group: consecutive visits of the global batch that are each other's negatives:
            a part of a stream's share, or the shares of several whole streams.

    Raises:
        DataError: the first rule that is broken, with values that would fit.
    """
    check_minimum("data.streams", num_streams, 1)
    check_minimum("data.global_batch", global_batch, 1)
    check_minimum("data.contrast_group", contrast_group, 1)
    if global_batch % num_streams:
        below = global_batch // num_streams * num_streams
        near = ", ".join(str(n) for n in (below, below + num_streams) if n)
        raise DataError(
            f"data.global_batch: {global_batch}: must be a multiple of data.streams = "
            f"{num_streams}; use {near.replace(', ', ' or ')}"
        )
    if world_size < 1 or num_streams % world_size:
        raise DataError(
            f"world_size: {world_size}: must divide data.streams = {num_streams}; use one of "
            f"{_some(divisors(num_streams))}"
        )
    fitting = contrast_groups(num_streams, global_batch)
    if contrast_group not in fitting:
        share = global_batch // num_streams
        raise DataError(
            f"data.contrast_group: {contrast_group}: must divide data.global_batch = "
            f"{global_batch}, and divide a stream's part of it, {share} visits, or be a multiple "
            f"of that; use one of {_some(fitting)}"
        )
    if micro_batch is not None:
        _check_micro(micro_batch, global_batch // world_size)


def contrast_groups(num_streams: int, global_batch: int) -> list[int]:
    """The sizes a contrast group may have, rising; C must divide G."""
    share = global_batch // num_streams
    return [size for size in divisors(global_batch) if share % size == 0 or size % share == 0]


def _check_micro(micro_batch: int, per_rank: int) -> None:
    check_minimum("data.micro_batch", micro_batch, 1)
    if per_rank % micro_batch:
        raise DataError(
            f"data.micro_batch: {micro_batch}: must divide a rank's part of a global batch, "
            f"{per_rank} visits; use one of {_some(divisors(per_rank))}"
        )


def _some(numbers: list[int]) -> str:
    shown = ", ".join(map(str, numbers[:12]))
    return shown if len(numbers) <= 12 else f"{shown}, ..., {numbers[-1]}"
