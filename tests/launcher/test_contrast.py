"""Contrast groups over micro-batches and ranks: who exchanges with whom, and what comes of it."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from gcg.contrast import Candidates
from launcher.config import RunConfig
from launcher.errors import ConfigError
from launcher.training.contrast import (
    ContrastExchange,
    gather_candidates,
    groups_span,
    peer_blocks,
    touched,
)
from tests.spawn import run_ranks

from .toy import toy_config

FRAMES, WIDTH = 3, 5


def layouts() -> Iterator[RunConfig]:
    """Every layout of some global batches that the rules allow."""
    sizes = itertools.product((1, 2, 4, 6, 12), (1, 2, 3, 4), (1, 2, 3, 4, 6, 12))
    for streams, share, workers in sizes:
        batch = streams * share
        numbers = range(1, batch + 1)
        for group, micro in itertools.product(numbers, numbers):
            with contextlib.suppress(ConfigError):
                yield toy_config(
                    Path("runs"),
                    data__streams=streams,
                    data__global_batch=batch,
                    data__contrast_group=group,
                    engine__micro_batch=micro,
                    scale__num_workers=workers,
                )


def positions_of(config: RunConfig, rank: int) -> list[list[int]]:
    """The positions of each of a rank's micro-batches, as the loader hands them out."""
    data, micro = config.data, config.engine.micro_batch
    share = data.global_batch // data.streams
    own = [
        stream * share + i
        for stream in range(rank, data.streams, config.world_size)
        for i in range(share)
    ]
    return [own[i : i + micro] for i in range(0, len(own), micro)]


def test_ranks_that_share_a_group_are_peers_and_others_are_not_asked():
    seen = spanning = alone = 0
    for config in layouts():
        seen += 1
        group, workers = config.data.contrast_group, config.world_size
        owners: dict[int, set[int]] = {}
        apart = False
        for rank in range(workers):
            for micro in positions_of(config, rank):
                numbers = [position // group for position in micro]
                apart |= any(numbers.count(number) != group for number in numbers)
                for number in numbers:
                    owners.setdefault(number, set()).add(rank)
        assert groups_span(config) == (apart and group > 1)
        blocks = peer_blocks(config)
        assert sorted(itertools.chain(*blocks)) == list(range(workers))
        assert len({len(block) for block in blocks}) == 1
        for ranks in owners.values():
            assert any(ranks <= set(block) for block in blocks)
        spanning += groups_span(config)
        alone += len(blocks[0]) == 1
    assert seen > 1000
    assert 0 < spanning < seen
    assert 0 < alone < seen


@pytest.mark.parametrize(
    ("streams", "group", "workers", "blocks"),
    [
        (8, 2, 4, [[0, 1], [2, 3]]),
        (8, 8, 4, [[0, 1, 2, 3]]),
        (8, 1, 4, [[0], [1], [2], [3]]),
        (12, 4, 6, [[0, 1, 2, 3, 4, 5]]),
    ],
)
def test_blocks_of_ranks(streams: int, group: int, workers: int, blocks: list[list[int]]):
    config = toy_config(
        Path("runs"),
        data__streams=streams,
        data__global_batch=streams,
        data__contrast_group=group,
        engine__micro_batch=1,
        scale__num_workers=workers,
    )
    assert peer_blocks(config) == blocks


def test_modes_without_a_contrastive_loss_exchange_nothing():
    spanning = {"data__contrast_group": 8, "engine__micro_batch": 1, "scale__num_workers": 1}
    assert groups_span(toy_config(Path("runs"), **spanning))
    assert not groups_span(toy_config(Path("runs"), **spanning, model__mode="uniform"))


def visits(positions: list[int], group: int, *, answers: bool, dtype: torch.dtype) -> Candidates:
    """A micro-batch whose values tell where they come from; position p has 1 + p % 3 pairs."""
    pairs = [p for p in positions for _ in range(1 + p % 3)]
    order = [n for p in positions for n in range(1 + p % 3)]
    where = torch.tensor(positions)
    return Candidates(
        joint=where.to(dtype)[:, None, None].expand(-1, FRAMES, WIDTH).contiguous(),
        groups=where // group,
        positions=where,
        answers=torch.tensor(pairs, dtype=dtype)[:, None].repeat(1, WIDTH) if answers else None,
        answer_positions=torch.tensor(pairs),
        answer_seeds=torch.tensor([2**62 + 10 * p + n for p, n in zip(pairs, order, strict=True)]),
    )


def exchange(groups: tuple[int, ...]) -> dict[int, list[list[Candidates]]]:
    """Eight streams of two visits, micro-batches of one: what each of them gets to see, with
    answers in float32 and without in bfloat16."""
    found = {}
    for group in groups:
        config = toy_config(
            Path("runs"),
            data__streams=8,
            data__global_batch=16,
            data__contrast_group=group,
            engine__micro_batch=1,
            scale__num_workers=dist.get_world_size(),
        )
        peers = ContrastExchange(config)._peers
        found[group] = []
        for answers, dtype in KINDS:
            own = [
                visits(positions, group, answers=answers, dtype=dtype)
                for positions in positions_of(config, dist.get_rank())
            ]
            gathered = gather_candidates(own, peers)
            found[group].append([touched(gathered, part.groups) for part in own])
    return found


KINDS = ((True, torch.float32), (False, torch.bfloat16))


def test_every_micro_batch_sees_its_whole_groups_in_plan_order():
    groups = (2, 4, 16)  # of one stream, of two streams on two ranks, of all
    ranks = run_ranks(exchange, 4, groups, preloaded=True)
    for (rank, found), group in itertools.product(enumerate(ranks), groups):
        for number, by_kind in enumerate(zip(*found[group], strict=True)):
            position = 2 * (rank + 4 * (number // 2)) + number % 2
            start = position // group * group
            for got, (answers, dtype) in zip(by_kind, KINDS, strict=True):
                members = list(range(start, start + group))
                assert_same(got, visits(members, group, answers=answers, dtype=dtype))


def assert_same(found: Candidates, expected: Candidates) -> None:
    for name, value in expected._asdict().items():
        got = getattr(found, name)
        assert (got is None) == (value is None), name
        assert value is None or (got.dtype == value.dtype and torch.equal(got, value)), name
