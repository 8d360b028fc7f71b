"""A run's objects as they would be sent to a cluster, and the run file among them."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from launcher.config import RunConfig, load_run_config
from launcher.config.file import load_strictly
from launcher.errors import ConfigError, UserError
from launcher.k8s.quantities import quantity

Manifest = dict[str, Any]
_RENDER_S = 120
# What the API server takes; a file of objects that came from elsewhere may hold anything.
_KEY = re.compile(r"(?!\.\.|\.$)[-._a-zA-Z0-9]{1,253}")


@dataclass(frozen=True)
class Group:
    """Pods of one kind, the head or a worker group. Amounts are of one Pod; memory in bytes.

    ``slots``: training workers it has room for. ``shm``: None where /dev/shm is no memory of its
    own size; ``object_store``: None where it is left to Ray, which then takes 30 % of the memory.
    """

    name: str
    pod: Manifest
    is_head: bool
    replicas: int
    least: int
    cpus: float
    gpus: int
    memory: float
    shm: float | None
    object_store: float | None
    slots: int

    @property
    def ray(self) -> Manifest:
        """The container that runs Ray."""
        return self.pod["containers"][0]


@dataclass(frozen=True)
class RunObjects:
    """A RayJob, all objects around it, and the run config that its head reads."""

    docs: list[Manifest]
    job: Manifest
    config: RunConfig
    groups: list[Group]

    @property
    def name(self) -> str:
        return self.job["metadata"]["name"]

    @property
    def workers(self) -> list[Group]:
        """The groups that have room for training workers."""
        return [group for group in self.groups if group.slots]


def read_objects(source: str) -> list[Manifest]:
    """The objects of a kustomization's folder, of a file with rendered ones, or of ``-``, stdin.

    Raises:
        UserError: there is nothing to read, it is no YAML, or kustomize refuses it.
    """
    if source == "-":
        return _parse(sys.stdin.read(), "standard input")
    path = Path(source)
    if path.is_dir():
        return _parse(kustomize(path), source)
    try:
        return _parse(path.read_text(encoding="utf-8"), source)
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "is not UTF-8 text"
        raise UserError(
            f"{source}: {why}; give a folder with a kustomization.yaml, a file with rendered "
            "objects, or - for standard input"
        ) from None


def kustomize_command() -> list[str] | None:
    """How to run kustomize on this machine, or None."""
    if kubectl := shutil.which("kubectl"):
        return [kubectl, "kustomize"]
    if kustomize := shutil.which("kustomize"):
        return [kustomize, "build"]
    return None


def kustomize(folder: Path) -> str:
    """What `kubectl apply -k folder` would send, as YAML.

    Raises:
        UserError: there is no kustomize here, or it refuses the folder.
    """
    command = kustomize_command()
    if command is None:
        raise UserError(
            f"{folder}: neither kubectl nor kustomize is installed here to render it; install one, "
            "or render it elsewhere and give the file"
        )
    done = subprocess.run(
        [*command, str(folder)], capture_output=True, text=True, timeout=_RENDER_S, check=False
    )
    if done.returncode:
        why = done.stderr.strip().removeprefix("error: ")
        raise UserError(f"{folder}: kustomize refuses it: {why}; correct its kustomization.yaml")
    return done.stdout


def _parse(text: str, source: str) -> list[Manifest]:
    try:
        docs = [doc for doc in load_strictly(text) if doc is not None]
    except ConfigError as error:
        raise UserError(f"{source}: {error.lines[0]}; correct the YAML") from None
    for doc in docs:
        if not (isinstance(doc, dict) and "kind" in doc and "name" in (doc.get("metadata") or {})):
            raise UserError(
                f"{source}: holds what is no Kubernetes object; give rendered manifests"
            )
    return docs


def run_objects(docs: list[Manifest]) -> RunObjects:
    """The one run among the objects.

    Raises:
        UserError: there is none, or its run file is not where its head looks for it.
        ConfigError: the run file is wrong.
    """
    jobs = [doc for doc in docs if doc["kind"] == "RayJob"]
    if len(jobs) != 1:
        raise UserError(f"kind RayJob: there are {len(jobs)}; one run is checked at a time")
    job = jobs[0]
    try:
        config = _run_config(docs, job)
        return RunObjects(docs, job, config, list(_groups(job, config)))
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(
            f"RayJob {job['metadata']['name']}: has not the shape of one of ours "
            f"({type(error).__name__}: {error}); compare it with kubernetes/base/rayjob.yaml"
        ) from None


def mounts(pod: Manifest) -> dict[str, Manifest]:
    """Where the first container has which volume: path -> volume."""
    volumes = {volume["name"]: volume for volume in pod.get("volumes", [])}
    return {
        mount["mountPath"]: volumes.get(mount["name"], {})
        for mount in pod["containers"][0].get("volumeMounts", [])
    }


def _run_config(docs: list[Manifest], job: Manifest) -> RunConfig:
    """What `--config` of the entrypoint names: a file, or the folder, of a mounted ConfigMap."""
    words = job["spec"].get("entrypoint", "").split()
    if "--config" not in words[:-1]:
        raise UserError(
            f"spec.entrypoint = {' '.join(words)!r}: names no --config; use "
            "`python -m launcher.train --config /etc/gcg`"
        )
    place = Path(words[words.index("--config") + 1])
    overrides = [words[i + 1] for i, word in enumerate(words[:-1]) if word == "--set"]
    head = job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    for path, volume in mounts(head).items():
        name = volume.get("configMap", {}).get("name")
        if name is None or not place.is_relative_to(path):
            continue
        found = [d for d in docs if (d["kind"], d["metadata"]["name"]) == ("ConfigMap", name)]
        if not found:
            raise UserError(f"{path} of the head: there is no ConfigMap {name!r}; add it")
        return _load(found[0]["data"], place.relative_to(path), overrides)
    raise UserError(f"spec.entrypoint: {place} lies in no ConfigMap that the head mounts; mount it")


def _load(files: dict[str, str], place: Path, overrides: list[str]) -> RunConfig:
    with tempfile.TemporaryDirectory() as folder:
        for name, text in files.items():
            if not _KEY.fullmatch(name):
                raise UserError(
                    f"ConfigMap: data[{name!r}] is no key of a ConfigMap: letters, digits, '-', "
                    "'_' and '.' alone, and not '..' first; correct it"
                )
            (Path(folder) / name).write_text(text, encoding="utf-8")
        return load_run_config(Path(folder) / place, overrides)


def _groups(job: Manifest, config: RunConfig) -> Iterator[Group]:
    cluster = job["spec"]["rayClusterSpec"]
    yield _group(cluster["headGroupSpec"], config, is_head=True)
    for group in cluster.get("workerGroupSpecs", []):
        yield _group(group, config, is_head=False)


def _group(group: Manifest, config: RunConfig, *, is_head: bool) -> Group:
    pod, params = group["template"]["spec"], group.get("rayStartParams") or {}
    limits = pod["containers"][0].get("resources", {}).get("limits", {})
    cpus = quantity(params.get("num-cpus", limits.get("cpu", "0")))
    gpus = int(params.get("num-gpus", limits.get("nvidia.com/gpu", 0)))
    slots = int(cpus // config.scale.cpus_per_worker)
    volume = mounts(pod).get("/dev/shm", {}).get("emptyDir", {})
    is_memory = volume.get("medium") == "Memory" and "sizeLimit" in volume
    store = params.get("object-store-memory")
    replicas = 1 if is_head else group.get("replicas", 0) * group.get("numOfHosts", 1)
    return Group(
        name="head" if is_head else group["groupName"],
        pod=pod,
        is_head=is_head,
        replicas=replicas,
        least=1 if is_head else group.get("minReplicas", replicas),
        cpus=cpus,
        gpus=gpus,
        memory=quantity(limits.get("memory", "0")),
        shm=quantity(volume["sizeLimit"]) if is_memory else None,
        object_store=None if store is None else float(store),
        slots=min(slots, gpus) if config.scale.use_gpu else slots,
    )


def write_yaml(docs: Any) -> str:
    """Objects, or one value, as YAML in the order of its keys."""
    return yaml.safe_dump(docs, sort_keys=False, allow_unicode=True, width=100)
