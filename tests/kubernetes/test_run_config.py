"""The run files in the ConfigMaps are ones the launcher takes, and the demo makes its data."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import pytest

from dataloaders.location import last_part
from launcher.config import load_run_config
from launcher.k8s.objects import run_objects

from .assemble import assemble
from .manifests import ROOT, one

OVERLAYS = ["overlays/demo-cpu", "overlays/zero3-h100", "overlays/vicuna-13b"]


@pytest.mark.parametrize("folder", OVERLAYS)
def test_the_jobs_own_cluster_is_joined(folder: str):
    config = run_objects(assemble(ROOT / folder)).config
    assert config.scale.address is None  # but the cluster in RAY_ADDRESS


def test_a_component_lays_its_settings_over_the_run_file():
    config = run_objects(assemble(ROOT / "overlays/vicuna-13b")).config
    assert config.model.checkpoint == "Salesforce/instructblip-vicuna-13b"
    below = load_run_config(ROOT / "overlays/zero3-h100/run.yaml")
    assert config.data == below.data
    assert config.scale == below.scale


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
