"""The training loader: resume by equality, world sizes, contrast groups, shutdown."""

from __future__ import annotations

import json
import threading
from collections import Counter
from pathlib import Path

import pytest
import torch

from dataloaders.errors import DataError
from dataloaders.fetch import HostDecoder
from dataloaders.labels import LabelSet
from dataloaders.loader import Loader
from dataloaders.open_source import open_source
from dataloaders.plan import Plan
from tests.dataloaders.loader_fixtures import (
    COUNTS,
    FRAMES,
    SIZE,
    asked,
    assert_same,
    collect,
    make,
    take,
)
from tests.dataloaders.shard_fixtures import FORMATS, collator, label_all, pack_clips


@pytest.fixture(scope="module", params=FORMATS)
def packed(tmp_path_factory, request) -> Path:
    folder = pack_clips(tmp_path_factory.mktemp("data"), COUNTS, format=request.param).folder
    label_all(open_source(folder), FRAMES)
    return folder


def test_an_epoch_asks_each_question_once_and_the_next_goes_on(packed):
    with make(packed, micro_batch=2) as loader:
        per_epoch = loader.plan.steps_per_epoch(0)
        first, second = take(loader, per_epoch), take(loader, per_epoch)
    counts = asked(first)
    assert max(counts.values()) == 1
    assert sum(counts.values()) >= sum(COUNTS) - 2 * loader.plan.leftover(0)
    assert [(s.epoch, s.step) for s in first] == [(0, i) for i in range(per_epoch)]
    assert [(s.epoch, s.step) for s in second] == [(1, i) for i in range(per_epoch)]
    assert loader.position == (2, 0)
    for step in first:
        assert [len(batch.pixels) for batch in step.micro] == [2, 2]
        assert step.num_pairs == sum(len(batch.video_index) for batch in step.micro)
        assert step.micro[0].pixels.shape == (2, FRAMES, 3, SIZE, SIZE)
        assert step.micro[0].pixels.dtype == torch.float32
    seeds = {seed for s in first + second for b in s.micro for seed in b.noise_seeds.tolist()}
    assert len(seeds) == sum(asked(first).values()) + sum(asked(second).values())
    counters = loader.quarantine.counters()
    assert counters["seen"] >= 4 * len(first + second)
    assert (counters["bad"], counters["distinct"]) == (0, 0)


def test_resuming_equals_running_on_byte_for_byte(packed):
    labels = LabelSet(packed / "labels" / "test")
    with make(packed, labels=labels, micro_batch=1) as loader:
        steps = loader.plan.steps_per_epoch(0) + 4
        whole, states = [], [loader.state_dict()]
        for _ in range(steps):
            whole.append(next(loader))
            states.append(loader.state_dict())
    assert all(batch.moments is not None for step in whole for batch in step.micro)
    for cut in (0, 1, steps - 5, steps - 4, steps - 1):
        state = json.loads(json.dumps(states[cut]))
        with make(packed, labels=labels, micro_batch=1, decode_threads=1,
                  prefetch_steps=3) as resumed:  # fmt: skip
            resumed.load_state_dict(state)
            assert resumed.state_dict() == state
            assert_same(take(resumed, steps - cut), whole[cut:])


def test_loading_a_state_after_iterating_goes_back(packed):
    with make(packed) as loader:
        start = loader.state_dict()
        first = take(loader, 3)
        loader.load_state_dict(start)
        assert_same(take(loader, 3), first)


def test_a_closed_loader_goes_on_where_it_was(packed):
    with make(packed) as whole, make(packed) as stopped:
        expected = take(whole, 4)
        got = take(stopped, 2)
        stopped.close()
        stopped.close()
        assert_same(got + take(stopped, 2), expected)


