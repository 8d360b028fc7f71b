"""How long a step should take: what is computed at a share of the GPU's peak, what is sent at a
bandwidth, one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from launcher.planning.flops import Flops
from launcher.planning.links import NCCL, Cluster, Way, wire_seconds
from launcher.planning.sizes import Census
from launcher.planning.states import Engine, share, weight_bytes
from launcher.planning.traffic import ENCODERS, Collective, traffic

# Peak of an H100 SXM in bf16 without sparsity (NVIDIA's data sheet), 10^12 FLOPs a second.
H100_TFLOPS = 989.0
# Of the same: NVLink in one direction, and one 400 Gbit/s network card a GPU, 10^9 bytes a second.
NVLINK = 450.0
NETWORK = 50.0
# A GPU's link to its host: half of PCIe 5.0 with 16 lanes (63 GB/s), which is also what PCIe 4.0
# gives; pinned memory is copied at most of that.
PCIE = 25.0
# Bytes a second that AdamW on the host moves for one worker: stated, for eight workers share a
# machine's memory. One worker on a busy machine of two cores had 14 to 19 GB/s (docs/training.md).
HOST_ADAM = 10e9
# What a machine reads of its data, bytes a second: stated, a shared file system's or one SSD's.
READ = 1e9
# And what it writes of a checkpoint: stated, likewise.
WRITE = 1e9


@dataclass(frozen=True)
class Hardware:
    """One GPU and what joins it to others. ``memory``: bytes; ``mfu``: the share of ``tflops`` that
    computing reaches, sending not included; bandwidths in 10^9 bytes a second and GPU, ``pcie``
    that to its host. ``read``, ``write``: bytes a second of a machine, its data and its part of a
    checkpoint. ``ways``: how collectives may run."""

    memory: float
    tflops: float = H100_TFLOPS
    mfu: float = 0.4
    nvlink: float = NVLINK
    network: float = NETWORK
    pcie: float = PCIE
    read: float = READ
    write: float = WRITE
    ways: tuple[Way, ...] = NCCL


@dataclass(frozen=True)
class StepTime:
    """Seconds of an optimizer step. Nothing is taken to overlap, so it is an upper bound where
    the engine sends and computes at the same time. ``copying`` and ``updating``: what is offloaded,
    between a GPU and its host, and AdamW there. ``delays``: of ``communication`` what would be left
    if nothing were in the messages; ``collectives``: what is sent."""

    compute: float
    communication: float
    pairs: float
    flops: float
    bytes_sent: float
    copying: float = 0.0
    updating: float = 0.0
    bytes_copied: float = 0.0
    delays: float = 0.0
    collectives: tuple[Collective, ...] = ()

    @property
    def seconds(self) -> float:
        return self.compute + self.communication + self.copying + self.updating


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
    collectives = traffic(census, engine)
    sent = sum(each.sent(engine.world) for each in collectives)
    cluster = Cluster(engine.world, nodes, _ring(hardware, engine.world, nodes), hardware.ways)
    communication = wire_seconds(collectives, cluster)
    copied = bytes_copied(census, engine)
    return StepTime(
        compute=compute,
        communication=communication,
        pairs=pairs,
        flops=whole,
        bytes_sent=sent,
        copying=copied / (hardware.pcie * 1e9),
        updating=bytes_updated(census, engine) / HOST_ADAM,
        bytes_copied=copied,
        delays=communication - sent / cluster.bandwidth,
        collectives=tuple(collectives),
    )


def _ring(hardware: Hardware, world: int, nodes: int) -> float:
    """Bytes a second of a ring through all workers. It crosses each machine's border once, over
    all its network cards together."""
    speed = hardware.nvlink
    if nodes > 1:
        speed = min(speed, hardware.network * world / nodes)
    return speed * 1e9


def bytes_copied(census: Census, engine: Engine) -> float:
    """Bytes between a GPU and its host in a step, for what is offloaded
    (``deepspeed/runtime/zero``).

    Optimizer: a worker's gradients go there in float32 and its new weights come back; under stage 3
    the sum of gradients goes to and fro with every micro-batch, in float32 with stage 2 likewise
    (but not back for the first). Weights: its slices come with every gathering, and new ones stay.
    """
    own = share(census.trained, engine.world)
    copied = 0
    if "optimizer" in engine.offload:
        sums = 0
        if engine.zero == 3:
            sums = 2 * engine.accumulation
        elif engine.zero == 2 and engine.element == 4 and engine.accumulation > 1:
            sums = 2 * engine.accumulation - 1
        copied += 4 * (sums + 1) * own
        if "weights" not in engine.offload:
            copied += engine.element * own
    elif "weights" in engine.offload:
        copied += engine.element * own
    if "weights" in engine.offload:
        copied += engine.accumulation * share(_gathered(census, engine), engine.world)
    return float(copied) if engine.cuda else 0.0


def _gathered(census: Census, engine: Engine) -> int:
    """At most: bytes of all weights for the forward pass, and of those that gradients reach for the
    other one."""
    whole = weight_bytes(census, Engine(1, 1, engine.element, 1, engine.cuda))
    return sum(size for part, size in whole.items() for _ in range(1 if part in ENCODERS else 2))


def bytes_updated(census: Census, engine: Engine) -> float:
    """Bytes that AdamW on the host reads and writes in a step: of each weight four floats read
    (weight, gradient, moments), and three written."""
    if "optimizer" not in engine.offload or not engine.cuda:
        return 0.0
    return 28.0 * share(census.trained, engine.world)
