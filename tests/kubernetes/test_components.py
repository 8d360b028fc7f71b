"""Every component, alone and together with the others, over the GPU overlay."""

from __future__ import annotations

from pathlib import Path

import pytest

from launcher.k8s.objects import run_objects
from launcher.k8s.quantities import quantity

from . import checks, crd, pods
from .assemble import assemble
from .conftest import Combined
from .manifests import COMPONENTS, GPU_OVERLAY, QUEUES, ROOT, load_file, one

(_OWN,) = load_file(ROOT / GPU_OVERLAY / "kustomization.yaml")
INSIDE = [Path(path).name for path in _OWN["components"]]
OVER = [name for name in COMPONENTS if name not in INSIDE]
MODELS = ("llm-70b", "vicuna-13b")
TOGETHER = [
    [name for name in OVER if name == model or name not in MODELS] for model in (*MODELS, None)
]
CASES = [[], *([name] for name in OVER), *TOGETHER]


def test_every_component_is_combined():
    assert {name for case in CASES for name in case} | set(INSIDE) == set(COMPONENTS)


@pytest.mark.parametrize("names", CASES, ids="+".join)
def test_components(names: list[str], combined: Combined, crds: crd.Crds):
    docs = combined(names)
    assert checks.problems(docs, crds) == []
    assert checks.agreement_problems(docs) == []


@pytest.mark.parametrize("names", CASES, ids="+".join)
def test_the_queue_has_room_for_it(names: list[str], combined: Combined):
    """Kueue never admits a run that asks for what its ClusterQueue does not cover."""
    cluster_queue = one(assemble(ROOT / QUEUES), "ClusterQueue")
    (group,) = cluster_queue["spec"]["resourceGroups"]
    flavors = [
        {each["name"]: quantity(each["nominalQuota"]) for each in flavor["resources"]}
        for flavor in group["flavors"]
    ]
    for quotas in flavors:
        assert list(quotas) == group["coveredResources"]
    docs = combined(names)
    cluster = one(docs, "RayJob")["spec"]["rayClusterSpec"]
    head, worker, submitter = (asked(pod) for pod in pods.render(one(docs, "RayJob")))
    replicas = cluster["workerGroupSpecs"][0]["replicas"]
    on_cpus, on_gpus = flavors
    for name in {**head, **worker, **submitter}:
        assert name in group["coveredResources"]
        assert head.get(name, 0) + submitter.get(name, 0) <= on_cpus[name]
        assert replicas * worker.get(name, 0) <= on_gpus[name]


def asked(pod: pods.Pod) -> dict[str, float]:
    """What Kueue counts of a Pod."""
    found: dict[str, float] = {}
    for container in pod["spec"]["containers"]:
        for name, amount in container["resources"]["requests"].items():
            found[name] = found.get(name, 0) + quantity(amount)
    return found


def test_a_taken_node_is_drained_first(combined: Combined):
    docs = combined(["spot"])
    worker = pods.render(one(docs, "RayJob"))[1]["spec"]
    hook = worker["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
    assert hook[:3] == ["gcg", "k8s", "drain"]
    assert float(hook[hook.index("--seconds") + 1]) < worker["terminationGracePeriodSeconds"]


def test_settings_of_ones_own_come_last(combined: Combined):
    """A `user.yaml` beside components, as docs/kubernetes.md has it."""
    docs = combined(["spot", "vicuna-13b"], "scale: {num_workers: [8, 16], max_failures: 7}\n")
    config = run_objects(docs).config
    assert config.scale.max_failures == 7
    assert config.checkpoint.every == 50
    assert config.model.checkpoint == "Salesforce/instructblip-vicuna-13b"
    assert checks.agreement_problems(docs) == []
