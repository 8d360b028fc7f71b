"""Memory by formula: against DeepSpeed's own estimates, and how it moves with what changes it."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
from deepspeed.runtime.zero.stage3 import estimate_zero3_model_states_mem_needs
from deepspeed.runtime.zero.stage_1_and_2 import estimate_zero2_model_states_mem_needs
from hypothesis import given
from hypothesis import strategies as st

from launcher.config import RunConfig
from launcher.planning import describe_model
from launcher.planning.memory import MAPPED, Memory, worker_memory
from launcher.planning.shapes import ModelShape, micro_batch
from launcher.planning.sizes import Census, Weight
from launcher.planning.states import PHASES, Engine, state_lines, weight_bytes
from launcher.planning.world import fit_world

from .runs import VICUNA_13B, XL, instructblip

WORLDS = st.sampled_from([1, 2, 4, 8, 16, 32, 64, 128])
STAGES = st.sampled_from([1, 2, 3])
PRECISIONS = st.sampled_from(["bf16", "fp16", "fp32"])
TRAIN = st.sampled_from(["frozen", "lora", "full"])
PARTS = st.sets(st.sampled_from(["qformer", "llm"]))
DEVICES = st.sampled_from(["cpu", "cuda"])


@cache
def described(checkpoint: str, train: str) -> tuple[ModelShape, Census]:
    config = instructblip(checkpoint, model={"llm": {"train": train}})
    return describe_model(config)


def planned(
    checkpoint: str = XL,
    train: str = "frozen",
    device: Any = "cuda",
    world: int = 8,
    batch: int = 128,
    **engine: Any,
) -> Memory:
    config = instructblip(
        checkpoint,
        model={"llm": {"train": train}},
        engine={"micro_batch": 1, **engine},
        data={"global_batch": batch, "streams": 128, "contrast_group": 1},
        scale={"num_workers": world, "use_gpu": device == "cuda"},
    )
    return memory_of(config, checkpoint, train, device)


def memory_of(config: RunConfig, checkpoint: str, train: str, device: Any) -> Memory:
    shape, census = described(checkpoint, train)
    batch = micro_batch(config, shape, config.engine.micro_batch, 32)
    return worker_memory(config, census, shape, batch, device)


def states(memory: Memory) -> int:
    """Bytes of weights, gradients and optimizer states."""
    kinds = ("weights", "gradients", "optimizer states")
    return sum(
        line.bytes for line in memory.lines if line.kind in kinds and "update" in line.phases
    )


@pytest.mark.parametrize("world", [1, 2, 8, 64])
@pytest.mark.parametrize("numel", [300_000_000, 70_000_000_000])
def test_a_model_that_learns_whole_as_deepspeed_estimates(world: int, numel: int):
    weights = tuple(Weight("LLM", numel // 100, "rest.decayed") for _ in range(100))
    census = Census(weights, numel // 100)

    def model_states(zero: int) -> int:
        kinds = ("weights", "gradients", "optimizer states")
        lines = state_lines(census, Engine(zero, world, 2, 1, cuda=True))
        chosen = [line for line in lines if line.kind in kinds and line.part != "on their way"]
        return sum(line.bytes for line in chosen)

    _, three, largest_layer = estimate_zero3_model_states_mem_needs(
        numel, 0, world, 1, cpu_offload=False, cpu_offload_params=False
    )
    assert largest_layer == 0  # what is gathered is lines of its own here
    assert model_states(3) == pytest.approx(three, rel=1e-6)
    # DeepSpeed's estimate has a worker's own gradients in 16 bits as well. Since they are added to
    # float32 ones straight from the bucket, they are there no more.
    _, two = estimate_zero2_model_states_mem_needs(numel, world, 1, cpu_offload=False)
    assert model_states(2) == pytest.approx(two - 2 * numel / world, rel=1e-6)


def test_a_frozen_model_has_its_weights_alone():
    frozen, full = planned(train="frozen", zero=3), planned(train="full", zero=3)
    _, census = described(XL, "frozen")
    whole = sum(weight_bytes(census, Engine(1, 1, 2, 1, cuda=True)).values())
    assert whole == 2 * census.total
    assert states(full) - states(frozen) == pytest.approx(
        16 * (described(XL, "full")[1].trained - census.trained) / 8, rel=1e-6
    )


@given(train=TRAIN, precision=PRECISIONS, parts=PARTS, small=WORLDS, large=WORLDS)
def test_under_zero_3_more_gpus_never_need_more(train, precision, parts, small, large):
    small, large = sorted((small, large))
    how = {"zero": 3, "precision": precision, "recompute": parts}
    # The same micro-batch and accumulation on each, so the same activations.
    few, many = (
        planned(train=train, world=world, batch=128 * world // small, **how)
        for world in (small, large)
    )
    assert many.peak <= few.peak
    for phase in PHASES:
        assert many.total(phase) <= few.total(phase)


@given(stage=STAGES, train=TRAIN, precision=PRECISIONS, parts=PARTS, device=DEVICES)
def test_recomputing_never_keeps_more(stage, train, precision, parts, device):
    def kept(recompute: set[str]) -> int:
        memory = planned(
            train=train, device=device, zero=stage, precision=precision, recompute=recompute
        )
        return sum(
            line.bytes
            for line in memory.lines
            if line.kind == "activations" and not line.part.startswith("at work")
        )

    assert kept(parts) <= kept(set())
    assert kept(parts | {"llm"}) <= kept(parts)


@given(train=TRAIN, precision=PRECISIONS, world=WORLDS)
def test_higher_stages_keep_no_more_states(train, precision, world):
    found = [
        states(planned(train=train, world=world, zero=zero, precision=precision)) for zero in (2, 3)
    ]
    if world > 1:
        assert found[1] <= found[0]
    # Stage 1 has its gradients in the precision of the weights, and no float32 sum of them.
    first = planned(train=train, world=world, zero=1, precision=precision)
    backward = sum(
        line.bytes
        for line in first.lines
        if line.kind in ("weights", "gradients", "optimizer states") and "backward" in line.phases
    )
    assert world == 1 or backward >= found[1]


@given(stage=STAGES, train=TRAIN, visits=st.sampled_from([1, 2, 4, 8]), device=DEVICES)
def test_larger_micro_batches_never_need_less(stage, train, visits, device):
    one, more = (
        planned(train=train, device=device, zero=stage, micro_batch=micro, batch=256)
        for micro in (visits, 2 * visits)
    )
    for kind in ("activations", "frames"):
        sizes = [
            sum(line.bytes for line in memory.lines if line.kind == kind) for memory in (one, more)
        ]
        assert sizes[0] <= sizes[1]


@given(stage=STAGES, train=TRAIN, device=DEVICES)
def test_the_table_adds_up(stage, train, device):
    memory = planned(checkpoint=VICUNA_13B, train=train, device=device, zero=stage)
    for phase in PHASES:
        assert memory.total(phase) == sum(size for *_, size in memory.table(phase))
        assert memory.total(phase) <= memory.peak
    assert all(line.bytes > 0 for line in memory.lines)


def test_a_process_keeps_what_small_tensors_took():
    """glibc's heap: the gradients' place is not given back before the update."""
    memory = planned(train="full", device="cpu", zero=1)
    small = [line for line in memory.lines if line.tensor < MAPPED]
    assert small
    rows = {part: size for _, part, size in memory.table("update")}
    most = max(sum(x.bytes for x in small if phase in x.phases) for phase in PHASES)
    used = sum(line.bytes for line in small if "update" in line.phases)
    assert rows["freed, kept by the C allocator"] == most - used
    assert rows["freed, kept by the C allocator"] > 0


def test_groups_that_span_micro_batches_keep_their_frames():
    """The others' E waits: launcher/training/contrast.py encodes a step's micro-batches ahead."""

    def waiting(group: int) -> int:
        config = instructblip(
            engine={"micro_batch": 2},
            data={"global_batch": 32, "streams": 8, "contrast_group": group},
        )
        memory = memory_of(fit_world(config).config, XL, "frozen", "cuda")
        return sum(line.bytes for line in memory.lines if "waiting" in line.part)

    assert waiting(2) == 0
    # One other micro-batch of two clips: 32 frames of 257 × 1408, two bytes each.
    assert waiting(4) == 2 * 32 * 257 * 1408 * 2
