"""Micro-batches of like length: what is dealt, that it saves, and that nothing else changes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dataloaders.bucketing import deal
from dataloaders.manifest import Video
from dataloaders.shards import pack
from tests.dataloaders.loader_fixtures import assert_same, collect, make, take
from tests.dataloaders.shard_fixtures import video, write_clips

# Videos with one to four questions, whose texts differ in length.
COUNTS = [1, 2, 3, 4, 1, 2, 3, 4]
PLAN = {"num_streams": 1, "global_batch": 8, "questions_per_visit": 2}


@st.composite
def cases(draw: st.DrawFn) -> tuple[list[int], int, int]:
    together = draw(st.sampled_from([1, 2, 4]))
    size = together * draw(st.integers(1, 4))
    number = size * draw(st.integers(1, 6))
    return draw(st.lists(st.integers(1, 40), min_size=number, max_size=number)), size, together


@given(cases())
def test_each_visit_once_groups_whole_and_never_more_padding(case: tuple[list[int], int, int]):
    lengths, size, together = case
    parts = deal(lengths, size, together)
    assert sorted(place for part in parts for place in part) == list(range(len(lengths)))
    assert all(len(part) == size for part in parts)
    for part in parts:
        for first in part[::together]:
            start = first - first % together
            assert set(range(start, start + together)) <= set(part)
    plain = [range(i, i + size) for i in range(0, len(lengths), size)]

    def padded(each) -> int:
        return sum(max(lengths[place] for place in part) for part in each)

    assert padded(parts) <= padded(plain)
    if padded(parts) == padded(plain):
        assert parts == [list(part) for part in plain]
    assert deal(list(lengths), size, together) == parts


def test_the_longest_come_first_and_ties_stay_in_order():
    assert deal([1, 9, 1, 9, 5, 5], 2) == [[1, 3], [4, 5], [0, 2]]
    assert deal([7, 7, 7, 7], 2) == [[0, 1], [2, 3]]
    assert deal([1, 9, 9, 1, 1, 9, 1, 1], 4, 2) == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert deal([1, 9, 1, 1, 1, 9, 1, 1], 4, 2) == [[0, 1, 4, 5], [2, 3, 6, 7]]


def longer(each: Video, number: int) -> Video:
    words = number * 5 % 9 * " so"
    asked = [q.model_copy(update={"question": q.question + words}) for q in each.questions]
    return each.model_copy(update={"questions": asked})


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    videos = [longer(video(number, count), number) for number, count in enumerate(COUNTS)]
    write_clips(root, videos)
    return pack(videos, root / "packed", root=root, shard_bytes=10_000).folder


def row_lengths(batch) -> list[int]:
    """The longest prompt of each visit of a micro-batch."""
    own = batch.prompt_mask.sum(dim=1)
    return [int(own[batch.video_index == row].max()) for row in range(len(batch.positions))]


def test_the_loader_deals_by_length_and_changes_nothing_else(packed: Path):
    """Each visit has the frames, questions, seeds and group that it has in a batch of its own."""
    whole: dict = {}
    dealt: dict = {}
    with make(packed, plan=PLAN) as loader:
        plain = take(loader, 2)
    with make(packed, plan=PLAN, micro_batch=2) as loader:
        steps = take(loader, 2)
    for found, each in ((whole, plain), (dealt, steps)):
        for step in each:
            for batch in step.micro:
                collect(found, (step.epoch, step.step), batch)
    assert dealt == whole
    moved = 0
    for step in steps:
        order = [k for batch in step.micro for k in batch.positions.tolist()]
        moved += order != sorted(order)
        longest = [max(row_lengths(batch)) for batch in step.micro]
        assert longest == sorted(longest, reverse=True)
    assert moved  # else this test shows nothing
    with make(packed, plan=PLAN, micro_batch=2, decode_threads=1) as again:
        assert_same(take(again, 2), steps)


@pytest.mark.parametrize("size", [2, 4])
def test_contrast_groups_that_fit_a_micro_batch_stay_in_one(packed: Path, size: int):
    with make(packed, plan=PLAN, micro_batch=size, contrast_group=2) as loader:
        for step in take(loader, 3):
            for batch in step.micro:
                places = batch.positions.tolist()
                assert {k // 2 for k in places} == {k // 2 for k in places if k ^ 1 in places}


def test_gathered_frames_are_those_of_their_clips(packed: Path):
    """The copies lie in memory that is used again: an earlier step's must not change under it."""
    with make(packed, plan=PLAN, micro_batch=2, prefetch_steps=1) as loader:
        steps, kept = [], []
        for _ in range(4):
            steps.append(next(loader))
            kept.append([batch.pixels.clone() for batch in steps[-1].micro])
        for step, before in zip(steps, kept, strict=True):
            for batch, pixels in zip(step.micro, before, strict=True):
                assert torch.equal(batch.pixels, pixels)
