"""The Pods KubeRay makes of a RayJob, and what the `restricted` level says about a Pod."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

Pod = dict[str, Any]
Container = dict[str, Any]

_VOLUME_SOURCES = {
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "persistentVolumeClaim",
    "projected",
    "secret",
}
# Limits KubeRay hard-codes for what it adds itself.
_WAIT_RESOURCES = {"cpu": "200m", "memory": "256Mi"}
_SUBMITTER_REQUESTS = {"cpu": "500m", "memory": "200Mi"}
_SUBMITTER_LIMITS = {"cpu": "1", "memory": "1Gi"}


def render(job: dict[str, Any]) -> list[Pod]:
    """Head, one Pod of each worker group, and the submitter, with KubeRay's own additions."""
    spec = job["spec"]
    cluster = spec.get("rayClusterSpec")
    if cluster is None:
        return []
    name = job["metadata"]["name"]
    head = _pod(f"{name}-head", cluster["headGroupSpec"]["template"])
    _add_shared_memory(head, cluster["headGroupSpec"])
    pods = [head]
    for group in cluster.get("workerGroupSpecs", []):
        worker = _pod(f"{name}-{group['groupName']}-worker", group["template"])
        worker["spec"].setdefault("initContainers", []).append(_wait_for_head(worker))
        _add_shared_memory(worker, group)
        pods.append(worker)
    if spec.get("submissionMode", "K8sJobMode") == "K8sJobMode":
        template = spec.get("submitterPodTemplate") or _default_submitter(head)
        pods.append(_pod(f"{name}-submitter", template))
    if cluster.get("authOptions", {"mode": "disabled"}).get("mode", "token") == "token":
        secret = cluster["authOptions"].get("secretName", name)
        for pod in pods:
            _add_token(pod, secret)
    return pods


def _pod(name: str, template: dict[str, Any]) -> Pod:
    template = copy.deepcopy(template)
    metadata = {**template.get("metadata", {}), "name": name}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}


def _wait_for_head(worker: Pod) -> Container:
    """The init container KubeRay puts in front of a worker: same image, context and mounts."""
    ray = worker["spec"]["containers"][0]
    keep = ("image", "imagePullPolicy", "securityContext", "env", "volumeMounts")
    return {
        "name": "wait-gcs-ready",
        "command": ["/bin/bash", "-lc", "--"],
        "args": ["until ray health-check; do sleep 5; done"],
        "resources": {"requests": dict(_WAIT_RESOURCES), "limits": dict(_WAIT_RESOURCES)},
        **{key: copy.deepcopy(ray[key]) for key in keep if key in ray},
    }


def _add_shared_memory(pod: Pod, group: dict[str, Any]) -> None:
    """/dev/shm as large as the memory request, unless the template mounts its own."""
    ray = pod["spec"]["containers"][0]
    mounted = {mount["mountPath"] for mount in ray.get("volumeMounts", [])}
    if "/dev/shm" in mounted or "plasma-directory" in (group.get("rayStartParams") or {}):
        return
    resources = ray.get("resources", {})
    memory = {**resources.get("limits", {}), **resources.get("requests", {})}.get("memory")
    volume: dict[str, Any] = {"medium": "Memory"}
    if memory is not None:
        volume["sizeLimit"] = memory
    ray.setdefault("volumeMounts", []).append({"name": "shared-mem", "mountPath": "/dev/shm"})
    pod["spec"].setdefault("volumes", []).append({"name": "shared-mem", "emptyDir": volume})


def _default_submitter(head: Pod) -> dict[str, Any]:
    container = {
        "name": "ray-job-submitter",
        "image": head["spec"]["containers"][0]["image"],
        "resources": {"requests": _SUBMITTER_REQUESTS, "limits": _SUBMITTER_LIMITS},
    }
    return {"spec": {"restartPolicy": "Never", "containers": [container]}}