@pytest.mark.parametrize("group", [1, 2, 4, 8])
def test_global_batches_and_groups_are_the_same_at_every_world_size(packed, group):
    """At W = 1, 2 and any micro-batch: the same visits, pixels and contrast groups."""
    plan = {"num_streams": 2, "global_batch": 8}
    rows: list[dict] = []
    for world_size, micro in ((1, 8), (1, 2), (2, 4), (2, 1)):
        found: dict = {}
        for rank in range(world_size):
            with make(packed, plan=plan, rank=rank, world_size=world_size, micro_batch=micro,
                      contrast_group=group) as loader:  # fmt: skip
                for step in take(loader, 3):
                    for batch in step.micro:
                        collect(found, (step.epoch, step.step), batch)
        rows.append(found)
    for other in rows[1:]:
        assert other == rows[0]
    # Key 1 is the group: of `group` consecutive positions, but for a video's second visit.
    assert any(place // group == key[1] for key, (place, *_) in rows[0].items())
    for key, (place, *_) in rows[0].items():
        assert key[1] % (8 // group) == place // group


@pytest.mark.parametrize(("group", "micro"), [(2, 4), (4, 2), (8, 2)])
def test_groups_are_of_distinct_videos_also_where_they_span_micro_batches(packed, group, micro):
    plan = {"num_streams": 2, "global_batch": 8}
    with make(packed, plan=plan, contrast_group=group, micro_batch=micro) as loader:
        steps = take(loader, 2 * loader.plan.steps_per_epoch(0))
    sizes: Counter[int] = Counter()
    for step in steps:
        groups: dict[int, list[str]] = {}
        positions: list[int] = []
        for batch in step.micro:
            names = dict(zip(batch.video_index.tolist(), batch.meta.videos, strict=True))
            for row, number in enumerate(batch.contrast_group.tolist()):
                groups.setdefault(number, []).append(names[row])
            positions += batch.positions.tolist()
        assert positions == list(range(8))
        for members in groups.values():
            sizes[len(members)] += 1
            assert len(members) == len(set(members)) <= group
    assert max(sizes) > group // 2


@pytest.mark.parametrize(("world_size", "micro"), [(1, 8), (1, 2), (2, 4), (2, 1)])
def test_a_video_twice_in_a_group_leaves_it_alike_at_every_layout(tmp_path, world_size, micro):
    """One video with many questions a stream: its own frames are no negatives for it."""
    folder = pack_clips(tmp_path, [8, 8], per_shard=1).folder
    plan = {"num_streams": 2, "global_batch": 8}
    found: dict[int, int] = {}
    for rank in range(world_size):
        with make(folder, plan=plan, contrast_group=8, rank=rank, world_size=world_size,
                  micro_batch=micro) as loader:  # fmt: skip
            for batch in next(loader).micro:
                found.update(
                    zip(batch.positions.tolist(), batch.contrast_group.tolist(), strict=True)
                )
    # Four visits of each video, one global batch: the nth visits of the two are a group.
    assert found == {0: 0, 1: 1, 2: 2, 3: 3, 4: 0, 5: 1, 6: 2, 7: 3}


def test_labels_for_other_data_or_frames_are_refused(packed, tmp_path):
    labels = LabelSet(packed / "labels" / "test")
    with pytest.raises(DataError, match=r"num_frames: the labels were made with 4.*has 8"):
        make(packed, labels=labels, num_frames=8)
    other = pack_clips(tmp_path, [1] * 4).folder
    with pytest.raises(DataError, match="data: the labels were made with"):
        make(other, labels=labels)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"world_size": 3}, ["world_size: 3", "1, 2"]),
        ({"micro_batch": 3}, ["data.micro_batch: 3", "1, 2, 4"]),
        ({"contrast_group": 3}, ["data.contrast_group: 3", "1, 2, 4"]),
        ({"decode_threads": 0}, ["data.decode_threads: 0"]),
        ({"prefetch_steps": 0}, ["data.prefetch_steps: 0"]),
        ({"num_frames": 0}, ["data.num_frames: 0"]),
        ({"world_size": 2, "rank": 2}, ["rank: 2"]),
    ],
)
def test_bad_settings(packed, changes, words):
    with pytest.raises(DataError) as caught:
        make(packed, **changes)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("plan", "changes", "name"),
    [
        ({"seed": 4}, {}, "seed"),
        ({"num_streams": 4}, {}, "streams"),
        ({"global_batch": 2}, {}, "global_batch"),
        ({"questions_per_visit": 1}, {}, "questions_per_visit"),
        ({"block_shards": 1}, {}, "block_shards"),
        ({}, {"num_frames": 2}, "num_frames"),
        ({}, {"contrast_group": 2}, "contrast_group"),
    ],
)
def test_a_state_of_another_run_is_refused(packed, plan, changes, name):
    state = make(packed).state_dict()
    with pytest.raises(DataError, match=rf"data\.{name}: the checkpoint has"):
        make(packed, plan=plan, **changes).load_state_dict(state)


def test_damaged_and_foreign_states(packed, tmp_path):
    loader = make(packed)
    state = loader.state_dict()
    with pytest.raises(DataError, match=r"version: None"):
        loader.load_state_dict({})
    with pytest.raises(DataError, match="no such epoch and step"):
        loader.load_state_dict({**state, "step": 10_000})
    other = make(pack_clips(tmp_path, [1] * 4).folder)
    with pytest.raises(DataError, match=r"data\.data: the checkpoint has"):
        other.load_state_dict(state)


def test_other_world_sizes_resume_from_the_same_state(packed):
    with make(packed) as loader:
        take(loader, 2)
        state, expected = loader.state_dict(), asked(take(loader, 1))
    found: Counter = Counter()
    for rank in (0, 1):
        with make(packed, rank=rank, world_size=2) as part:
            part.load_state_dict(state)
            found += asked(take(part, 1))
    assert found == expected


def test_threads_end_with_the_loader_and_waiting_is_timed(packed):
    before = threading.active_count()
    loader = make(packed, decode_threads=3)
    assert loader.last_wait_s == 0.0
    next(loader)
    assert loader.last_wait_s > 0.0
    assert threading.active_count() > before
    loader.close()
    assert threading.active_count() == before


def test_pixels_lie_where_they_were_decoded(packed):
    """All micro-batches of a step are rows of one piece of memory: nothing was copied."""
    with make(packed, micro_batch=2) as loader:
        first, second = next(loader).micro
    assert first.pixels.untyped_storage().data_ptr() == second.pixels.untyped_storage().data_ptr()
    assert first.pixels.is_contiguous()
    assert second.pixels.storage_offset() == first.pixels.numel()


def test_prefetch_is_bounded(packed):
    decoded = threading.Semaphore(0)
    count = 0

    class Counting(HostDecoder):
        def __call__(self, data, indices, *, frame_count, name, **room):
            nonlocal count
            frames = super().__call__(data, indices, frame_count=frame_count, name=name, **room)
            count += 1
            decoded.release()
            return frames

    source = open_source(packed)
    plan = Plan.for_source(source, seed=0, num_streams=1, global_batch=2, questions_per_visit=8)
    with Loader(source, plan, collator(), Counting(SIZE), num_frames=FRAMES,
                decode_threads=1, prefetch_steps=3) as loader:  # fmt: skip
        next(loader)
        for _ in range(8):  # the step handed over and three more
            assert decoded.acquire(timeout=30)
        assert not decoded.acquire(timeout=0.3)
    assert count == 8
