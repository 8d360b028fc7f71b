"""The plan's contract, by property: coverage, world sizes, seeking, determinism."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataloaders.errors import DataError
from dataloaders.layout import check_layout, contrast_groups, divisors
from dataloaders.plan import Plan
from dataloaders.visits import Visit, num_chunks, visits_of_shard

FAST = settings(max_examples=60, deadline=None)


def make_plan(shards: list[list[int]], **changes) -> Plan:
    fields = {"seed": 1, "num_streams": 1, "global_batch": 1, "questions_per_visit": 2, **changes}
    return Plan([Counter(shard) for shard in shards], shards.__getitem__, **fields)


@st.composite
def plans(draw) -> tuple[list[list[int]], dict[str, int]]:
    """Data and settings that go together: each stream can fill at least one share."""
    streams = draw(st.sampled_from([1, 2, 3, 4, 6]))
    share = draw(st.integers(1, 3))
    shard = st.lists(st.integers(1, 5), min_size=3, max_size=8)
    shards = draw(st.lists(shard, min_size=streams, max_size=streams + 9))
    return shards, {
        "seed": draw(st.integers(0, 2**40)),
        "num_streams": streams,
        "global_batch": streams * share,
        "questions_per_visit": draw(st.integers(1, 4)),
        "block_shards": draw(st.integers(1, 3)),
    }


def epoch_steps(plan: Plan, epoch: int, rank: int = 0, world_size: int = 1):
    steps = range(plan.steps_per_epoch(epoch))
    return [plan.visits(epoch, step, rank, world_size) for step in steps]


@FAST
@given(plans(), st.integers(0, 5))
def test_an_epoch_asks_each_question_once_but_for_the_leftover(data, epoch):
    shards, fields = data
    plan = make_plan(shards, **fields)
    asked: Counter[tuple[int, int, int]] = Counter()
    made: Counter[Visit] = Counter()
    for step in epoch_steps(plan, epoch):
        assert [len(visits) for visits in step] == [plan.share] * plan.num_streams
        for visit in (visit for visits in step for visit in visits):
            made[visit] += 1
            total = shards[visit.shard][visit.sample]
            chosen = plan.questions(visit, total)
            assert 1 <= len(chosen) <= plan.questions_per_visit
            asked.update((visit.shard, visit.sample, question) for question in chosen)
    assert not asked or max(asked.values()) == 1
    assert max(made.values()) == 1
    everything = {
        Visit(s, *pair, epoch=epoch) for s, counts in enumerate(shards)
        for pair in visits_of_shard(counts, plan.questions_per_visit).tolist()
    }  # fmt: skip
    assert made.keys() <= everything
    assert len(everything) == plan.total_visits
    assert plan.total_visits - len(made) == plan.leftover(epoch)
    missed = {visit[:2] for visit in everything - made.keys()}
    for s, counts in enumerate(shards):
        for sample, total in enumerate(counts):
            if (s, sample) not in missed:
                assert all(asked[s, sample, q] == 1 for q in range(total))


@FAST
@given(plans(), st.integers(0, 3))
def test_global_batches_are_the_same_at_every_world_size(data, epoch):
    shards, fields = data
    whole = epoch_steps(make_plan(shards, **fields), epoch)
    streams = fields["num_streams"]
    for world_size in divisors(streams):
        joined: list[list] = [[None] * streams for _ in whole]
        readers: dict[int, int] = {}
        for rank in range(world_size):
            plan = make_plan(shards, **fields)
            for step, parts in enumerate(epoch_steps(plan, epoch, rank, world_size)):
                for stream, visits in zip(plan.streams_of(rank, world_size), parts, strict=True):
                    joined[step][stream] = visits
                    for visit in visits:
                        assert readers.setdefault(visit.shard, rank) == rank
        assert joined == whole


@FAST
@given(plans(), st.data())
def test_a_position_can_be_entered_anywhere(data, more):
    shards, fields = data
    running = make_plan(shards, **fields)
    position, order = (0, 0), []
    for _ in range(2 * running.steps_per_epoch(0) + 1):
        order.append((position, running.visits(*position, 0, 1)))
        position = running.advance(*position)
    assert order[-1][0][0] == 2  # well into a third epoch
    (epoch, step), expected = more.draw(st.sampled_from(order))
    assert make_plan(shards, **fields).visits(epoch, step, 0, 1) == expected


@FAST
@given(plans())
def test_streams_partition_the_shards_and_are_balanced(data):
    shards, fields = data
    plan = make_plan(shards, **fields)
    q = plan.questions_per_visit
    sizes = [sum(num_chunks(n, q) for n in shard) for shard in shards]
    dealt = plan.stream_shards(3)
    assert sorted(shard for stream in dealt for shard in stream) == list(range(len(shards)))
    loads = [sum(sizes[shard] for shard in stream) for stream in dealt]
    assert max(loads) - min(loads) <= max(sizes)
    # A rising deal has the same loads in every epoch, so epochs have equally many steps.
    assert plan.steps_per_epoch(0) == plan.steps_per_epoch(1) == min(loads) // plan.share


def test_a_rank_reads_the_index_of_its_own_shards_only():
    shards = [[2, 3, 1]] * 12
    read: set[int] = set()

    def counts(shard: int) -> list[int]:
        read.add(shard)
        return shards[shard]

    plan = Plan(
        [Counter(s) for s in shards], counts,
        seed=0, num_streams=4, global_batch=4, questions_per_visit=2,
    )  # fmt: skip
    assert not read
    for step in range(plan.steps_per_epoch(0)):
        plan.visits(0, step, 1, 2)
    own = {shard for stream in (1, 3) for shard in plan.stream_shards(0)[stream]}
    assert read == own


def test_seeds_and_epochs_give_different_orders():
    shards = [[1] * 20] * 8
    one = make_plan(shards, num_streams=2, global_batch=4)
    assert epoch_steps(one, 0) != epoch_steps(one, 1)
    assert epoch_steps(one, 0) != epoch_steps(make_plan(shards, seed=2, num_streams=2,
                                                        global_batch=4), 0)  # fmt: skip
    assert epoch_steps(one, 0) == epoch_steps(make_plan(shards, num_streams=2, global_batch=4), 0)


def test_the_order_is_pinned():
    """A changed order would silently change every run that is resumed with a new release."""
    plan = make_plan([[1, 3], [2, 2], [5], [1, 1]], seed=7, num_streams=2, global_batch=2)
    first = [[tuple(v)[:3] for v in visits] for visits in plan.visits(0, 0, 0, 1)]
    assert plan.stream_shards(0) == ((0, 1), (3, 2))
    assert first == [[(0, 0, 0)], [(2, 0, 2)]]
    assert plan.questions(Visit(2, 0, 1), 5) == [1, 3]


def test_visits_are_mixed_across_the_shards_of_a_block():
    shards = [[1] * 50] * 8
    plan = make_plan(shards, global_batch=20, block_shards=4)
    first = {visit.shard for visit in plan.visits(0, 0, 0, 1)[0]}
    assert first <= set(plan.stream_shards(0)[0][:4])
    assert len(first) >= 3


def test_chunks_are_balanced_and_drawn_anew():
    plan = make_plan([[9]], questions_per_visit=8)
    halves = [plan.questions(Visit(0, 0, chunk), 9) for chunk in (0, 1)]
    assert sorted(len(half) for half in halves) == [4, 5]
    assert sorted(halves[0] + halves[1]) == list(range(9))
    assert any(plan.questions(Visit(0, 0, 0, e), 9) != halves[0] for e in range(1, 5))


def test_samples_without_questions_are_never_visited():
    plan = make_plan([[0, 3, 0], [0, 0], [1]], num_streams=2, global_batch=2)
    assert plan.total_visits == 3
    visits = [v for step in epoch_steps(plan, 0) for part in step for v in part]
    assert {(v.shard, v.sample) for v in visits} <= {(0, 1), (2, 0)}


@FAST
@given(plans(), st.integers(0, 12))
def test_replacements_come_from_the_same_stream_and_are_reproducible(data, attempt):
    shards, fields = data
    plan, again = make_plan(shards, **fields), make_plan(shards, **fields)
    step = plan.steps_per_epoch(1) - 1
    for position in range(plan.global_batch):
        visit = plan.replacement(1, step, position, attempt)
        assert visit == again.replacement(1, step, position, attempt)
        assert visit.shard in plan.stream_shards(1)[position // plan.share]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"seed": -1}, ["data.seed: -1", "at least 0"]),
        ({"seed": True}, ["data.seed: True"]),
        ({"num_streams": 0}, ["data.streams: 0", "at least 1"]),
        ({"global_batch": 0}, ["data.global_batch: 0"]),
        ({"questions_per_visit": 0}, ["data.questions_per_visit: 0"]),
        ({"block_shards": 0}, ["data.block_shards: 0"]),
        ({"num_streams": 2, "global_batch": 5}, ["data.global_batch: 5", "multiple", "4 or 6"]),
        ({"num_streams": 4, "global_batch": 2}, ["data.global_batch: 2", "use 4"]),
        ({"num_streams": 4, "global_batch": 4}, ["data.streams = 4", "3 shards", "smaller shards"]),
        ({"num_streams": 3, "global_batch": 300}, ["data.global_batch = 300", "100", "smallest"]),
    ],
)
def test_bad_settings(changes, words):
    with pytest.raises(DataError) as caught:
        make_plan([[1, 2], [3], [4]], **changes)
    for word in words:
        assert word in str(caught.value)


def test_world_sizes_that_do_not_fit():
    plan = make_plan([[1] * 4] * 12, num_streams=12, global_batch=12)
    for world_size in (0, 5, 24):
        with pytest.raises(DataError, match="use one of 1, 2, 3, 4, 6, 12"):
            plan.visits(0, 0, 0, world_size)
    with pytest.raises(DataError, match=r"rank: 2: not in 0\.\.1"):
        plan.visits(0, 0, 2, 2)
    with pytest.raises(DataError, match=r"step: 99: epoch 0 has steps 0\.\.3"):
        plan.visits(0, 99, 0, 1)


def test_an_index_that_disagrees_with_its_histogram():
    plan = Plan([{1: 3}], lambda _: [1], seed=0, num_streams=1, global_batch=1,
                questions_per_visit=1)  # fmt: skip
    with pytest.raises(DataError, match="run `gcg pack` again"):
        plan.visits(0, 0, 0, 1)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"world_size": 3}, ["world_size: 3", "data.streams = 8", "1, 2, 4, 8"]),
        ({"contrast_group": 3}, ["data.contrast_group: 3", "4 visits", "1, 2, 4, 8, 16, 32"]),
        ({"contrast_group": 12}, ["data.contrast_group: 12", "global_batch = 32"]),
        ({"contrast_group": 64}, ["data.contrast_group: 64", "1, 2, 4, 8, 16, 32"]),
        ({"contrast_group": 0}, ["data.contrast_group: 0"]),
        ({"micro_batch": 5}, ["data.micro_batch: 5", "32 visits", "1, 2, 4, 8, 16, 32"]),
        ({"micro_batch": 3, "world_size": 2}, ["data.micro_batch: 3", "16 visits", "1, 2, 4, 8"]),
        ({"micro_batch": 0}, ["data.micro_batch: 0"]),
    ],
)
def test_bad_layouts(changes, words):
    with pytest.raises(DataError) as caught:
        check_layout(num_streams=8, global_batch=32, **changes)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("contrast_group", [2, 4, 8, 32])
@pytest.mark.parametrize("micro_batch", [1, 4])
def test_good_layouts(contrast_group, micro_batch):
    for world_size in (1, 2, 4, 8):
        check_layout(
            num_streams=8,
            global_batch=32,
            world_size=world_size,
            micro_batch=micro_batch,
            contrast_group=contrast_group,
        )


def test_contrast_groups_are_parts_of_a_share_or_whole_shares():
    assert contrast_groups(num_streams=4, global_batch=48) == [1, 2, 3, 4, 6, 12, 24, 48]
    # 8 divides neither: with 6 visits a stream, a group would end in the middle of one
    assert contrast_groups(num_streams=4, global_batch=24) == [1, 2, 3, 6, 12, 24]
    assert contrast_groups(num_streams=6, global_batch=6) == [1, 2, 3, 6]
