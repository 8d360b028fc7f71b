"""Whether the memory of Pods, their /dev/shm and their GPUs is enough, by the plan's sums."""

from __future__ import annotations

import re
from collections.abc import Iterator

from launcher.k8s.objects import Group
from launcher.k8s.quantities import gibibytes, shown
from launcher.k8s.sizing import Worker, limit_for, pod_needs, shm_needs, sum_of, total

# Of the GPUs that most are planned on; a product's name that says more is believed.
GPU_MEMORY = 80.0


def shared_memory_problems(group: Group, worker: Worker) -> Iterator[str]:
    if group.shm is None:
        yield f"{group.name}: /dev/shm is no emptyDir of medium Memory with a sizeLimit; mount one"
        return
    if group.object_store is None:
        yield (
            f"{group.name}: object-store-memory is not stated, and Ray takes 30 % of the memory; "
            "state it in rayStartParams"
        )
        return
    needs = shm_needs(worker.device, group.slots, group.object_store)
    if total(needs) > group.shm:
        yield (
            f"{group.name}: /dev/shm of {shown(group.shm)} is less than {shown(total(needs))} "
            f"({sum_of(needs)}); use {gibibytes(total(needs))}"
        )


def memory_problems(group: Group, worker: Worker) -> Iterator[str]:
    if group.shm is None:
        return
    needs = pod_needs(worker, group.slots, group.shm, head=group.is_head)
    if total(needs) > group.memory:
        yield (
            f"{group.name}: memory of {shown(group.memory)} is less than {shown(total(needs))} "
            f"({sum_of(needs)}); use {gibibytes(limit_for(needs))}"
        )


def gpu_problems(group: Group, worker: Worker, gpu_memory: float | None) -> Iterator[str]:
    if worker.device != "cuda" or not group.slots:
        return
    product = group.pod.get("nodeSelector", {}).get("nvidia.com/gpu.product", "")
    named = re.search(r"(\d+)GB", product)
    line = gpu_line(worker, gpu_memory or (float(named[1]) if named else GPU_MEMORY))
    if line is not None:
        yield line


def gpu_line(worker: Worker, limit: float) -> str | None:
    """That a planned worker is too large for a GPU of so many 10^9 bytes."""
    if worker.device != "cuda" or worker.memory.peak <= limit * 1e9:
        return None
    world = worker.config.world_size
    return (
        f"engine.micro_batch = {worker.config.engine.micro_batch}: a worker of {world} needs "
        f"{worker.memory.peak / 1e9:.1f} GB of its GPU's {limit:g} GB at its peak "
        f"({worker.memory.peak_phase}); `gcg plan --gpus {world}` lists what fits"
    )
