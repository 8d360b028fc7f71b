"""Everything we ask of a rendered kustomization, as one list of complaints.

Kubernetes' own rules first (schemas, CRDs, the operator, Pod Security), then this project's: what
must be written down, and which names must meet.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import kubernetes_validate

from . import crd, operator_rules, pods
from .manifests import Manifest, one

# The oldest Kubernetes still supported when this was written, and a recent one.
KUBERNETES_VERSIONS = ("1.32", "1.35")
MIB = 2**20
# DeepSpeed's CPU all-reduce maps this much of /dev/shm for each local rank.
ALLREDUCE_BYTES = (2 * 1 + 2 * 32) * MIB
_UNITS = {"m": 1e-3, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "k": 1e3, "M": 1e6}


def problems(docs: list[Manifest], crds: crd.Crds | None) -> list[str]:
    """Complaints about a whole kustomization. `crds` None leaves the RayJob's CRD out."""
    found = []
    for doc in docs:
        if doc["kind"] != "RayJob":
            found += builtin_problems(doc)
    job = one(docs, "RayJob")
    if crds is not None and (wrong := crd.problems(job, crds)):
        return found + wrong  # the checks below may stumble over what has no right shape
    found += operator_rules.problems(job)
    for pod in pods.render(job):
        found += builtin_problems(pod)
        found += pods.mount_problems(pod)
        found += pods.restricted_problems(pod)
        found += house_problems(pod)
        found += reference_problems(pod, docs)
    found += job_problems(job, docs)
    found += shared_memory_problems(job)
    return found


def builtin_problems(doc: Manifest) -> list[str]:
    """A built-in object against Kubernetes' own schemas, undeclared fields refused."""
    found = []
    for version in KUBERNETES_VERSIONS:
        try:
            kubernetes_validate.validate(doc, version, strict=True)
        except kubernetes_validate.ValidationError as error:
            where = "".join(f"/{part}" for part in error.path)
            found.append(f"{doc['metadata']['name']}{where}: {error.message} (v{version})")
    return found


def house_problems(pod: pods.Pod) -> Iterator[str]:
    """Ours, beyond `restricted`: nothing is left to a default that a cluster may change."""
    name, spec = pod["metadata"]["name"], pod["spec"]
    if spec.get("automountServiceAccountToken") is not False:
        yield f"{name}: mounts a service account token"
    volumes = {volume["name"]: volume for volume in spec.get("volumes", [])}
    for volume in volumes.values():
        if "emptyDir" in volume and "sizeLimit" not in volume["emptyDir"]:
            yield f"{name}: emptyDir {volume['name']!r} has no sizeLimit"
    for container in pods.containers(pod):
        where = f"{name}/{container['name']}"
        if container.get("securityContext", {}).get("readOnlyRootFilesystem") is not True:
            yield f"{where}: its root file system is writable"
        yield from _resource_problems(where, container.get("resources", {}))
        home = {v["name"]: v.get("value") for v in container.get("env", [])}.get("HOME", "")
        for path in ("/tmp", home):
            if not _writable(path, container, volumes):
                yield f"{where}: {path or '$HOME'} is not writable"
        tag = container["image"].rpartition("/")[2].partition(":")[2]
        if tag in ("", "latest"):
            yield f"{where}: image {container['image']!r} names no fixed version"


def _resource_problems(where: str, resources: dict[str, Any]) -> Iterator[str]:
    for kind in ("requests", "limits"):
        for name in ("cpu", "memory"):
            if name not in resources.get(kind, {}):
                yield f"{where}: {kind}.{name} is not stated"
    memory = [resources.get(kind, {}).get("memory") for kind in ("requests", "limits")]
    if memory[0] != memory[1]:
        yield f"{where}: requests {memory[0]} memory but may take {memory[1]}"


def _writable(path: str, container: pods.Container, volumes: dict[str, Any]) -> bool:
    return any(
        mount["mountPath"] == path
        and not mount.get("readOnly")
        and "emptyDir" in volumes.get(mount["name"], {})
        for mount in container.get("volumeMounts", [])
    )


