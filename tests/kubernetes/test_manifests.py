"""Our own manifests: nothing to complain about, whichever way they are read."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from launcher.errors import ConfigError
from launcher.k8s.objects import kustomize_command
from launcher.k8s.quantities import quantity

from . import checks, crd, pods
from .assemble import assemble
from .manifests import OVERLAYS, QUEUES, ROOT, Manifest, every, kustomize, load_all, load_file, one

Read = Callable[[str], list[Manifest]]
needs_kustomize = pytest.mark.skipif(
    kustomize_command() is None, reason="neither kubectl nor kustomize is installed"
)


def test_folder_holds_no_code():
    files = [path for path in ROOT.rglob("*") if path.is_file()]
    assert files
    assert {path.suffix for path in files} == {".yaml", ".json"}


@pytest.mark.parametrize(
    "path", sorted(ROOT.rglob("*.yaml")), ids=lambda p: str(p.relative_to(ROOT))
)
def test_yaml_is_strict(path: Path):
    assert load_file(path)


def test_a_key_given_twice_is_refused():
    with pytest.raises(ConfigError, match="'a' is given twice"):
        load_all("{a: 1, b: {a: 2}, a: 3}")


@pytest.mark.parametrize("path", sorted(ROOT.rglob("kustomization.yaml")), ids=str)
def test_every_file_beside_a_kustomization_is_used(path: Path):
    text = path.read_text(encoding="utf-8")
    for other in path.parent.iterdir():
        assert other == path or other.is_dir() or other.name in text, f"{other} is named nowhere"


def test_without_crds(read: Read, folder: str):
    assert checks.problems(read(folder), None) == []


def test_with_crds(read: Read, folder: str, crds: crd.Crds):
    assert checks.problems(read(folder), crds) == []


def test_pods_agree_with_the_run_file(read: Read, folder: str):
    assert checks.agreement_problems(read(folder)) == []


def test_queues(read: Read, crds: crd.Crds):
    assert checks.object_problems(read(QUEUES), crds) == []


@needs_kustomize
@pytest.mark.parametrize("folder", [*OVERLAYS, QUEUES])
def test_both_ways_of_reading_agree(folder: str):
    """The hash in a name, labels and the namespace are kustomize's alone; all else is equal."""

    def plain(doc: Any) -> Any:
        if isinstance(doc, dict):
            hidden = ("namespace", "app.kubernetes.io/part-of")
            return {k: plain(v) for k, v in doc.items() if k not in hidden and plain(v) != {}}
        if isinstance(doc, list):
            return [plain(item) for item in doc]
        return re.sub(r"^gcg-run-[a-z0-9]{10}$", "gcg-run", doc) if isinstance(doc, str) else doc

    def in_order(docs: list[Manifest]):
        found = [plain(doc) for doc in docs]
        return sorted(found, key=lambda doc: (doc["kind"], doc["metadata"]["name"]))

    assert in_order(kustomize(ROOT / folder)) == in_order(assemble(ROOT / folder))


@needs_kustomize
def test_kustomize_rewrites_what_hides_in_the_rayjob(folder: str):
    docs = kustomize(ROOT / folder)
    name = one(docs, "ConfigMap", "gcg-run")["metadata"]["name"]
    assert re.fullmatch(r"gcg-run-[a-z0-9]{10}", name)
    text = yaml.safe_dump(one(docs, "RayJob"))
    assert f"name: {name}" in text
    assert "name: gcg-run\n" not in text
    assert "image: gcg-train\n" not in text


@needs_kustomize
def test_a_prefix_reaches_every_reference(folder: str, tmp_path: Path, crds: crd.Crds):
    base = os.path.relpath(ROOT / folder, tmp_path)
    text = f"namePrefix: second-\nresources: ['{base}']\n"
    (tmp_path / "kustomization.yaml").write_text(text, encoding="utf-8")
    docs = kustomize(tmp_path)
    assert one(docs, "RayJob")["metadata"]["name"] == "second-gcg-train"
    assert checks.problems(docs, crds) == []


def test_rayjob_uses_the_ray_we_install(read: Read):
    pyproject = (ROOT.parent / "pyproject.toml").read_text(encoding="utf-8")
    installed = re.search(r'"ray\[[^\]]*\]==([\d.]+)"', pyproject)
    assert installed
    spec = one(read("base"), "RayJob")["spec"]
    assert spec["rayClusterSpec"]["rayVersion"] == installed.group(1)


def test_demo_is_one_node_without_a_gpu(read: Read):
    docs = read("overlays/demo-cpu")
    rendered = pods.render(one(docs, "RayJob"))
    assert [pod["metadata"]["name"] for pod in rendered] == [
        "gcg-train-head",
        "gcg-train-submitter",
    ]
    assert "gpu" not in yaml.safe_dump(rendered)
    assert one(docs, "PersistentVolumeClaim")["spec"]["accessModes"] == ["ReadWriteOnce"]
    levels = one(docs, "Namespace")["metadata"]["labels"]
    assert levels["pod-security.kubernetes.io/enforce"] == "restricted"


def test_a_bucket_takes_the_place_of_a_claim(read: Read):
    docs = read("overlays/llm-70b-spot-s3")
    assert not every(docs, "PersistentVolumeClaim")
    for pod in pods.render(one(docs, "RayJob"))[:2]:
        names = {v["name"] for v in pod["spec"]["containers"][0]["env"]}
        assert {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"} <= names
    submitter = pods.render(one(docs, "RayJob"))[-1]
    assert "AWS" not in yaml.safe_dump(submitter)


def test_kuberays_own_submitter_would_not_be_admitted(read: Read):
    """Why there is a submitterPodTemplate at all."""
    job = one(read("base"), "RayJob")
    del job["spec"]["submitterPodTemplate"]
    found = [line for pod in pods.render(job) for line in pods.restricted_problems(pod)]
    assert any("submitter" in line for line in found)


def test_every_ray_container_gets_the_token(read: Read):
    for pod in pods.render(one(read("base"), "RayJob")):
        env = {v["name"]: v for v in pod["spec"]["containers"][0]["env"]}
        assert env["RAY_AUTH_MODE"]["value"] == "token"
        assert env["RAY_AUTH_TOKEN"]["valueFrom"]["secretKeyRef"]["key"] == "auth_token"


@pytest.mark.parametrize(
    ("text", "number"),
    [("500m", 0.5), ("2", 2), (2, 2), ("1Gi", 2**30), ("512Mi", 2**29), ("3G", 3e9)],
)
def test_quantity(text: str | int, number: float):
    assert quantity(text) == number
