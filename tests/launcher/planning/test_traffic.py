"""What is sent in a step, and how long links take for it: properties of the formulas."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.planning.links import NCCL, Cluster, delay, seconds, wire_seconds
from launcher.planning.sizes import Census, Weight
from launcher.planning.states import Engine
from launcher.planning.traffic import Collective, bytes_sent, traffic

WORLDS = st.sampled_from([2, 4, 8, 64, 512, 4096])
STAGES = st.sampled_from([1, 2, 3])
# Thousands of elements, so that W ≤ 512 divides them and nothing is padded.
NUMELS = st.lists(st.integers(1, 200_000), min_size=1, max_size=12)
TRAINED, FROZEN = "rest.decayed", None


def census(trained: list[int], frozen: list[int], part: str = "LLM") -> Census:
    weights = [Weight(part, 1024 * numel, FROZEN) for numel in frozen]
    weights += [Weight(part, 1024 * numel, TRAINED) for numel in trained]
    return Census(tuple(weights), max(weight.numel for weight in weights))


def engine(zero: int, world: int = 8, accumulation: int = 1, **more) -> Engine:
    return Engine(zero, world, 2, accumulation, cuda=True, **more)


def sent(found: list[Collective], kind: str, world: int) -> float:
    return sum(each.sent(world) for each in found if each.kind == kind)


@given(zero=STAGES, trained=NUMELS, frozen=NUMELS)
def test_more_workers_send_more_each(zero, trained, frozen):
    sizes = census(trained, frozen)
    each = [bytes_sent(sizes, engine(zero, world)) for world in (1, 2, 4, 8, 64, 512, 4096)]
    assert each[0] == 0
    assert each == sorted(each)


@given(world=WORLDS, size=st.floats(1, 1e12))
def test_a_ring_sends_all_but_its_own_share(world, size):
    gathered, reduced = (
        Collective("x", kind, 1, size).sent(world) for kind in ("all-gather", "all-reduce")
    )
    assert gathered == pytest.approx(size * (world - 1) / world)
    assert reduced == pytest.approx(2 * gathered)


@given(zero=STAGES, trained=NUMELS, frozen=NUMELS, accumulation=st.integers(1, 4))
def test_frozen_weights_are_never_reduced(zero, trained, frozen, accumulation):
    how = engine(zero, 8, accumulation)
    with_them, without = traffic(census(trained, frozen), how), traffic(census(trained, []), how)
    for kind in ("all-reduce", "reduce-scatter"):
        assert sent(with_them, kind, 8) == sent(without, kind, 8)
    if zero != 3:
        assert with_them == without


@given(trained=NUMELS, frozen=NUMELS, accumulation=st.integers(1, 4))
def test_stages_by_what_they_gather(trained, frozen, accumulation):
    sizes = census(trained, frozen)
    found = {zero: traffic(sizes, engine(zero, 8, accumulation)) for zero in (1, 2, 3)}
    gathered = {zero: sent(each, "all-gather", 8) for zero, each in found.items()}
    assert gathered[3] >= gathered[1] == gathered[2] == 2 * sizes.trained * 7 / 8
    # Stage 3 scatters with every micro-batch what stage 2 all-reduces.
    figures = next(each for each in found[3] if each.what == "figures").sent(8)
    scattered = sent(found[3], "reduce-scatter", 8)
    assert 2 * scattered == pytest.approx(sent(found[2], "all-reduce", 8) - figures)
    if accumulation == 1:
        assert found[1] == found[2]


def test_the_backward_pass_gathers_what_a_gradient_passes_through():
    big = 200_000_000
    weights = (
        Weight("vision trunk", big, None),
        Weight("Q-Former + projection", big, TRAINED),
        Weight("LLM", big, None, table=True),
        *(Weight("LLM", big, None) for _ in range(10)),
    )
    sizes = Census(weights, big)

    def gathered(**more) -> dict[str, float]:
        found = traffic(sizes, engine(3, **more))
        return {each.what: each.bytes / 2 / big for each in found if each.kind == "all-gather"}

    # 10^9 elements on the way to the turning point and back are kept: the last two weights.
    assert gathered() == {"weights, forward pass": 13, "weights, backward pass": 9}
    keep_nothing = (("stage3_max_reuse_distance", 0),)
    assert gathered(own=keep_nothing)["weights, backward pass"] == 11
    assert gathered(recompute=("llm", "vision"))["weights, recomputing"] == 10
    trained = replace(sizes, weights=(replace(weights[0], group=TRAINED), *weights[1:]))
    assert traffic(trained, engine(3))[1].bytes > traffic(sizes, engine(3))[1].bytes


def test_small_weights_are_gathered_at_once_after_the_update():
    sizes = Census((*(Weight("LLM", 4096, None) for _ in range(100)),
                    Weight("LLM", 10**6, TRAINED)), 10**6)  # fmt: skip
    small = next(each for each in traffic(sizes, engine(3, 8, 4)) if each.what == "small weights")
    assert (small.calls, small.bytes) == (1, 100 * 4096 * 2)


@given(world=WORLDS, calls=st.integers(1, 500), size=st.floats(0, 1e12), kind=st.sampled_from(
    ["all-reduce", "all-gather", "reduce-scatter"]))  # fmt: skip
def test_links(world, calls, size, kind):
    one = Collective("x", kind, calls, size)
    cluster = Cluster(world, max(1, world // 8), 400e9)
    taken = seconds(one, cluster)
    assert taken >= one.sent(world) / 400e9
    assert taken >= calls * min(delay(way, one, cluster) for way in cluster.ways)
    assert seconds(one, replace(cluster, bandwidth=800e9)) <= taken
    larger = Cluster(8 * world, cluster.nodes * 8, 400e9)
    assert seconds(one, larger) >= taken
    assert wire_seconds([one, one], cluster) == pytest.approx(2 * taken)


def test_the_cheapest_way_is_taken_and_trees_serve_all_reduces_alone():
    cluster = Cluster(4096, 512, 400e9)
    tiny, gather = (Collective("x", kind, 1, 64) for kind in ("all-reduce", "all-gather"))
    tree = next(way for way in NCCL if way.shape == "tree" and way.rate < 0.5)
    ring = next(way for way in NCCL if way.shape == "ring" and way.rate < 0.5)
    assert seconds(tiny, cluster) == pytest.approx(delay(tree, tiny, cluster), rel=1e-3)
    assert seconds(gather, cluster) == pytest.approx(delay(ring, gather, cluster), rel=1e-3)
    assert seconds(gather, cluster) > 10 * seconds(tiny, cluster)
