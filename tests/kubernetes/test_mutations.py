"""Broken variants of our own manifests: each is noticed, so a clean verdict means something."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from . import checks, crd, operator_rules
from .manifests import ROOT, Manifest, apply_operation, assemble, one

CLUSTER = "/spec/rayClusterSpec"
HEAD = f"{CLUSTER}/headGroupSpec"
HEAD_POD = f"{HEAD}/template/spec"
HEAD_RAY = f"{HEAD_POD}/containers/0"
WORKERS = f"{CLUSTER}/workerGroupSpecs/0"
WORKER_RAY = f"{WORKERS}/template/spec/containers/0"
SUBMITTER = "/spec/submitterPodTemplate/spec"

# (what is broken, operation, path in the RayJob, value, part of the complaint)
RAYJOB = [
    ("mode", "replace", "/spec/submissionMode", "k8sJobMode", "is none of K8sJobMode"),
    ("no entrypoint", "replace", "/spec/entrypoint", " ", "spec.entrypoint: must be set"),
    ("other entry", "replace", "/spec/entrypoint", "gcg train", "not the entry the README names"),
    (
        "config elsewhere",
        "replace",
        "/spec/entrypoint",
        "python -m launcher.train --config /etc/gcg/other.yaml",
        "is none of the mounted",
    ),
    ("long name", "replace", "/metadata/name", "x" * 48, "48 characters, at most 47"),
    ("name", "replace", "/metadata/name", "7-runs", "no DNS-1035 label"),
    ("ttl alone", "remove", "/spec/shutdownAfterJobFinishes", None, "needs shutdownAfter"),
    ("negative ttl", "replace", "/spec/ttlSecondsAfterFinished", -1, "is negative"),
    ("no ttl", "remove", "/spec/ttlSecondsAfterFinished", None, "is not stated"),
    ("deadline", "replace", "/spec/activeDeadlineSeconds", 0, "must be positive"),
    ("no deadline", "remove", "/spec/activeDeadlineSeconds", None, "is not stated"),
    ("backoff", "replace", "/spec/backoffLimit", -1, "backoffLimit: is negative"),
    ("no retries", "remove", "/spec/backoffLimit", None, "is not stated"),
    (
        "interactive",
        "replace",
        "/spec/submissionMode",
        "InteractiveMode",
        "backoffLimit: not with InteractiveMode",
    ),
    (
        "sidecar",
        "replace",
        "/spec/submissionMode",
        "SidecarMode",
        "submitterPodTemplate: not with SidecarMode",
    ),
    ("runtime env", "add", "/spec/runtimeEnvYAML", "a: [", "runtimeEnvYAML: no YAML"),
    ("runtime env list", "add", "/spec/runtimeEnvYAML", "[1]", "must be a mapping"),
    ("auth off", "replace", f"{CLUSTER}/authOptions/mode", "disabled", "is not token"),
    ("no auth", "remove", f"{CLUSTER}/authOptions", None, "is not token"),
    ("old Ray", "replace", f"{CLUSTER}/rayVersion", "2.51.1", "2.52.0 or later"),
    ("replicas", "replace", f"{WORKERS}/minReplicas", 3, "minReplicas 3 > maxReplicas 2"),
    ("too few", "replace", f"{WORKERS}/replicas", 1, "is not within 2..2"),
    (
        "twice",
        "add",
        f"{HEAD}/resources",
        {"CPU": "1"},
        "resources given twice, in rayStartParams (num-cpus)",
    ),
    ("ray labels", "add", f"{HEAD}/rayStartParams/labels", "a=b", "labels is not supported"),
    ("no head container", "replace", f"{HEAD_POD}/containers", [], "at least one container"),
    ("root", "replace", f"{HEAD_POD}/securityContext/runAsUser", 0, "runs as user 0"),
    ("maybe root", "remove", f"{HEAD_POD}/securityContext/runAsNonRoot", None, "runAsNonRoot"),
    ("seccomp", "remove", f"{SUBMITTER}/securityContext/seccompProfile", None, "seccompProfile"),
    (
        "escalation",
        "remove",
        f"{HEAD_RAY}/securityContext/allowPrivilegeEscalation",
        None,
        "allowPrivilegeEscalation is not false",
    ),
    ("privileged", "add", f"{HEAD_RAY}/securityContext/privileged", True, "is privileged"),
    (
        "capabilities",
        "replace",
        f"{WORKER_RAY}/securityContext/capabilities",
        {"drop": ["ALL"], "add": ["SYS_PTRACE"]},
        "wait-gcs-ready: adds capabilities",
    ),
    ("no drop", "remove", f"{HEAD_RAY}/securityContext/capabilities", None, "does not drop ALL"),
    (
        "writable root",
        "remove",
        f"{HEAD_RAY}/securityContext/readOnlyRootFilesystem",
        None,
        "root file system is writable",
    ),
    ("host network", "add", f"{HEAD_POD}/hostNetwork", True, "hostNetwork is on"),
    ("host port", "add", f"{HEAD_RAY}/ports/0/hostPort", 6379, "takes a port of the host"),
    (
        "host path",
        "replace",
        f"{HEAD_POD}/volumes/1",
        {"name": "storage", "hostPath": {"path": "/mnt"}},
        "is a hostPath",
    ),
    (
        "own token",
        "remove",
        f"{SUBMITTER}/automountServiceAccountToken",
        None,
        "mounts a service account token",
    ),
    ("no limits", "remove", f"{HEAD_RAY}/resources/limits", None, "limits.memory is not stated"),
    (
        "overcommit",
        "replace",
        f"{WORKER_RAY}/resources/limits/memory",
        "60Gi",
        "requests 6Gi memory but may take 60Gi",
    ),
    ("no /tmp", "remove", f"{HEAD_RAY}/volumeMounts/3", None, "/tmp is not writable"),
    ("home elsewhere", "replace", f"{SUBMITTER}/containers/0/env/0/value", "/root", "/root is not"),
    ("latest", "replace", f"{HEAD_RAY}/image", "gcg-train:latest", "names no fixed version"),
    ("other image", "replace", f"{HEAD_RAY}/image", "ray:2.60.0", "images differ"),
    (
        "endless",
        "replace",
        f"{HEAD_POD}/volumes/3",
        {"name": "tmp", "emptyDir": {}},
        "has no sizeLimit",
    ),
    ("mount", "replace", f"{HEAD_RAY}/volumeMounts/1/name", "stroage", "is no volume of the Pod"),
    ("unused", "remove", f"{HEAD_RAY}/volumeMounts/1", None, "is mounted nowhere"),
    (
        "path twice",
        "replace",
        f"{HEAD_RAY}/volumeMounts/1/mountPath",
        "/tmp",
        "/tmp is mounted twice",
    ),
    (
        "config map",
        "replace",
        f"{HEAD_POD}/volumes/0/configMap/name",
        "gcg-runs",
        "no ConfigMap 'gcg-runs'",
    ),
    (
        "claim",
        "replace",
        f"{HEAD_POD}/volumes/1/persistentVolumeClaim/claimName",
        "storage",
        "no PersistentVolumeClaim 'storage'",
    ),
    ("account", "remove", f"{SUBMITTER}/serviceAccountName", None, "no ServiceAccount None"),
    (
        "outside the policy",
        "remove",
        "/spec/submitterPodTemplate/metadata/labels",
        None,
        "network policy does not select",
    ),
    (
        "object store",
        "replace",
        f"{HEAD}/rayStartParams/object-store-memory",
        "536870912",
        "is too small for 1 ranks",
    ),
    (
        "no object store",
        "remove",
        f"{WORKERS}/rayStartParams/object-store-memory",
        None,
        "object-store-memory is not stated",
    ),
    (
        "disk as shm",
        "replace",
        f"{HEAD_POD}/volumes/4/emptyDir",
        {"sizeLimit": "512Mi"},
        "/dev/shm is not memory",
    ),
    (
        "large shm",
        "replace",
        f"{HEAD_POD}/volumes/4/emptyDir/sizeLimit",
        "3Gi",
        "more than half of the memory",
    ),
    ("unmounted shm", "remove", f"{HEAD_RAY}/volumeMounts/4", None, "'dshm' is mounted nowhere"),
]

# Only the CRD knows these.
SCHEMA = [
    ("typo", "add", "/spec/backofLimit", 2, "'backofLimit' was unexpected"),
    ("type", "replace", "/spec/backoffLimit", "two", "is not of type 'integer'"),
    ("enum", "replace", f"{CLUSTER}/authOptions/mode", "tokens", "is not one of"),
    ("number", "replace", f"{HEAD}/rayStartParams/num-cpus", 0, "is not of type 'string'"),
    ("amount", "replace", f"{HEAD_RAY}/resources/limits/memory", "4 GiB", "does not match"),
    ("no head", "remove", HEAD, None, "'headGroupSpec' is a required property"),
    ("rule", "add", "/spec/managedBy", "me", "managedBy field value must be"),
    ("twice", "add", f"{HEAD_RAY}/env/-", {"name": "HOME", "value": "/"}, "is given twice"),
]

# (kind, operation, path, value, part of the complaint)
OTHERS = [
    ("ServiceAccount", "add", "/automount", False, "'automount' was unexpected"),
    ("PersistentVolumeClaim", "replace", "/spec/accessModes", "ReadWriteMany", "is not of type"),
    ("NetworkPolicy", "replace", "/spec/ingress/1/ports/0/port", [8265], "is not"),
    ("NetworkPolicy", "add", "/spec/podSelector/matchLabels/a", "b", "does not select"),
    ("ConfigMap", "replace", "/data", {"config.yaml": ""}, "is none of the mounted"),
]


_CLEAN = assemble(ROOT / "base")


@pytest.fixture
def docs() -> list[Manifest]:
    return copy.deepcopy(_CLEAN)


def test_unbroken(docs: list[Manifest]):
    assert checks.problems(docs, None) == []


@pytest.mark.parametrize(
    ("op", "path", "value", "complaint"), [c[1:] for c in RAYJOB], ids=[c[0] for c in RAYJOB]
)
def test_broken_rayjob(op: str, path: str, value: Any, complaint: str, docs: list[Manifest]):
    job = one(docs, "RayJob")
    apply_operation(job, op, path, value)
    # A RayJob without containers renders no Pod, so that one is the operator's alone to refuse.
    empty = path.endswith("/containers")
    found = operator_rules.problems(job) if empty else checks.problems(docs, None)
    assert any(complaint in line for line in found), found


@pytest.mark.parametrize(
    ("op", "path", "value", "complaint"), [c[1:] for c in SCHEMA], ids=[c[0] for c in SCHEMA]
)
def test_broken_shape(
    op: str, path: str, value: Any, complaint: str, docs: list[Manifest], crds: crd.Crds
):
    apply_operation(one(docs, "RayJob"), op, path, value)
    found = checks.problems(docs, crds)
    assert any(complaint in line for line in found), found


@pytest.mark.parametrize(
    ("kind", "op", "path", "value", "complaint"), OTHERS, ids=[f"{c[0]}-{c[4]}" for c in OTHERS]
)
def test_broken_builtin(
    kind: str, op: str, path: str, value: Any, complaint: str, docs: list[Manifest]
):
    apply_operation(one(docs, kind), op, path, value)
    found = checks.problems(docs, None)
    assert any(complaint in line for line in found), found


def test_suspended_needs_shutdown(docs: list[Manifest]):
    job = one(docs, "RayJob")
    job["spec"].update(suspend=True, shutdownAfterJobFinishes=False)
    assert "spec.suspend: needs shutdownAfterJobFinishes" in operator_rules.problems(job)


def test_neither_cluster_nor_selector(docs: list[Manifest]):
    job = one(docs, "RayJob")
    del job["spec"]["rayClusterSpec"]
    assert any("one of rayClusterSpec" in line for line in operator_rules.problems(job))
    job["spec"]["clusterSelector"] = {"ray.io/cluster": "mine"}
    assert operator_rules.problems(job) == []
