"""The examples run as their docstrings say."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from launcher.config import load_run_config
from tests.conftest import ROOT


def test_demo_run_file_is_valid_in_every_mode() -> None:
    for mode in ("uniform", "grounding", "oracle"):
        config = load_run_config(ROOT / "examples" / "demo.yaml", [f"model.mode={mode}"])
        assert config.model.mode == mode


def test_kubernetes_demo_trains_what_the_demo_trains() -> None:
    overlay = ROOT / "kubernetes" / "overlays" / "demo-cpu" / "run.yaml"
    here, there = load_run_config(ROOT / "examples" / "demo.yaml"), load_run_config(overlay)
    assert here.model == there.model
    assert here.optim == there.optim


@pytest.mark.slow
def test_tiny_encoder_training(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "examples.train_tiny_encoder", "--out", str(tmp_path)]
    command += ["--steps", "30", "--scenes", "40", "--batch", "32"]
    subprocess.run(command, cwd=ROOT, check=True, timeout=280)
    record = json.loads((tmp_path / "tiny_encoder.json").read_text())
    assert 0 <= record["statement_top1_of_480"] <= 1
    shipped = json.loads((ROOT / "gcg" / "assets" / "tiny_encoder.json").read_text())
    assert set(record) == set(shipped)
    tokenizer = (tmp_path / "tiny_tokenizer.json").read_bytes()
    assert tokenizer == (ROOT / "gcg" / "assets" / "tiny_tokenizer.json").read_bytes()
