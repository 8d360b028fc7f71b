"""What KubeRay 1.7 and Kueue refuse at run time although the CRD lets it in.

Such a RayJob is accepted by the API server and then stands still with a message in its status, or
is refused by Kueue's webhook.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import yaml

MODES = ("K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode")
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
MAX_QUEUED_GROUPS = 7
MAX_NAME = 47
TOKEN_SINCE = (2, 52, 0)
_RESOURCE_PARAMS = ("num-cpus", "num-gpus", "memory", "resources")


def problems(doc: dict[str, Any]) -> list[str]:
    """The operator's objections to a RayJob; empty if it would run it."""
    spec = doc.get("spec", {})
    found = [*_name(doc), *_life_cycle(spec), *_submission(spec)]
    if QUEUE_LABEL in doc["metadata"].get("labels", {}):
        found += _queued(spec)
    cluster = spec.get("rayClusterSpec")
    if cluster is None:
        if not spec.get("clusterSelector"):
            found.append("spec: one of rayClusterSpec or clusterSelector must be set")
        return found
    return [*found, *_cluster(cluster)]


def _name(doc: dict[str, Any]) -> Iterator[str]:
    name = doc["metadata"].get("name", "")
    if len(name) > MAX_NAME:
        yield f"metadata.name: {len(name)} characters, at most {MAX_NAME}"
    if not re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name):
        yield f"metadata.name: {name!r} is no DNS-1035 label"


def _queued(spec: dict[str, Any]) -> Iterator[str]:
    """Kueue's webhook (pkg/controller/jobs/rayjob)."""
    if not spec.get("shutdownAfterJobFinishes"):
        yield "spec.shutdownAfterJobFinishes: a queued job deletes its cluster after finishing"
    if spec.get("clusterSelector"):
        yield "spec.clusterSelector: a queued job uses no existing cluster"
    cluster = spec.get("rayClusterSpec", {})
    if cluster.get("enableInTreeAutoscaling"):
        yield "rayClusterSpec.enableInTreeAutoscaling: not for a queued job"
    groups = [group.get("groupName") for group in cluster.get("workerGroupSpecs", [])]
    if len(groups) > MAX_QUEUED_GROUPS:
        yield f"workerGroupSpecs: {len(groups)}, at most {MAX_QUEUED_GROUPS} for a queued job"
    if "head" in groups:
        yield "workerGroupSpecs: 'head' is reserved for the head group of a queued job"


def _life_cycle(spec: dict[str, Any]) -> Iterator[str]:
    shutdown = spec.get("shutdownAfterJobFinishes", False)
    ttl = spec.get("ttlSecondsAfterFinished", 0)
    if ttl < 0:
        yield f"spec.ttlSecondsAfterFinished: {ttl} is negative"
    if ttl > 0 and not shutdown:
        yield "spec.ttlSecondsAfterFinished: needs shutdownAfterJobFinishes"
    if spec.get("suspend") and not shutdown:
        yield "spec.suspend: needs shutdownAfterJobFinishes"
    if spec.get("suspend") and spec.get("clusterSelector"):
        yield "spec.suspend: not with clusterSelector"
    if spec.get("activeDeadlineSeconds", 1) <= 0:
        yield "spec.activeDeadlineSeconds: must be positive"
    if spec.get("backoffLimit", 0) < 0:
        yield "spec.backoffLimit: is negative"


def _submission(spec: dict[str, Any]) -> Iterator[str]:
    mode = spec.get("submissionMode", "K8sJobMode")
    if mode not in MODES:
        yield f"spec.submissionMode: {mode!r} is none of {', '.join(MODES)}"
    if mode != "InteractiveMode" and not spec.get("entrypoint", "").strip():
        yield "spec.entrypoint: must be set"
    if mode == "InteractiveMode" and spec.get("backoffLimit", 0) > 0:
        yield "spec.backoffLimit: not with InteractiveMode"
    if mode == "SidecarMode":
        for field in ("submitterPodTemplate", "submitterConfig", "clusterSelector"):
            if field in spec:
                yield f"spec.{field}: not with SidecarMode"
    try:
        environment = yaml.safe_load(spec.get("runtimeEnvYAML", "{}"))
    except yaml.YAMLError as error:
        yield f"spec.runtimeEnvYAML: no YAML ({error})"
    else:
        if not isinstance(environment, dict):
            yield "spec.runtimeEnvYAML: must be a mapping"


def _cluster(cluster: dict[str, Any]) -> Iterator[str]:
    yield from _group(cluster["headGroupSpec"], "headGroupSpec")
    groups = cluster.get("workerGroupSpecs", [])
    for index, group in enumerate(groups):
        where = f"workerGroupSpecs[{index}]"
        yield from _group(group, where)
        yield from _replicas(group, where)
    names = [group.get("groupName") for group in groups]
    for name in sorted({str(n) for n in names if names.count(n) > 1}):
        yield f"workerGroupSpecs: group name {name!r} is given twice"
    if cluster.get("authOptions", {"mode": "disabled"}).get("mode", "token") == "token":
        version = cluster.get("rayVersion", "")
        numbers = tuple(int(n) for n in re.findall(r"\d+", version)[:3])
        if numbers < TOKEN_SINCE:
            yield f"authOptions.mode: token needs rayVersion 2.52.0 or later, not {version!r}"


def _group(group: dict[str, Any], where: str) -> Iterator[str]:
    if not group.get("template", {}).get("spec", {}).get("containers"):
        yield f"{where}: needs at least one container"
    params = group.get("rayStartParams") or {}
    twice = [name for name in _RESOURCE_PARAMS if params.get(name)]
    if twice and group.get("resources"):
        yield f"{where}: resources given twice, in rayStartParams ({', '.join(twice)}) too"
    if "labels" in params:
        yield f"{where}: rayStartParams.labels is not supported, use labels"


def _replicas(group: dict[str, Any], where: str) -> Iterator[str]:
    low, high = group.get("minReplicas", 0), group.get("maxReplicas", 2**31 - 1)
    if low < 0 or high < 0:
        yield f"{where}: negative replicas"
    if low > high:
        yield f"{where}: minReplicas {low} > maxReplicas {high}"
    elif not low <= group.get("replicas", low) <= high:
        yield f"{where}: replicas {group['replicas']} is not within {low}..{high}"
