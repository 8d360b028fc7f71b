"""What DeepSpeed 0.19 holds on each worker: weights, gradients, optimizer states, buffers.

The states follow Rajbhandari et al. 2020, "ZeRO: Memory Optimizations Toward Training Trillion
Parameter Models" (arXiv 1910.02054, section 3 and figure 1): with mixed-precision Adam a trained
weight has 2 bytes, its gradient 2 or 4, and the optimizer 12 (float32 copy, two moments). Stage 1
cuts the optimizer's part into W, stage 2 the gradients, too, stage 3 the weights. The buffers are
read off ``deepspeed/runtime/zero/stage_1_and_2.py``, ``stage3.py`` and ``partition_parameters.py``,
as the docstrings say; their sizes come from the profiles in ``ds_configs``.

e = bytes of a weight, N = all weights, N_t = the trained ones, W = workers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from ds_configs import load_profile
from launcher.planning.sizes import PARTS, Census, total

Phase = Literal["start", "forward", "backward", "norm", "update"]
PHASES: tuple[Phase, ...] = ("start", "forward", "backward", "norm", "update")
TRAINING: tuple[Phase, ...] = PHASES[1:]

# A linear layer's weight in NF4: 4 bits, and one 8-bit scale for 64 of them (bitsandbytes with
# double quantisation: Dettmers et al. 2023, "QLoRA", section 3, 0.127 bits a weight).
NF4_BYTES = (4 + 0.127) / 8
# DeepSpeed's defaults where a profile does not say: zero/config.py.
MAX_REUSE_DISTANCE = int(1e9)


@dataclass(frozen=True)
class Line:
    """``bytes`` on each worker in some phases of a step. ``tensor``: of the largest single tensor,
    which decides what a C allocator does with it once it is freed. ``host``: offloaded, so in host
    memory though the worker has a GPU."""

    kind: str
    part: str
    bytes: int
    phases: tuple[Phase, ...]
    tensor: int = 0
    host: bool = False


@dataclass(frozen=True)
class Engine:
    """What the states depend on. ``cuda``: on GPUs, where gradients are reduced while
    others are computed and AdamW works on all tensors at once. ``offload``: parts of the states
    that lie in host memory (:mod:`launcher.planning.offload`). ``recompute``: ``engine.recompute``;
    ``own``: settings in place of the profile's."""

    zero: int
    world: int
    element: int
    accumulation: int
    cuda: bool
    offload: tuple[str, ...] = ()
    recompute: tuple[str, ...] = ()
    own: tuple[tuple[str, int], ...] = ()

    @property
    def profile(self) -> dict[str, int]:
        return load_profile(self.zero)["zero_optimization"] | dict(self.own)

    @property
    def accumulates_fp32(self) -> bool:
        """Whether gradients are added up in float32 though the weights are not."""
        return self.element != 4 and "data_types" in load_profile(self.zero)


def state_lines(census: Census, engine: Engine) -> list[Line]:
    """All of it, for one worker that offloads nothing; shares of W are rounded up."""
    lines = [
        *weight_lines(census, engine),
        *optimizer_lines(census, engine),
        *gradient_lines(census, engine),
        *gathered_lines(census, engine),
    ]
    return [line for line in lines if line.bytes]


def gradient_lines(census: Census, engine: Engine) -> list[Line]:
    """Gradients, what they are reduced through, and what the update computes with."""
    by_stage: dict[int, Callable[[Census, Engine], list[Line]]] = {
        1: _gradients_1,
        2: _gradients_2,
        3: _gradients_3,
    }
    return by_stage[engine.zero](census, engine)


def weight_bytes(census: Census, engine: Engine) -> dict[str, int]:
    """Bytes by part: e·N on each worker, e·N/W under stage 3; NF4 ones are never cut."""
    parts = engine.world if engine.zero == 3 else 1
    found = dict.fromkeys(PARTS, 0)
    for weight in census.weights:
        each = NF4_BYTES if weight.quantized else engine.element
        found[weight.part] += round(share(weight.numel, parts) * each)
    return {part: size for part, size in found.items() if size}