def _add_token(pod: Pod, secret: str) -> None:
    waiting = [c for c in pod["spec"].get("initContainers", []) if c["name"] == "wait-gcs-ready"]
    reference = {"secretKeyRef": {"name": secret, "key": "auth_token"}}
    for container in [pod["spec"]["containers"][0], *waiting]:
        env = container.setdefault("env", [])
        present = {variable["name"] for variable in env}
        if "RAY_AUTH_MODE" not in present:
            env.append({"name": "RAY_AUTH_MODE", "value": "token"})
        if "RAY_AUTH_TOKEN" not in present:
            env.append({"name": "RAY_AUTH_TOKEN", "valueFrom": reference})


def containers(pod: Pod) -> Iterator[Container]:
    """Init containers first, in the order they start."""
    yield from pod["spec"].get("initContainers", [])
    yield from pod["spec"]["containers"]


def mount_problems(pod: Pod) -> list[str]:
    """Mounts without a volume, volumes nobody mounts, one path mounted twice."""
    found = []
    volumes = [volume["name"] for volume in pod["spec"].get("volumes", [])]
    used = set()
    for container in containers(pod):
        where = f"{pod['metadata']['name']}/{container['name']}"
        paths = [mount["mountPath"] for mount in container.get("volumeMounts", [])]
        found += [
            f"{where}: {p} is mounted twice" for p in sorted(set(paths)) if paths.count(p) > 1
        ]
        for mount in container.get("volumeMounts", []):
            used.add(mount["name"])
            if mount["name"] not in volumes:
                found.append(f"{where}: mounts {mount['name']!r}, which is no volume of the Pod")
    for name in sorted(set(volumes)):
        if volumes.count(name) > 1:
            found.append(f"{pod['metadata']['name']}: volume {name!r} is given twice")
        if name not in used:
            found.append(f"{pod['metadata']['name']}: volume {name!r} is mounted nowhere")
    return found


def restricted_problems(pod: Pod) -> list[str]:
    """Violations of Pod Security `restricted`; empty if the API server would admit the Pod."""
    name, spec = pod["metadata"]["name"], pod["spec"]
    found = [
        f"{name}: {key} is on" for key in ("hostNetwork", "hostPID", "hostIPC") if spec.get(key)
    ]
    for volume in spec.get("volumes", []):
        for source in sorted(set(volume) - {"name"} - _VOLUME_SOURCES):
            found.append(f"{name}: volume {volume['name']!r} is a {source}")
    context = spec.get("securityContext", {})
    if context.get("sysctls"):
        found.append(f"{name}: sets sysctls")
    found += _shared_context_problems(name, context)
    for container in containers(pod):
        where = f"{name}/{container['name']}"
        own = container.get("securityContext", {})
        found += _shared_context_problems(where, own)
        found += _container_problems(where, own, context)
        if any("hostPort" in port for port in container.get("ports", [])):
            found.append(f"{where}: takes a port of the host")
    return found


def _shared_context_problems(where: str, context: dict[str, Any]) -> Iterator[str]:
    """What both a Pod's and a container's security context may say wrong."""
    if context.get("runAsUser") == 0:
        yield f"{where}: runs as user 0"
    if context.get("seLinuxOptions"):
        yield f"{where}: sets seLinuxOptions"
    if context.get("appArmorProfile", {}).get("type") == "Unconfined":
        yield f"{where}: AppArmor is unconfined"
    if context.get("windowsOptions", {}).get("hostProcess"):
        yield f"{where}: is a host process"


def _container_problems(where: str, own: dict[str, Any], pod_wide: dict[str, Any]) -> Iterator[str]:
    inherited = {**pod_wide, **own}
    if inherited.get("runAsNonRoot") is not True:
        yield f"{where}: runAsNonRoot is not true"
    if inherited.get("seccompProfile", {}).get("type") not in ("RuntimeDefault", "Localhost"):
        yield f"{where}: seccompProfile is not RuntimeDefault"
    if own.get("allowPrivilegeEscalation") is not False:
        yield f"{where}: allowPrivilegeEscalation is not false"
    if own.get("privileged"):
        yield f"{where}: is privileged"
    if own.get("procMount", "Default") != "Default":
        yield f"{where}: procMount is not Default"
    capabilities = own.get("capabilities", {})
    if "ALL" not in capabilities.get("drop", []):
        yield f"{where}: does not drop ALL capabilities"
    if set(capabilities.get("add", [])) - {"NET_BIND_SERVICE"}:
        yield f"{where}: adds capabilities"
