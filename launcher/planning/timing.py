"""How long a step should take: what is computed at a share of the GPU's peak, what is sent at a
bandwidth, one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from launcher.planning.flops import Flops
from launcher.planning.sizes import Census
from launcher.planning.states import Engine, weight_bytes

# Peak of an H100 SXM in bf16 without sparsity (NVIDIA's data sheet), 10^12 FLOPs a second.
H100_TFLOPS = 989.0
# Of the same: NVLink in one direction, and one 400 Gbit/s network card a GPU, 10^9 bytes a second.
NVLINK = 450.0
NETWORK = 50.0
# What a machine reads of its data, bytes a second: stated, a shared file system's or one SSD's.
READ = 1e9
# Parts that no gradient reaches: their weights are gathered for the forward pass alone.
_NO_GRADIENT = ("vision trunk", "joint head", "text tower")


@dataclass(frozen=True)
class Hardware:
    """One GPU and what joins it to others. ``memory``: bytes; ``mfu``: the share of ``tflops`` that
    computing reaches, sending not included; bandwidths in 10^9 bytes a second and GPU. ``read``:
    bytes a second that a machine reads of its data."""

    memory: float
    tflops: float = H100_TFLOPS
    mfu: float = 0.4
    nvlink: float = NVLINK
    network: float = NETWORK
    read: float = READ


@dataclass(frozen=True)
class StepTime:
    """Seconds of an optimizer step. Nothing is taken to overlap, so it is an upper bound where
    the engine sends and computes at the same time."""

    compute: float
    communication: float
    pairs: float
    flops: float
    bytes_sent: float

    @property
    def seconds(self) -> float:
        return self.compute + self.communication


def step_time(
    flops: Sequence[Flops],
    census: Census,
    engine: Engine,
    hardware: Hardware,
    pairs: float,
    nodes: int,
) -> StepTime:
    """The expected time of one step.

    Args:
        flops: of one pair.
        pairs: of a global batch.
        nodes: machines that the workers are spread over.
    """
    whole = pairs * sum(part.total for part in flops)
    per_gpu = whole / engine.world
    compute = per_gpu / (hardware.tflops * 1e12 * hardware.mfu)
    sent = bytes_sent(census, engine)
    speed = hardware.nvlink
    if nodes > 1:
        # A ring crosses each machine's border once, over all its network cards together.
        speed = min(speed, hardware.network * engine.world / nodes)
    return StepTime(compute, sent / (speed * 1e9), pairs, whole, sent)


def bytes_sent(census: Census, engine: Engine) -> float:
    """Bytes that a worker sends in a step, in rings: (W - 1)/W of what is gathered or scattered,
    twice that of what is all-reduced (Rajbhandari et al. 2020, section 7).

    Stage 1 all-reduces the gradients once a step, stage 2 with every micro-batch (DeepSpeed's
    ``allreduce_and_scatter``), and both gather the new weights. Stage 3 with every micro-batch
    gathers all weights for the forward pass and those that gradients reach for the backward pass,
    and scatters the gradients.
    """
    ring = (engine.world - 1) / engine.world
    trained = census.trained * engine.element
    if engine.zero == 1:
        return ring * 3 * trained
    if engine.zero == 2:
        return ring * (2 * engine.accumulation + 1) * trained
    whole = weight_bytes(census, Engine(1, 1, engine.element, 1, engine.cuda))
    forward = sum(whole.values())
    backward = forward - sum(whole.get(part, 0) for part in _NO_GRADIENT)
    return ring * engine.accumulation * (forward + backward + trained)