def share(numel: int, world: int) -> int:
    """Of elements cut into W, the largest part."""
    return -(-numel // world)


def weight_lines(census: Census, engine: Engine) -> list[Line]:
    """A worker's weights, and under stage 3 the small ones, which it has whole."""
    lines = [
        Line("weights", part, size, PHASES) for part, size in weight_bytes(census, engine).items()
    ]
    if engine.zero == 3:
        # Parameters up to the threshold stay gathered (``mark_persistent_parameters``).
        limit = engine.profile["stage3_param_persistence_threshold"]
        small = total(weight for weight in census.weights if weight.numel <= limit)
        lines.append(Line("ZeRO buffers", "small weights, whole", small * engine.element, PHASES))
    return lines


def optimizer_lines(census: Census, engine: Engine) -> list[Line]:
    """12·N_t/W: the float32 copy, which is made in float32, too (``_create_fp32_partitions`` and
    ``single_partition_of_fp32_groups`` clone), and Adam's two moments, made by the first update."""
    own = share(census.trained, engine.world)
    return [
        Line("optimizer states", "float32 weights", 4 * own, PHASES, 4 * own),
        Line("optimizer states", "Adam's moments", 8 * own, TRAINING, 4 * own),
    ]


def held(engine: Engine) -> tuple[Phase, ...]:
    """When gradients that outlive a backward pass are there: beside the activations of the next
    micro-batch, or only from the backward pass on."""
    return TRAINING if engine.accumulation > 1 else TRAINING[1:]


def bucket_lines(census: Census, engine: Engine, copies: int) -> list[Line]:
    """``copies`` of a reduce bucket, or of the largest gradient where that is larger, and two
    gradients on their way into it."""
    largest = max(weight.numel for weight in census.weights if weight.trained)
    bucket = min(census.trained, max(engine.profile["reduce_bucket_size"], largest))
    e = engine.element
    return [
        Line("ZeRO buffers", "reduce buckets", copies * bucket * e, ("backward",), bucket * e),
        Line("gradients", "on their way", 2 * largest * e, ("backward",), largest * e),
    ]


def _gradients_1(census: Census, engine: Engine) -> list[Line]:
    """Stage 1: all gradients, e·N_t, until the last backward pass of a step; then a worker's own
    N_t/W side by side (``grads_in_partition``, shared by all AdamW groups, so kept until the last
    is updated), and group by group a copy in float32. A bucket is filled, and flattened once more
    for the all-reduce (``allreduce_bucket``)."""
    e, own = engine.element, share(census.trained, engine.world)
    until: tuple[Phase, ...] = ("forward", "backward") if engine.accumulation > 1 else ("backward",)
    largest = max(weight.numel for weight in census.weights if weight.trained)
    return [
        Line("gradients", "all, added up", e * census.trained, until, e * largest),
        Line("gradients", "own share, side by side", e * own, TRAINING[1:], e * own),
        *bucket_lines(census, engine, 3 if engine.cuda else 2)[:1],
        *_update(census, engine),
    ]


def _gradients_2(census: Census, engine: Engine) -> list[Line]:
    """Stage 2: a worker's own gradients, added up in float32, 4·N_t/W
    (``_build_compact_grad_partition_buffer``), and used by the update as they are. In float32 they
    are first laid side by side, over several micro-batches also summed, and copied flat."""
    own = 4 * share(census.trained, engine.world)
    lines = [Line("gradients", "own share, float32", own, held(engine), own)]
    lines += bucket_lines(census, engine, 3 if engine.cuda else 2)
    if engine.accumulates_fp32:
        return [*lines, *_update(census, engine, copied=False)]
    if engine.accumulation > 1:
        lines.append(Line("gradients", "of the last micro-batch", own, TRAINING[1:], own))
    return [*lines, *_update(census, engine)]


def _gradients_3(census: Census, engine: Engine) -> list[Line]:
    """Stage 3: 4·N_t/W for good (``grad_partitions_flat_buffer``) and one bucket for good, put
    together once more for each reduce-scatter (``reduce_scatter_coalesced``)."""
    own = 4 * share(census.trained, engine.world)
    bucket = engine.profile["reduce_bucket_size"] * engine.element
    return [
        Line("gradients", "own share, float32", own, TRAINING, own),
        Line("ZeRO buffers", "reduce bucket", bucket, PHASES, bucket),
        *bucket_lines(census, engine, 1),
        *_update(census, engine),
    ]


def _update(census: Census, engine: Engine, *, copied: bool = True) -> list[Line]:
    """The step, AdamW group after group. First each gradient's norm in float64; then the largest
    group's gradients in float32. AdamW itself, torch's fused one, needs no more."""
    largest = max(total(group) for group in census.groups.values())
    own = share(largest, engine.world)
    one = max(weight.numel for weight in census.weights if weight.trained)
    one = share(one, engine.world) if engine.zero == 3 else min(one, own)
    lines = [Line("update", "norm of a gradient, float64", 8 * one, ("norm",), 8 * one)]
    if copied:
        name = "largest group's gradients, float32"
        lines.append(Line("update", name, 4 * own, ("update",), 4 * own))
    return lines


def gathered_lines(census: Census, engine: Engine) -> list[Line]:
    """Stage 3's whole weights in use. From the third step on a weight that is used again within
    ``stage3_max_reuse_distance`` elements is not let go (``__params_to_release``): those within
    half of it from where the pass turns back. To this come what is fetched ahead and the largest
    module, both also once as they arrive (``all_gather_coalesced``: a flat tensor, then copies)."""
    if engine.zero != 3:
        return []
    profile = engine.profile
    reuse = profile.get("stage3_max_reuse_distance", MAX_REUSE_DISTANCE) // 2
    arriving = min(profile["stage3_prefetch_bucket_size"] + census.largest_module, census.total)
    live = min(census.total, reuse + arriving)
    phases: tuple[Phase, ...] = ("forward", "backward")
    size = census.largest_module * engine.element
    return [
        Line("ZeRO buffers", "gathered weights", live * engine.element, phases, size),
        Line("ZeRO buffers", "arriving weights", arriving * engine.element, phases, size),
    ]
