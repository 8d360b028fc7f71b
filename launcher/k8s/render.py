"""A kustomization of one's own, filled from a run file: replicas, GPUs, memory, names, image."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

from launcher.config import dump
from launcher.errors import UserError
from launcher.k8s.agreement import disagreements
from launcher.k8s.objects import kustomize_command, read_objects, run_objects, write_yaml
from launcher.k8s.parts import copy_parts
from launcher.k8s.quantities import GIB, gibibytes, shown
from launcher.k8s.rules_life import STOP_WAIT
from launcher.k8s.rules_memory import GPU_MEMORY, gpu_line
from launcher.k8s.sizing import (
    OBJECT_STORE,
    Need,
    Worker,
    limit_for,
    plan_worker,
    pod_needs,
    shm_needs,
    sum_of,
    total,
)
from launcher.k8s.wish import Wish, check_wish

# CPUs of a worker's Pod beside those of its ranks: Ray's daemons.
_DAEMON_CPUS = 2
_MARK = "# Written by `gcg k8s render`; writing it again replaces the whole folder."
_GROUP = "/spec/rayClusterSpec/workerGroupSpecs/0"
_POD = f"{_GROUP}/template/spec"
_HEAD_POD = "/spec/rayClusterSpec/headGroupSpec/template/spec"
# Where a run's Pods are told from those of others by the label `instance`: kind, group, path.
_PODS = "spec/rayClusterSpec/workerGroupSpecs/template/spec"
_NEAR = "affinity/podAffinity/preferredDuringSchedulingIgnoredDuringExecution/podAffinityTerm"
# Seconds that a stopped job, and the head's Pod, have beyond safety.grace_s.
_STOP_EXTRA, _POD_EXTRA = 30, 60
# Where the base has the environment's RAY_JOB_STOP_WAIT_TIME_S.
_STOP_ENV = f"{_HEAD_POD}/containers/0/env/5"
_INSTANCE_FIELDS = [
    ("RayJob", "ray.io", "spec/rayClusterSpec/headGroupSpec/template/metadata/labels"),
    ("RayJob", "ray.io", "spec/rayClusterSpec/workerGroupSpecs/template/metadata/labels"),
    ("RayJob", "ray.io", f"{_PODS}/topologySpreadConstraints/labelSelector/matchLabels"),
    ("RayJob", "ray.io", f"{_PODS}/{_NEAR}/labelSelector/matchLabels"),
    ("RayJob", "ray.io", "spec/submitterPodTemplate/metadata/labels"),
    ("PodDisruptionBudget", "policy", "spec/selector/matchLabels"),
    ("NetworkPolicy", "networking.k8s.io", "spec/podSelector/matchLabels"),
    ("NetworkPolicy", "networking.k8s.io", "spec/ingress/from/podSelector/matchLabels"),
    ("NetworkPolicy", "networking.k8s.io", "spec/egress/to/podSelector/matchLabels"),
    ("PodMonitor", "monitoring.coreos.com", "spec/selector/matchLabels"),
]


def render(wish: Wish, parts: Path, out: Path, gpu_memory: float | None = None) -> list[str]:
    """Write ``out``, a folder for `kubectl apply -k`; all or nothing.

    Args:
        gpu_memory: of a GPU, 10^9 bytes.

    Returns:
        Lines that say what it is.

    Raises:
        UserError: the wish cannot be had, or what came of it does not agree.
    """
    check_wish(wish, parts)
    _check_out(out)
    worker = plan_worker(wish.config)
    shm = total(shm_needs(worker.device, wish.per_node))
    shm = -int(-shm // GIB) * GIB
    needs = pod_needs(worker, wish.per_node, shm, head=False)
    _check_node(wish, needs)
    _check_gpu(worker, gpu_memory)
    new = out.with_name(f".{out.name}.new")
    shutil.rmtree(new, ignore_errors=True)
    try:
        _write(wish, parts, new, _sizes(wish, worker, shm, limit_for(needs)))
        checked = _check(new, gpu_memory)
        shutil.rmtree(out, ignore_errors=True)
        new.rename(out)
    except OSError as error:
        raise UserError(
            f"--out {out}: {error.strerror or error}; name a folder that can be written"
        ) from None
    finally:
        shutil.rmtree(new, ignore_errors=True)
    return [
        f"{out}: {wish.nodes} Pods of {wish.per_node} workers, global batch "
        f"{wish.config.data.global_batch} = {wish.config.engine.micro_batch} (micro-batch) x "
        f"{wish.config.accumulation} (accumulation) x {wish.config.world_size} (workers)",
        f"memory of a Pod {gibibytes(limit_for(needs))}: {sum_of(needs)}, and a tenth",
        checked,
        f"next: kubectl apply -k {out}",
    ]


def _check_out(out: Path) -> None:
    if not out.exists():
        return
    try:
        ours = (out / "kustomization.yaml").read_text(encoding="utf-8").startswith(_MARK)
    except (OSError, UnicodeDecodeError):
        ours = out.is_dir() and not any(out.iterdir())
    if not ours:
        raise UserError(f"--out {out}: is there, and not written by this command; name another")


def _check_node(wish: Wish, needs: list[Need]) -> None:
    found = []
    memory, cpus = limit_for(needs), _cpus(wish)
    if wish.node_memory is not None and memory > wish.node_memory:
        found.append(
            f"--node-memory {wish.node_memory / GIB:g}: a Pod needs {shown(memory)} "
            f"({sum_of(needs)}, and a tenth); take more nodes with fewer workers each, or lower "
            "data.decode_threads, data.prefetch_steps or engine.micro_batch"
        )
    if wish.node_cpus is not None and cpus > wish.node_cpus:
        found.append(
            f"--node-cpus {wish.node_cpus:g}: a Pod needs {cpus}, {wish.per_node} workers of "
            f"scale.cpus_per_worker = {wish.config.scale.cpus_per_worker} and {_DAEMON_CPUS} for "
            "Ray; lower it"
        )
    if found:
        raise UserError(found)


def _check_gpu(worker: Worker, gpu_memory: float | None) -> None:
    line = gpu_line(worker, gpu_memory or GPU_MEMORY)
    if line is not None:
        raise UserError(line)


def _cpus(wish: Wish) -> int:
    return wish.per_node * wish.config.scale.cpus_per_worker + _DAEMON_CPUS


def _sizes(wish: Wish, worker: Worker, shm: int, memory: int) -> list[dict[str, Any]]:
    """The patch that gives the worker Pods their number and sizes."""
    scale = wish.config.scale
    least = -(-scale.bounds[0] // wish.per_node)
    amounts = {"cpu": str(_cpus(wish)), "memory": gibibytes(memory)}
    if scale.use_gpu:
        amounts["nvidia.com~1gpu"] = str(wish.gpus_per_node)
    values: dict[str, Any] = {
        f"{_GROUP}/replicas": wish.nodes,
        f"{_GROUP}/minReplicas": least if scale.is_elastic else wish.nodes,
        f"{_GROUP}/maxReplicas": wish.nodes,
        f"{_GROUP}/rayStartParams/num-cpus": str(wish.per_node * scale.cpus_per_worker),
        f"{_GROUP}/rayStartParams/object-store-memory": str(OBJECT_STORE[worker.device]),
        f"{_POD}/volumes/4/emptyDir/sizeLimit": gibibytes(shm),
    }
    for name, amount in amounts.items():
        for kind in ("requests", "limits"):
            values[f"{_POD}/containers/0/resources/{kind}/{name}"] = amount
    if wish.gpu_product is not None:
        values[f"{_POD}/nodeSelector/nvidia.com~1gpu.product"] = wish.gpu_product
    if wish.claim is not None:
        for pod in (_HEAD_POD, _POD):
            values[f"{pod}/volumes/1/persistentVolumeClaim/claimName"] = wish.claim
    grace = math.ceil(wish.config.safety.grace_s)
    values[f"{_STOP_ENV}/value"] = str(grace + _STOP_EXTRA)
    values[f"{_HEAD_POD}/terminationGracePeriodSeconds"] = grace + _POD_EXTRA
    guard = {"op": "test", "path": f"{_STOP_ENV}/name", "value": STOP_WAIT}
    return [guard, *({"op": "add", "path": at, "value": value} for at, value in values.items())]


def _write(wish: Wish, parts: Path, out: Path, sizes: list[dict[str, Any]]) -> None:
    copy_parts(parts, wish.components, out / "parts")
    # Of its own, since kustomize lays components over what stands beside them.
    whole = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": ["base"],
        "components": [f"components/{name}" for name in wish.components],
    }
    (out / "parts" / "kustomization.yaml").write_text(write_yaml(whole), encoding="utf-8")
    (out / "run.yaml").write_text(dump(wish.config), encoding="utf-8")
    (out / "sizes.yaml").write_text(write_yaml(sizes), encoding="utf-8")
    text = f"{_MARK}\n{write_yaml(_kustomization(wish))}"
    (out / "kustomization.yaml").write_text(text, encoding="utf-8")


def _kustomization(wish: Wish) -> dict[str, Any]:
    name, _, digest = wish.image.partition("@")
    budget = [{"op": "replace", "path": "/spec/minAvailable", "value": wish.nodes - 1}]
    patches: list[dict[str, Any]] = [
        {"path": "sizes.yaml", "target": {"group": "ray.io", "kind": "RayJob"}},
        {
            "target": {"kind": "PodDisruptionBudget", "name": "gcg-train-workers"},
            "patch": write_yaml(budget),
        },
    ]
    if wish.claim is not None:  # one that is there already
        claim = {"kind": "PersistentVolumeClaim", "metadata": {"name": "gcg-storage"}}
        delete = {"$patch": "delete", "apiVersion": "v1", **claim}
        patches.append({"patch": write_yaml(delete)})
    return {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        **({"namespace": wish.namespace} if wish.namespace else {}),
        "namePrefix": f"{wish.name}-",
        "resources": ["parts"],
        # Replaced as a whole: the run file says all, components lay nothing over it.
        "configMapGenerator": [
            {"name": "gcg-run", "behavior": "replace", "files": ["run.yaml"]},
        ],
        "labels": [
            {
                "pairs": {"app.kubernetes.io/instance": wish.name},
                "fields": [
                    {"kind": kind, "group": group, "path": path}
                    for kind, group, path in _INSTANCE_FIELDS
                ],
            }
        ],
        "images": [{"name": "gcg-train", "newName": name, "digest": digest}],
        "patches": patches,
    }


def _check(folder: Path, gpu_memory: float | None) -> str:
    if kustomize_command() is None:
        return "not checked: neither kubectl nor kustomize is installed here; use `gcg k8s check`"
    found = disagreements(run_objects(read_objects(str(folder))), gpu_memory)
    if found:
        raise UserError(found)
    return "checked: workers, memory, /dev/shm, storage and budgets agree with the run file"
