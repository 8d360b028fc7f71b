"""What the Pods of a run need: memory, /dev/shm and CPUs, line by line.

`gcg plan` plans a worker's share of one device. A Pod has a limit for all that its processes hold
on the host: of each of its ranks what the plan says (on a GPU: what stays on the host), what a
checkpoint in the background copies, Ray's daemons, and /dev/shm, which is memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from launcher.config import RunConfig
from launcher.k8s.quantities import GIB, MIB
from launcher.planning import QUESTION_TOKENS, describe_model
from launcher.planning.memory import (
    HOST_PROCESS,
    Device,
    Memory,
    decoding,
    snapshot,
    worker_memory,
)
from launcher.planning.shapes import CLIP_SIZE, MicroBatch, ModelShape, micro_batch
from launcher.planning.sizes import Census

# Ray's processes on a node: raylet, agents, log monitor; on the head also store, dashboard and job
# server. Resident sizes of an idle head were measured (1.8 GiB); a worker's are stated.
HEAD_DAEMONS = 2 * GIB
WORKER_DAEMONS = 1 * GIB
# The command and Ray Train's controller, on the head; stated.
DRIVER = 3 * GIB // 2
# What Ray adds to a worker's process; stated.
RAY_WORKER = 300 * MIB
# A worker on a GPU: CUDA's and NCCL's libraries and buffers on the host; stated.
CUDA_HOST = 3 * GIB
# Elements of a weight on their way from its file (gcg.skeleton.CHUNK), as float32.
READING = 4 * 2**23
# Share of a Pod's memory for what is not counted, and for the cache of files.
SLACK = 0.1

# Ray's object store; workers exchange tensors by NCCL or gloo, it only carries the run file.
OBJECT_STORE = {"cpu": 256 * MIB, "cuda": 1 * GIB}
# Of /dev/shm for each local rank: what DeepSpeed's CPU all-reduce maps (two buffers of 1 and of
# 32 MiB); NCCL's segments between the GPUs of a node, stated.
RANK_SHM = {"cpu": (2 * 1 + 2 * 32) * MIB, "cuda": 1 * GIB}


@dataclass(frozen=True)
class Need:
    """``bytes`` of something, and what it is."""

    what: str
    bytes: int


@dataclass(frozen=True)
class Worker:
    """A planned worker: its model and micro-batch, and its memory on its device."""

    config: RunConfig
    census: Census
    model: ModelShape
    batch: MicroBatch
    device: Device
    memory: Memory


def plan_worker(config: RunConfig) -> Worker:
    """A worker of the run at its least number of workers: under ZeRO a share is then largest.

    Raises:
        UserError: the model cannot be built, or its sizes are not to be had.
    """
    return _planned(config)  # type: ignore[arg-type]  # a frozen model has a hash


# Rendering and checking ask for the same one.
@lru_cache(maxsize=4)
def _planned(config: RunConfig) -> Worker:
    config = config.at_world_size(config.world_sizes[0])
    model, census = describe_model(config)
    tokens = min(QUESTION_TOKENS, model.text_context)
    batch = micro_batch(config, model, config.engine.micro_batch, tokens, CLIP_SIZE)
    device: Device = "cuda" if config.scale.use_gpu else "cpu"
    memory = worker_memory(config, census, model, batch, device)
    return Worker(config, census, model, batch, device, memory)


def rank_needs(worker: Worker) -> list[Need]:
    """Memory of the host for one rank."""
    config = worker.config
    if worker.device == "cpu":
        needs = [Need("its peak, as planned", worker.memory.peak)]
    else:
        needs = [
            Need("Python, torch, DeepSpeed", HOST_PROCESS),
            Need("CUDA and NCCL on the host", CUDA_HOST),
            Need("weights on their way", READING),
            *_frames(worker),
        ]
        if worker.memory.host:
            needs.append(Need("what is offloaded", worker.memory.host_peak))
    needs.append(Need("Ray's worker", RAY_WORKER))
    if config.checkpoint.in_background:
        needs.append(Need("the checkpoint being written", snapshot(config, worker.census)))
    return needs


def _frames(worker: Worker) -> list[Need]:
    """Steps held ready and decoders; with features nothing is decoded."""
    config = worker.config
    if worker.model.features:
        host = worker_memory(config, worker.census, worker.model, worker.batch, "cpu")
        lines = [line for line in host.lines if line.kind == "frames"]
    else:
        lines = decoding(config, worker.model, worker.batch, config.accumulation)
    return [Need(line.part, line.bytes) for line in lines]


def shm_needs(device: Device, ranks: int, object_store: float | None = None) -> list[Need]:
    """What lies in /dev/shm of a Pod with so many ranks."""
    store = OBJECT_STORE[device] if object_store is None else round(object_store)
    needs = [Need("Ray's object store", store)]
    if ranks:
        needs.append(Need(f"{ranks} ranks", ranks * RANK_SHM[device]))
    return needs


def pod_needs(worker: Worker, ranks: int, shm: float, *, head: bool) -> list[Need]:
    """What a Pod's memory limit must cover: ``shm`` is its /dev/shm's size."""
    needs = [Need("Ray's daemons", HEAD_DAEMONS if head else WORKER_DAEMONS)]
    if head:
        needs.append(Need("driver and controller", DRIVER))
    if ranks:
        each = total(rank_needs(worker))
        needs.append(Need(f"{ranks} ranks of {each / GIB:.2f} GiB", ranks * each))
    return [*needs, Need("/dev/shm", round(shm))]


def total(needs: Sequence[Need]) -> int:
    return sum(need.bytes for need in needs)


def limit_for(needs: Sequence[Need]) -> int:
    """A memory limit with slack, in whole GiB as bytes."""
    return -int(-total(needs) * (1 + SLACK) // GIB) * GIB


def sum_of(needs: Sequence[Need]) -> str:
    """The needs in words, ``a 1.0 + b 2.0``, in GiB."""
    return " + ".join(f"{need.what} {need.bytes / GIB:.1f}" for need in needs)