def reference_problems(pod: pods.Pod, docs: list[Manifest]) -> Iterator[str]:
    """Every name a Pod uses is an object of the same kustomization, the network policy included."""
    name, spec = pod["metadata"]["name"], pod["spec"]
    names = {(doc["kind"], doc["metadata"]["name"]) for doc in docs}
    wanted = [("ServiceAccount", spec.get("serviceAccountName"))]
    for volume in spec.get("volumes", []):
        if "configMap" in volume:
            wanted.append(("ConfigMap", volume["configMap"].get("name")))
        if "persistentVolumeClaim" in volume:
            claim = volume["persistentVolumeClaim"].get("claimName")
            wanted.append(("PersistentVolumeClaim", claim))
    for kind, target in wanted:
        if (kind, target) not in names:
            yield f"{name}: there is no {kind} {target!r}"
    selected = one(docs, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"]
    labels = pod["metadata"].get("labels", {})
    if not selected.items() <= labels.items():
        yield f"{name}: the network policy does not select it"


def job_problems(job: Manifest, docs: list[Manifest]) -> Iterator[str]:
    """What a run needs to end, to be retried into its checkpoint, and to find its config."""
    spec = job["spec"]
    if spec["rayClusterSpec"].get("authOptions", {}).get("mode") != "token":
        yield "authOptions.mode: is not token"
    for field in ("ttlSecondsAfterFinished", "backoffLimit", "activeDeadlineSeconds"):
        if not spec.get(field):
            yield f"spec.{field}: is not stated"
    if spec.get("shutdownAfterJobFinishes") is not True:
        yield "spec.shutdownAfterJobFinishes: the cluster would stay"
    command, _, path = spec.get("entrypoint", "").rpartition(" ")
    if command != "python -m launcher.train --config":
        yield f"spec.entrypoint: {command!r} is not the entry the README names"
    mounts = {
        mount["name"]: mount["mountPath"]
        for mount in pods.render(job)[0]["spec"]["containers"][-1].get("volumeMounts", [])
    }
    files = [f"{mounts.get('run-config')}/{key}" for key in one(docs, "ConfigMap").get("data", {})]
    if path not in files:
        yield f"spec.entrypoint: {path!r} is none of the mounted {files}"
    head, *rest = [c["image"] for pod in pods.render(job) for c in pods.containers(pod)]
    if any(image != head for image in rest):
        yield f"images differ: {sorted({head, *rest})}"


def shared_memory_problems(job: Manifest) -> Iterator[str]:
    """/dev/shm holds Ray's object store and one all-reduce buffer for each rank that may fit."""
    cluster = job["spec"]["rayClusterSpec"]
    groups = [cluster["headGroupSpec"], *cluster.get("workerGroupSpecs", [])]
    for group, pod in zip(groups, pods.render(job), strict=False):
        name, ray = pod["metadata"]["name"], pod["spec"]["containers"][0]
        volumes = {volume["name"]: volume for volume in pod["spec"].get("volumes", [])}
        limits = ray.get("resources", {}).get("limits", {})
        (mounted,) = [m["name"] for m in ray["volumeMounts"] if m["mountPath"] == "/dev/shm"]
        volume = volumes[mounted].get("emptyDir", {})
        if volume.get("medium") != "Memory" or "memory" not in limits or "cpu" not in limits:
            yield f"{name}: /dev/shm is not memory, or memory and cpu have no limit"
            continue
        size, store = quantity(volume.get("sizeLimit", "0")), _object_store(group)
        ranks = -int(-quantity(limits["cpu"]) // 1)
        if store is None:
            yield f"{name}: object-store-memory is not stated"
        elif store + ranks * ALLREDUCE_BYTES > size:
            yield f"{name}: /dev/shm of {size / MIB:.0f} MiB is too small for {ranks} ranks"
        if size > quantity(limits["memory"]) / 2:
            yield f"{name}: /dev/shm takes more than half of the memory"


def _object_store(group: dict[str, Any]) -> float | None:
    value = (group.get("rayStartParams") or {}).get("object-store-memory")
    return None if value is None else float(value)


def quantity(text: str | int | float) -> float:
    """A Kubernetes quantity as a number: "500m" is 0.5, "1Gi" is 2**30."""
    text = str(text)
    for unit, factor in sorted(_UNITS.items(), key=lambda item: -len(item[0])):
        if text.endswith(unit):
            return float(text[: -len(unit)]) * factor
    return float(text)
