"""`gcg k8s check`: objects of a file or a folder against their run file; what is no run is told."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import yaml

from launcher.k8s.objects import kustomize_command

from .conftest import Command
from .manifests import GPU_OVERLAY, ROOT, kustomize, one

pytestmark = pytest.mark.skipif(
    kustomize_command() is None, reason="neither kubectl nor kustomize is installed"
)


def test_check_reads_a_file_and_says_what_differs(gcg: Command, tmp_path: Path):
    docs = copy.deepcopy(kustomize(ROOT / GPU_OVERLAY))
    group = one(docs, "RayJob")["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]
    group.update(replicas=1, minReplicas=1, maxReplicas=1)
    path = tmp_path / "rendered.yaml"
    path.write_text(yaml.safe_dump_all(docs))
    code, told, _ = gcg("k8s", "check", path)
    assert code == 1
    assert told[0].startswith("scale.num_workers = 16: the Pods have room for 8")
    assert any("minAvailable 1 of 1 Pods; use 0" in line for line in told)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a: [", "correct the YAML"),
        ("a: 1", "holds what is no Kubernetes object"),
        ("{kind: Pod, metadata: {name: a}}", "kind RayJob: there are 0"),
        ("{kind: RayJob, metadata: {name: a}, spec: {}}", "names no --config"),
        (
            "{kind: RayJob, metadata: {name: a}, spec: {entrypoint: x --config /etc/gcg}}",
            "has not the shape of one of ours",
        ),
    ],
)
def test_check_of_what_is_no_run(text: str, line: str, gcg: Command, tmp_path: Path):
    path = tmp_path / "objects.yaml"
    path.write_text(text)
    code, _, errors = gcg("k8s", "check", path)
    assert code == 2
    assert line in errors[0]


@pytest.mark.parametrize("key", ["../run.yaml", "/tmp/run.yaml", "..run.yaml", "a/b", ".", ""])
def test_check_writes_no_file_that_objects_name(key: str, gcg: Command, tmp_path: Path):
    docs = copy.deepcopy(kustomize(ROOT / GPU_OVERLAY))
    one(docs, "ConfigMap")["data"][key] = "run: {}"
    path = tmp_path / "objects.yaml"
    path.write_text(yaml.safe_dump_all(docs))
    code, _, errors = gcg("k8s", "check", path)
    assert code == 2
    assert errors[0].startswith(f"ConfigMap: data[{key!r}] is no key of a ConfigMap")


def test_check_of_what_is_not_there(gcg: Command, tmp_path: Path):
    code, _, errors = gcg("k8s", "check", tmp_path / "nothing")
    assert code == 2
    assert "No such file" in errors[0]
    code, _, errors = gcg("k8s", "check", tmp_path)
    assert code == 2
    assert "kustomize refuses it" in errors[0]
