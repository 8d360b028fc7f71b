"""Network policies: every Pod is denied by default, and each way in or out is a narrow one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from . import pods
from .manifests import Manifest, every

ANYWHERE = "0.0.0.0/0"
# What hands out a node's own credentials, on every large cloud.
METADATA = "169.254.0.0/16"


def problems(rendered: list[pods.Pod], docs: list[Manifest]) -> Iterator[str]:
    """
    Args:
        rendered: the Pods of the run.
        docs: all objects of its kustomization.
    """
    policies = every(docs, "NetworkPolicy")
    for pod in rendered:
        kinds = {
            kind
            for policy in policies
            if _selects(policy["spec"]["podSelector"], pod)
            for kind in policy["spec"].get("policyTypes", [])
        }
        for kind in ("Ingress", "Egress"):
            if kind not in kinds:
                yield f"{pod['metadata']['name']}: {kind} is not denied by default"
    for policy in policies:
        name, spec = policy["metadata"]["name"], policy["spec"]
        if not any(_selects(spec["podSelector"], pod) for pod in rendered):
            yield f"NetworkPolicy {name}: selects no Pod of the run"
        for way, peers in (("ingress", "from"), ("egress", "to")):
            for rule in spec.get(way, []):
                yield from _rule_problems(f"NetworkPolicy {name}: {way}", rule, peers, rendered)
    yield from _needed_problems(policies, rendered)


def _selects(selector: dict[str, Any], pod: pods.Pod) -> bool:
    labels = pod["metadata"].get("labels", {})
    return selector.get("matchLabels", {}).items() <= labels.items()


def _rule_problems(
    where: str, rule: dict[str, Any], peers: str, rendered: list[pods.Pod]
) -> Iterator[str]:
    if not rule.get(peers):
        yield f"{where}: a rule without {peers!r} is open to all"
    for peer in rule.get(peers, []):
        block = peer.get("ipBlock", {})
        if block.get("cidr") == ANYWHERE:
            if METADATA not in block.get("except", []):
                yield f"{where}: reaches the nodes' metadata service"
            if [port.get("port") for port in rule.get("ports", [])] != [443]:
                yield f"{where}: to anywhere by more than port 443"
        own = "podSelector" in peer and _is_own(peer, rendered)
        if not own and not rule.get("ports"):
            yield f"{where}: names no ports for a peer that is not of the run"
        if "podSelector" in peer and not own and not peer["podSelector"]:
            yield f"{where}: lets every Pod through"


def _is_own(peer: dict[str, Any], rendered: list[pods.Pod]) -> bool:
    labels = peer["podSelector"].get("matchLabels")
    return bool(labels) and "namespaceSelector" not in peer and _all(peer, rendered)


def _all(peer: dict[str, Any], rendered: list[pods.Pod]) -> bool:
    return all(_selects(peer["podSelector"], pod) for pod in rendered)


def _needed_problems(policies: list[Manifest], rendered: list[pods.Pod]) -> Iterator[str]:
    """What a run cannot do without: itself, names, the operator."""
    rules = {
        way: [rule for policy in policies for rule in policy["spec"].get(way, [])]
        for way in ("ingress", "egress")
    }
    for way, peers in (("ingress", "from"), ("egress", "to")):
        own = [
            rule
            for rule in rules[way]
            if any("podSelector" in p and _is_own(p, rendered) for p in rule.get(peers, []))
        ]
        if not own:
            yield f"no {way} between the run's own Pods"
    ports = [
        (port.get("protocol"), port.get("port"))
        for rule in rules["egress"]
        for port in rule.get("ports", [])
    ]
    for wanted in (("UDP", 53), ("TCP", 53)):
        if wanted not in ports:
            yield f"no way out to DNS by {wanted[0]}"
    if not any(
        port.get("port") == 8265 for rule in rules["ingress"] for port in rule.get("ports", [])
    ):
        yield "no way in for the operator on port 8265"
