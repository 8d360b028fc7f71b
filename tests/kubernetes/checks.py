"""Everything we ask of a rendered kustomization, as one list of complaints.

Kubernetes' own rules first (schemas, CRDs, the operators, Pod Security), then this project's: what
must be written down, which names must meet. Whether Pods agree with the run file says the product.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from typing import Any

import kubernetes_validate
import kubernetes_validate.utils

from launcher.errors import UserError
from launcher.k8s.agreement import disagreements
from launcher.k8s.objects import run_objects

from . import crd, network_rules, operator_rules, pods, reference_rules
from .manifests import Manifest, every, one

# The oldest Kubernetes still supported when this was written, and a recent one.
KUBERNETES_VERSIONS = ("1.32", "1.35")
# For every object it reads a megabyte of definitions, which are the same; and checks nothing else.
kubernetes_validate.utils.schema_contents = cache(kubernetes_validate.utils.schema_contents)
CUSTOM = ("ray.io", "kueue.x-k8s.io", "monitoring.coreos.com")


def problems(docs: list[Manifest], crds: crd.Crds | None) -> list[str]:
    """Complaints about a whole run's kustomization. `crds` None leaves custom resources' out."""
    found = object_problems(docs, crds)
    if found:
        return found  # the checks below may stumble over what has no right shape
    job = one(docs, "RayJob")
    found += operator_rules.problems(job)
    for pod in pods.render(job):
        found += builtin_problems(pod)
        found += pods.mount_problems(pod)
        found += pods.restricted_problems(pod)
        found += house_problems(pod)
        found += reference_rules.pod_problems(pod, docs)
    found += reference_rules.queue_problems(job, docs)
    found += network_rules.problems(pods.render(job), docs)
    found += namespace_problems(docs)
    return [*found, *job_problems(job)]


def agreement_problems(docs: list[Manifest]) -> list[str]:
    """What `gcg k8s check` says: whether the Pods agree with the run file."""
    try:
        return disagreements(run_objects(docs))
    except UserError as error:
        return error.lines


def object_problems(docs: list[Manifest], crds: crd.Crds | None) -> list[str]:
    """Each object against its schema."""
    found = []
    for doc in docs:
        if doc["apiVersion"].partition("/")[0] not in CUSTOM:
            found += builtin_problems(doc)
        elif crds is not None:
            found += crd.problems(doc, crds)
    return found


def builtin_problems(doc: Manifest) -> list[str]:
    """A built-in object against Kubernetes' own schemas, undeclared fields refused."""
    return _validated(json.dumps(doc, sort_keys=True))


@cache
def _validated(text: str) -> list[str]:
    # Kept, since of a kustomization with one thing broken all the rest is as it was.
    doc, found = json.loads(text), []
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


def _resource_problems(where: str, resources: dict[str, Any]) -> Iterator[str]:
    for kind in ("requests", "limits"):
        for name in ("cpu", "memory"):
            if name not in resources.get(kind, {}):
                yield f"{where}: {kind}.{name} is not stated"
    names = {*resources.get("requests", {}), *resources.get("limits", {})} - {"cpu"}
    for name in sorted(names):  # of all but CPUs a Pod gets what it asked for, or is stopped
        asked, most = (resources.get(kind, {}).get(name) for kind in ("requests", "limits"))
        if asked != most:
            yield f"{where}: requests {asked} {name} but may take {most}"


def _writable(path: str, container: pods.Container, volumes: dict[str, Any]) -> bool:
    return any(
        mount["mountPath"] == path
        and not mount.get("readOnly")
        and "emptyDir" in volumes.get(mount["name"], {})
        for mount in container.get("volumeMounts", [])
    )


def namespace_problems(docs: list[Manifest]) -> Iterator[str]:
    """A namespace of ours admits `restricted` Pods alone; secrets are never written down."""
    for doc in every(docs, "Namespace"):
        level = doc["metadata"].get("labels", {}).get("pod-security.kubernetes.io/enforce")
        if level != "restricted":
            yield f"Namespace {doc['metadata']['name']}: enforces {level}, not restricted"
    for doc in every(docs, "Secret"):
        yield f"Secret {doc['metadata']['name']}: is written down"


def job_problems(job: Manifest) -> Iterator[str]:
    """What a run needs to end, and to be found by its dashboard's users alone."""
    spec = job["spec"]
    if spec["rayClusterSpec"].get("authOptions", {}).get("mode") != "token":
        yield "authOptions.mode: is not token"
    for field in ("ttlSecondsAfterFinished", "activeDeadlineSeconds"):
        if not spec.get(field):
            yield f"spec.{field}: is not stated"
    if spec.get("shutdownAfterJobFinishes") is not True:
        yield "spec.shutdownAfterJobFinishes: the cluster would stay"
    command = spec.get("entrypoint", "").partition(" --")[0]
    if command != "python -m launcher.train":
        yield f"spec.entrypoint: {command!r} is not the entry the README names"
