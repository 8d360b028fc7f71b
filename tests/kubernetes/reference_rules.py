"""Names that objects call each other by: all of them are there, or made by somebody we name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from . import pods
from .manifests import Manifest, every
from .operator_rules import QUEUE_LABEL

# Made by the user, as docs/kubernetes.md says; never part of a kustomization.
USERS_SECRETS = ("gcg-s3",)


def pod_problems(pod: pods.Pod, docs: list[Manifest]) -> Iterator[str]:
    """Every name a Pod uses is an object of the same kustomization."""
    name, spec = pod["metadata"]["name"], pod["spec"]
    names = {(doc["kind"], doc["metadata"]["name"]) for doc in docs}
    wanted = [
        ("ServiceAccount", spec.get("serviceAccountName")),
        ("PriorityClass", spec.get("priorityClassName")),
    ]
    for volume in spec.get("volumes", []):
        if "configMap" in volume:
            wanted.append(("ConfigMap", volume["configMap"].get("name")))
        if "secret" in volume:
            wanted.append(("Secret", volume["secret"].get("secretName")))
        if "persistentVolumeClaim" in volume:
            claim = volume["persistentVolumeClaim"].get("claimName")
            wanted.append(("PersistentVolumeClaim", claim))
    wanted += [("Secret", secret) for secret in _secrets(pod)]
    for kind, target in wanted:
        known = kind == "Secret" and target in USERS_SECRETS
        if not known and (kind, target) not in names:
            yield f"{name}: there is no {kind} {target!r}"
    yield from _spread_problems(pod)


def _secrets(pod: pods.Pod) -> Iterator[str]:
    """The Secrets in the environment, but for Ray's token, which the operator makes."""
    for container in pods.containers(pod):
        for variable in container.get("env", []):
            secret = variable.get("valueFrom", {}).get("secretKeyRef")
            if secret is not None and variable["name"] != "RAY_AUTH_TOKEN":
                yield secret["name"]
            if _tells_a_secret(variable):
                yield f"<the value of {variable['name']}>"


def _tells_a_secret(variable: dict[str, Any]) -> bool:
    words = ("SECRET", "TOKEN", "PASSWORD", "ACCESS_KEY", "API_KEY")
    return "value" in variable and any(word in variable["name"] for word in words)


def _spread_problems(pod: pods.Pod) -> Iterator[str]:
    """What spreads Pods, or draws them together, selects the Pods themselves."""
    name, spec = pod["metadata"]["name"], pod["spec"]
    labels = pod["metadata"].get("labels", {})
    terms = list(spec.get("topologySpreadConstraints", []))
    for weighed in (
        spec.get("affinity", {})
        .get("podAffinity", {})
        .get("preferredDuringSchedulingIgnoredDuringExecution", [])
    ):
        terms.append(weighed["podAffinityTerm"])
    for term in terms:
        if not term["labelSelector"]["matchLabels"].items() <= labels.items():
            yield f"{name}: spread over {term['topologyKey']} by labels that it does not have"


def queue_problems(job: Manifest, docs: list[Manifest]) -> Iterator[str]:
    """A queued run names a LocalQueue that is there."""
    queue = job["metadata"].get("labels", {}).get(QUEUE_LABEL)
    queues = [doc["metadata"]["name"] for doc in every(docs, "LocalQueue")]
    if queue is not None and queue not in queues:
        yield f"{QUEUE_LABEL}: there is no LocalQueue {queue!r}"
    if queue is None and queues:
        yield f"{QUEUE_LABEL}: nothing waits in LocalQueue {queues[0]!r}"
