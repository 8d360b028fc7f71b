"""What `gcg plan` says of offload: GPU and host memory, the way between them, and when it helps."""

from __future__ import annotations

from typing import Any

import pytest
from deepspeed.runtime.zero.stage3 import estimate_zero3_model_states_mem_needs
from deepspeed.runtime.zero.stage_1_and_2 import estimate_zero2_model_states_mem_needs
from hypothesis import given, settings
from hypothesis import strategies as st

from launcher.planning import make_plan
from launcher.planning.offload import engine_lines
from launcher.planning.report import text, tree
from launcher.planning.sizes import Census, Weight
from launcher.planning.states import Engine, Line
from launcher.planning.timing import Hardware, bytes_copied, bytes_updated, step_time

from .runs import XXL, instructblip
from .test_memory import PARTS, PRECISIONS, TRAIN, planned

WAYS = st.sampled_from(
    [
        (1, ("optimizer",)),
        (2, ("optimizer",)),
        (3, ("optimizer",)),
        (3, ("weights",)),
        (3, ("optimizer", "weights")),
    ]
)


def learning_whole(numel: int) -> Census:
    weights = tuple(Weight("LLM", numel // 100, "rest.decayed") for _ in range(100))
    return Census(weights, numel // 100)


def on_host(lines: list[Line], *, but: str = "ZeRO buffers") -> int:
    return sum(line.bytes for line in lines if line.host and line.kind != but)


@pytest.mark.parametrize("world", [1, 8])
@pytest.mark.parametrize("numel", [300_000_000, 70_000_000_000])
def test_host_memory_as_deepspeed_estimates(world: int, numel: int):
    census, share = learning_whole(numel), numel // world
    # DeepSpeed's estimate has 16 bytes a weight, and at least the 4 it takes to build the whole
    # model on each worker, which is not how models are built here.
    cpu, _ = estimate_zero2_model_states_mem_needs(
        numel, 1, 1, cpu_offload=True, additional_buffer_factor=1
    )
    lines = engine_lines(census, Engine(2, world, 2, 1, cuda=True, offload=("optimizer",)))
    # New weights wait there in 16 bits on their way back.
    assert on_host(lines) == pytest.approx(cpu / world + 2 * share, rel=1e-6)
    cpu, gpu, _ = estimate_zero3_model_states_mem_needs(
        numel, 0, 1, 1, cpu_offload=True, cpu_offload_params=True, additional_buffer_factor=1
    )
    both = ("optimizer", "weights")
    lines = engine_lines(census, Engine(3, world, 2, 1, cuda=True, offload=both))
    # Gradients are summed in float32, on the host as well.
    assert on_host(lines) == pytest.approx(cpu / world + 4 * share, rel=1e-6)
    assert gpu == 0  # what is gathered is lines of its own here
    assert not [line for line in lines if line.kind == "weights" and not line.host]


@settings(max_examples=40)
@given(way=WAYS, train=TRAIN, precision=PRECISIONS, parts=PARTS, batch=st.sampled_from([128, 256]))
def test_offload_never_takes_more_of_the_gpu(way, train, precision, parts, batch):
    zero, offload = way
    how: dict[str, Any] = {"zero": zero, "precision": precision, "recompute": parts}
    less = planned(train=train, batch=batch, offload=offload, **how)
    more = planned(train=train, batch=batch, **how)
    assert more.host == ()
    # What a gradient passes through on its way to the host is a buffer that stays.
    passing = sum(x.bytes for x in less.lines if x.part in ("largest gradient",))
    assert less.peak <= more.peak + 1.05 * passing
    assert less.host_peak > 0
    assert "optimizer" not in offload or not any(x.kind == "optimizer states" for x in less.lines)


@settings(max_examples=40)
@given(way=WAYS, train=TRAIN, precision=PRECISIONS)
def test_on_a_cpu_all_is_one_memory_and_nothing_is_gained(way, train, precision):
    zero, offload = way
    how: dict[str, Any] = {"device": "cpu", "train": train, "zero": zero, "precision": precision}
    own, plain = planned(offload=offload, **how), planned(**how)
    assert own.host == ()
    for kind in ("weights", "optimizer states"):
        sizes = [sum(x.bytes for x in one.lines if x.kind == kind) for one in (own, plain)]
        assert sizes[0] >= sizes[1]


def test_what_crosses_the_link():
    census = learning_whole(1_000_000)
    own = 1_000_000 // 4

    def copied(zero: int, offload: tuple[str, ...], accumulation: int = 2, element: int = 2):
        return bytes_copied(census, Engine(zero, 4, element, accumulation, True, offload))

    assert copied(2, ()) == 0
    assert copied(1, ("optimizer",)) == copied(2, ("optimizer",)) == (4 + 2) * own
    assert copied(2, ("optimizer",), element=4) == (3 * 4 + 4 + 4) * own
    assert copied(3, ("optimizer",)) == (2 * 2 * 4 + 4 + 2) * own
    assert copied(3, ("weights",)) == 2 * 2 * 2 * own + 2 * own
    assert copied(3, ("optimizer", "weights")) == (2 * 2 * 4 + 4) * own + 2 * 2 * 2 * own
    engine = Engine(2, 4, 2, 2, True, ("optimizer",))
    assert bytes_updated(census, engine) == 28 * own
    assert bytes_copied(census, Engine(2, 4, 2, 2, False, ("optimizer",))) == 0


def test_a_faster_link_is_a_faster_step():
    engine = Engine(3, 8, 2, 4, True, ("optimizer", "weights"))
    slow, fast = (
        step_time([], learning_whole(10**9), engine, Hardware(memory=80e9, pcie=pcie), 8, 1)
        for pcie in (25, 50)
    )
    assert slow.copying == pytest.approx(2 * fast.copying)
    assert slow.seconds - fast.seconds == pytest.approx(fast.copying)
    assert slow.updating == fast.updating > 0


def test_offload_is_proposed_where_nothing_fits_without():
    config = instructblip(XXL, model={"llm": {"train": "full"}}, engine={"micro_batch": 1})
    roomy, tight = (make_plan(config, Hardware(memory=memory)) for memory in (80e9, 24e9))
    assert not any(one.offload for one in roomy.candidates)
    assert not any(one.fits for one in tight.candidates if not one.offload)
    best = tight.best
    assert best is not None
    assert best.offload
    lines = text(tight).splitlines()
    listed = f"engine.offload=[{','.join(best.offload)}]"
    assert any(line.startswith("cheapest: ") and listed in line for line in lines)
    assert f"  offloaded: {8 * best.host / 1e9:.2f} GB of each machine's memory" in lines
    assert tree(tight)["cheapest"]["host"] == best.host


def test_the_report_of_a_run_that_offloads():
    config = instructblip(engine={"zero": 3, "offload": ["optimizer", "weights"]})
    said = text(plan := make_plan(config, Hardware(memory=80e9)))
    assert "recomputed: nothing, offloaded: optimizer, weights; LLM frozen" in said
    host = plan.memory.host_peak
    assert f"in host memory: {host / 1e9:.2f} a worker, {8 * host / 1e9:.2f} a machine" in said
    assert "GB to and from the host at 25 GB/s (--pcie)" in said
    assert any(one.offload for one in plan.candidates)
    assert sum(line["bytes"] for line in tree(plan)["memory"]["offloaded"]["lines"]) >= host
    here = text(make_plan(config, Hardware(memory=80e9), device="cpu"))
    assert "engine.offload gains nothing: without a GPU all is host memory" in here
