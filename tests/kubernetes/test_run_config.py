"""The run files in the ConfigMaps are ones the launcher takes, and they fit the cluster."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from dataloaders.location import last_part
from launcher.config import RunConfig, load_run_config

from . import pods
from .checks import quantity
from .manifests import ROOT, Manifest, assemble, one

Read = Callable[[str], list[Manifest]]


@pytest.fixture
def job(read: Read, folder: str) -> Manifest:
    return one(read(folder), "RayJob")


@pytest.fixture
def config(read: Read, folder: str, tmp_path: Path) -> RunConfig:
    path = tmp_path / "run.yaml"
    path.write_text(one(read(folder), "ConfigMap")["data"]["run.yaml"], encoding="utf-8")
    return load_run_config(path)


def test_everything_lies_on_the_claim(config: RunConfig, job: Manifest):
    """A retry is a new cluster: what is not on the claim is gone."""
    for pod in pods.render(job)[:-1]:
        volumes = {v["name"]: v for v in pod["spec"]["volumes"]}
        (mount,) = [
            mount["mountPath"]
            for mount in pod["spec"]["containers"][0]["volumeMounts"]
            if "persistentVolumeClaim" in volumes[mount["name"]]
        ]
        for path in (config.run.storage, config.data.train, config.data.val):
            assert path is not None
            assert Path(path).is_relative_to(mount)


def test_workers_fit_the_cluster(config: RunConfig, job: Manifest):
    """Ray waits for ever for CPUs that no Pod brings."""
    cluster = job["spec"]["rayClusterSpec"]
    groups = [(cluster["headGroupSpec"], 1)]
    groups += [(group, group["replicas"]) for group in cluster.get("workerGroupSpecs", [])]
    slots = 0
    for group, replicas in groups:
        ray = group["template"]["spec"]["containers"][0]
        cpus = group["rayStartParams"].get("num-cpus", ray["resources"]["limits"]["cpu"])
        slots += replicas * int(quantity(cpus) // config.scale.cpus_per_worker)
    assert slots == config.scale.num_workers


def test_no_gpu_is_asked_for(config: RunConfig):
    assert not config.scale.use_gpu
    assert config.scale.address is None  # the job's own cluster, through RAY_ADDRESS


def demo_commands() -> list[list[str]]:
    """The `gcg` commands that make the demo's data before the head starts."""
    head = one(assemble(ROOT / "overlays/demo-cpu"), "RayJob")["spec"]["rayClusterSpec"]
    (container,) = head["headGroupSpec"]["template"]["spec"]["initContainers"]
    lines = [shlex.split(line) for line in container["args"][0].splitlines()]
    return [words[1:] for words in lines if words[0] == "gcg"]


@pytest.mark.parametrize("words", demo_commands(), ids=" ".join)
def test_demo_commands_exist(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    from launcher.cli import main

    monkeypatch.setattr(sys, "argv", ["gcg", words[0], "--help"])
    with pytest.raises(SystemExit) as done:
        main()
    assert not done.value.code
    text = capsys.readouterr().out
    for flag in [word for word in words if word.startswith("--")]:
        assert flag in text


def test_demo_makes_the_data_it_trains_on():
    commands = demo_commands()
    made = {Path(words[2]).name for words in commands if words[0] == "pack"}
    labelled = {Path(words[1]).name for words in commands if words[0] == "label"}
    config = load_run_config(ROOT / "overlays/demo-cpu" / "run.yaml")
    assert config.data.val is not None
    assert {last_part(str(config.data.train)), last_part(config.data.val)} == made
    assert labelled == {last_part(str(config.data.train))}
