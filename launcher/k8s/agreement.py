"""What must agree between a run file and the Pods that it shall run in: a line for what does not.

Each of these is accepted by a cluster, and found out hours later: a run that waits for ever for a
GPU, is killed for its memory at the first checkpoint, or begins anew after its first restart.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from launcher.k8s.objects import RunObjects
from launcher.k8s.rules_life import budget_problems, life_problems
from launcher.k8s.rules_memory import gpu_problems, memory_problems, shared_memory_problems
from launcher.k8s.rules_places import place_problems, scratch_problems
from launcher.k8s.sizing import plan_worker

_DIGEST = re.compile(r"[^@\s]+@sha256:[0-9a-f]{64}")


def disagreements(run: RunObjects, gpu_memory: float | None = None) -> list[str]:
    """Everything about a run that does not agree; empty if all does.

    Args:
        gpu_memory: of a GPU, 10^9 bytes; by default what the Pods' nodeSelector says, else 80.

    Raises:
        UserError: the model cannot be planned.
    """
    found = [
        *_world(run),
        *_elastic(run),
        *_images(run),
        *place_problems(run),
        *life_problems(run),
        *budget_problems(run),
    ]
    worker = plan_worker(run.config)
    found += scratch_problems(run, worker)
    for group in run.groups:
        found += shared_memory_problems(group, worker)
        found += memory_problems(group, worker)
        found += gpu_problems(group, worker, gpu_memory)
    return found


def _world(run: RunObjects) -> Iterator[str]:
    """As many workers as there is room for: Ray waits for ever for more, and others stay idle."""
    config = run.config
    room = sum(group.replicas * group.slots for group in run.groups)
    most = config.scale.bounds[1]
    parts = " + ".join(f"{g.replicas} x {g.slots} ({g.name})" for g in run.workers) or "none"
    if room != most:
        each = run.workers[0].slots if run.workers else 0
        nodes = f"replicas {most // each} of {each} each" if each and most % each == 0 else "Pods"
        yield (
            f"scale.num_workers = {most}: the Pods have room for {room}, {parts}, by CPUs"
            f"{' and GPUs' if config.scale.use_gpu else ''}; use scale.num_workers={room}, or "
            f"{nodes} for it"
        )
    for group in run.groups:
        if config.scale.use_gpu and group.gpus > group.slots:
            yield (
                f"{group.name}: {group.gpus} GPUs, but CPUs for {group.slots} workers of "
                f"scale.cpus_per_worker = {config.scale.cpus_per_worker}; ask for more CPUs, or "
                "lower it"
            )
        if not config.scale.use_gpu and group.gpus:
            yield (
                f"{group.name}: {group.gpus} GPUs, and scale.use_gpu = false leaves them idle; set "
                "it, or ask for none"
            )


def _elastic(run: RunObjects) -> Iterator[str]:
    config = run.config
    for group in run.workers:
        if not config.scale.is_elastic and group.least != group.replicas:
            yield (
                f"{group.name}: minReplicas {group.least} of {group.replicas}, but "
                f"scale.num_workers = {config.scale.num_workers} is fixed, so it waits for all; "
                "use [least, most], or as many minReplicas"
            )
    if not config.scale.is_elastic:
        return
    groups = [group for group in run.workers if not group.is_head]
    least = config.world_sizes[0]
    lost = sum(g.replicas * g.slots for g in groups) - max((g.slots for g in groups), default=0)
    if least > lost:
        yield (
            f"scale.num_workers = {list(config.scale.bounds)}: with one Pod lost there is room for "
            f"{lost}, less than its least; lower that, or take more and smaller Pods"
        )


def _images(run: RunObjects) -> Iterator[str]:
    images = {group.ray["image"] for group in run.groups}
    template = run.job["spec"].get("submitterPodTemplate", {}).get("spec", {})
    images |= {container["image"] for container in template.get("containers", [])}
    for image in sorted(images):
        if not _DIGEST.fullmatch(image):
            yield (
                f"image = {image}: is not named by digest, so that a retry may run another one; "
                "use name@sha256:…"
            )
    if len(images) > 1:
        yield f"image: Pods of one run have {len(images)} different ones; use one"
