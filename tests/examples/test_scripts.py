"""The scripts of examples/, as they stand, on few clips for few steps; a run file for a cluster."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from launcher.cli import main
from launcher.observe.runlog import read_metrics
from launcher.storage.run_folder import RunFolder
from tests.conftest import ROOT

SHORT = ["--set", "optim.steps=4", "--set", "optim.warmup_steps=1", "--set", "eval.max_videos=1"]


def run(folder: Path, script: str, *words: object, **variables: str) -> str:
    """Run a script with this checkout's `gcg`."""
    gcg = folder / "bin" / "gcg"
    gcg.parent.mkdir(exist_ok=True)
    gcg.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m launcher.cli "$@"\n')
    gcg.chmod(0o755)
    path = f"{gcg.parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["sh", f"examples/{script}", *map(str, words)],
        cwd=ROOT,
        env={**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), **variables},
        capture_output=True, text=True, timeout=280,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_feature_shards(tmp_path: Path):
    run(tmp_path, "feature_shards.sh", tmp_path / "out", *SHORT, VIDEOS="12")
    folder = RunFolder(tmp_path / "out" / "features")
    assert folder.is_complete
    assert read_metrics(folder.metrics)[-1]["step"] == 4


def test_the_larger_llm_is_planned(capsys: pytest.CaptureFixture[str]):
    plan = ["plan", str(ROOT / "examples" / "larger_llm.yaml"), "--gpu-memory", "80"]
    assert main([*plan, "--gpus", "8"]) == 0
    eight = capsys.readouterr().out
    assert "ZeRO-3, bf16, micro-batch 4, recomputed: llm; LLM lora" in eight
    assert "cheapest: engine.zero=" in eight
