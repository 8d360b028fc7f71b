"""`gcg k8s render` and `check`: what is written agrees with the run file; all else is told."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from launcher.config import load_run_config
from launcher.k8s.objects import kustomize_command, run_objects
from launcher.k8s.parts import parts_folder
from launcher.k8s.sizing import plan_worker

from . import checks, crd, pods
from .conftest import Command
from .manifests import GPU_OVERLAY, ROOT, Manifest, every, kustomize, one

IMAGE = "ghcr.io/you/gcg-train@sha256:" + 64 * "5"
GPU_RUN = ROOT / GPU_OVERLAY / "run.yaml"
CPU_RUN = ROOT / "overlays/demo-cpu/run.yaml"
ELASTIC = ("--set", "scale.num_workers=[8,16]")

pytestmark = pytest.mark.skipif(
    kustomize_command() is None, reason="neither kubectl nor kustomize is installed"
)


def words(config: Path, out: Path, *more: str, nodes: int = 2) -> list[str]:
    return [
        "k8s",
        "render",
        str(config),
        f"--nodes={nodes}",
        f"--image={IMAGE}",
        f"--out={out}",
        *more,
    ]


@pytest.mark.parametrize(
    ("config", "more"),
    [
        (GPU_RUN, ()),
        (GPU_RUN, ("--component=rdma", "--component=kueue", "--component=monitoring")),
        (GPU_RUN, (*ELASTIC, "--component=spot", "--name=second", "--namespace=team")),
        (GPU_RUN, ("--set=safety.grace_s=500",)),
        (GPU_RUN, ("--claim=datasets", "--gpu-product=NVIDIA-H200", "--gpu-memory=141")),
        (CPU_RUN, ()),
    ],
    ids=["gpu", "components", "spot", "long grace", "own claim", "cpu"],
)
def test_what_is_rendered_passes_every_check(
    config: Path, more: tuple[str, ...], gcg: Command, tmp_path: Path, crds: crd.Crds
):
    out = tmp_path / "out"
    code, told, errors = gcg(*words(config, out, *more))
    assert (code, errors) == (0, [])
    assert told[-1] == f"next: kubectl apply -k {out}"
    docs = kustomize(out)
    if "--claim=datasets" in more:
        assert not every(docs, "PersistentVolumeClaim")
        docs.append({"apiVersion": "v1", **claim_named("datasets")})
    assert checks.problems(docs, crds) == []
    assert checks.agreement_problems(docs) == []
    code, told, _ = gcg("k8s", "check", out)
    assert code == 0
    assert "agrees" in told[0]


def claim_named(name: str) -> Manifest:
    spec = {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Ti"}}}
    return {"kind": "PersistentVolumeClaim", "metadata": {"name": name}, "spec": spec}


def test_the_run_file_is_the_users(gcg: Command, tmp_path: Path):
    gcg(*words(GPU_RUN, tmp_path / "out", *ELASTIC, "--component=spot"))
    run = run_objects(kustomize(tmp_path / "out"))
    assert run.config == load_run_config(GPU_RUN, [ELASTIC[1]])
    (workers,) = run.workers
    assert (workers.least, workers.replicas, workers.gpus, workers.slots) == (1, 2, 8, 8)
    assert {group.ray["image"] for group in run.groups} == {IMAGE}


def test_what_is_offloaded_is_memory_of_the_host(gcg: Command, tmp_path: Path):
    """Weights and both moments in float32, 12 bytes a trained parameter: half of the 16 shares."""
    limits = []
    for parts in ("[]", "[optimizer]"):
        gcg(*words(GPU_RUN, tmp_path / "out", f"--set=engine.offload={parts}"))
        (workers,) = run_objects(kustomize(tmp_path / "out")).workers
        limits.append(workers.memory)
    trained = plan_worker(load_run_config(GPU_RUN, [])).census.trained
    assert limits[1] - limits[0] >= 12 * trained // 2


def test_two_runs_in_a_namespace_know_each_other_apart(gcg: Command, tmp_path: Path):
    """By names, and by the label that budgets, policies and spreading select by."""
    gcg(*words(GPU_RUN, tmp_path / "out", "--name=second", "--component=monitoring"))
    docs = kustomize(tmp_path / "out")
    other = [
        doc["metadata"]["name"] for doc in docs if not doc["metadata"]["name"].startswith("second-")
    ]
    assert other == []
    label = "app.kubernetes.io/instance"
    rendered = pods.render(one(docs, "RayJob"))
    assert {pod["metadata"]["labels"][label] for pod in rendered} == {"second"}
    text = yaml.safe_dump(docs)
    assert f"{label}: gcg-train" not in text
    (policy,) = [
        doc["spec"]
        for doc in every(docs, "NetworkPolicy")
        if doc["metadata"]["name"] == "second-gcg-train"
    ]
    operator, names = policy["ingress"][1]["from"][0], policy["egress"][1]["to"][0]
    for foreign in (operator, names):
        assert label not in yaml.safe_dump(foreign)


@pytest.mark.parametrize(
    ("config", "more", "nodes", "line"),
    [
        (GPU_RUN, (), 3, "scale.num_workers = 16: --nodes 3 of 8 GPUs are 24; use --nodes 2, or"),
        (GPU_RUN, (), 0, "--nodes 0: must be at least 1"),
        (GPU_RUN, ("--gpus-per-node=4",), 2, "--nodes 2 of 4 GPUs are 8; use --nodes 4, or --set"),
        (GPU_RUN, ("--gpus-per-node=0",), 2, "--gpus-per-node 0: must be at least 1"),
        (CPU_RUN, (), 3, "--nodes 3: must divide scale.num_workers = 2"),
        (CPU_RUN, ("--component=rdma",), 2, "--component rdma: needs scale.use_gpu=true"),
        (CPU_RUN, ("--gpu-product=NVIDIA-H200",), 2, "--gpu-product NVIDIA-H200: scale.use_gpu"),
        (GPU_RUN, ("--image=gcg:latest",), 2, "--image gcg:latest: must name a digest"),
        (GPU_RUN, ("--image=gcg@sha256:12",), 2, "--image gcg@sha256:12: must name a digest"),
        (GPU_RUN, ("--component=volcano",), 2, "--component volcano: there is none; choose of gpu"),
        (GPU_RUN, ("--component=llm-70b",), 2, "--component llm-70b: the run file names the model"),
        (GPU_RUN, ("--component=storage-s3",), 2, "is kept by storage-pvc; use a URL there"),
        (
            GPU_RUN,
            ("--component=storage-pvc", "--set=run.storage=s3://bucket/runs"),
            2,
            "is kept by storage-s3; use a folder below /mnt/gcg there",
        ),
        (GPU_RUN, ("--component=spot",), 2, "--component spot: scale.num_workers = 16 is fixed"),
        (GPU_RUN, ("--name=My_Run",), 2, "--name My_Run: must be lower-case letters"),
        (GPU_RUN, (f"--name={'x' * 38}",), 2, "has 38 characters, at most 37"),
        (GPU_RUN, ("--namespace=-",), 2, "--namespace -: must be lower-case letters"),
        (
            GPU_RUN,
            ("--node-memory=60",),
            2,
            "--node-memory 60: a Pod needs 62.0 GiB (Ray's daemons",
        ),
        (
            GPU_RUN,
            ("--node-cpus=64",),
            2,
            "--node-cpus 64: a Pod needs 82, 8 workers of scale.cpus",
        ),
        (GPU_RUN, ("--gpu-memory=40",), 2, "needs 53.7 GB of its GPU's 40 GB at its peak"),
        (GPU_RUN, ("--gpu-memory=0",), 2, "--gpu-memory 0: must be more than 0"),
        (
            GPU_RUN,
            ("--set=run.storage=/tmp/runs",),
            2,
            "run.storage = /tmp/runs: lies outside of /mnt/gcg",
        ),
        (
            GPU_RUN,
            ("--set=data.streams=24",),
            2,
            "scale.num_workers = 16: must divide data.streams",
        ),
        (
            GPU_RUN,
            (*ELASTIC, "--component=spot", "--set=safety.grace_s=300"),
            2,
            "safety.grace_s = 300: trainer Pods are drained for 240 s",
        ),
        (GPU_RUN, ("--base=/nowhere",), 2, "--base /nowhere: no base/kustomization.yaml there"),
    ],
)
def test_what_does_not_agree_is_refused(
    config: Path, more: tuple[str, ...], nodes: int, line: str, gcg: Command, tmp_path: Path
):
    out = tmp_path / "out"
    code, told, errors = gcg(*words(config, out, *more, nodes=nodes))
    assert (code, told) == (2, [])
    assert any(line in error for error in errors), errors
    assert list(tmp_path.iterdir()) == []  # nothing half written


def test_all_problems_are_told_at_once(gcg: Command, tmp_path: Path):
    more = ("--image=x", "--component=spot", "--name=A")
    _, _, errors = gcg(*words(GPU_RUN, tmp_path / "out", *more, nodes=3))
    assert len(errors) == 4


def test_only_what_it_wrote_is_written_over(gcg: Command, tmp_path: Path):
    out = tmp_path / "out"
    assert gcg(*words(CPU_RUN, out))[0] == 0
    (out / "mine.txt").write_text("x")
    assert gcg(*words(CPU_RUN, out, "--name=other"))[0] == 0
    assert one(kustomize(out), "RayJob")["metadata"]["name"] == "other-gcg-train"
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "kustomization.yaml").write_text("resources: []\n")
    code, _, errors = gcg(*words(CPU_RUN, foreign))
    assert code == 2
    assert "is there, and not written by this command" in errors[0]
    assert (foreign / "kustomization.yaml").read_text() == "resources: []\n"


def test_a_failed_rendering_leaves_the_one_before(gcg: Command, tmp_path: Path):
    out = tmp_path / "out"
    gcg(*words(CPU_RUN, out))
    before = (out / "run.yaml").read_text()
    assert gcg(*words(CPU_RUN, out, "--set=run.storage=/tmp/runs"))[0] == 2
    assert (out / "run.yaml").read_text() == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_without_kustomize_it_says_so(
    gcg: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("PATH", str(tmp_path))
    out = tmp_path / "out"
    code, told, _ = gcg(*words(CPU_RUN, out))
    assert code == 0
    assert told[2].startswith("not checked: neither kubectl nor kustomize is installed here")
    code, _, errors = gcg("k8s", "check", out)
    assert code == 2
    assert "install one, or render it elsewhere" in errors[0]
    # What needs no rendering is refused all the same.
    assert gcg(*words(CPU_RUN, out, "--set=run.storage=/tmp/runs"))[0] == 2
    assert gcg(*words(GPU_RUN, out, "--gpu-memory=40"))[0] == 2


def test_the_parts_of_a_checkout_are_found():
    assert parts_folder() == ROOT
