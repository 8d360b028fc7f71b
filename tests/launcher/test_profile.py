"""Traces of a few steps: what is in them, how small they are, and that they never end a run."""

from __future__ import annotations

import gzip
import json
import logging
from pathlib import Path

import pytest
import torch

from launcher.config import RunConfig, parse_run_config
from launcher.observe.profile import StepProfiler
from launcher.observe.runlog import read_metrics
from launcher.storage.run_folder import RunFolder
from launcher.training.worker import run_worker
from tests.launcher.conftest import run_tree
from tests.spawn import run_ranks


def step() -> None:
    torch.matmul(torch.ones(8, 8), torch.ones(8, 8))


def watch(folder: Path, made: int, steps: int = 2) -> None:
    profiler = StepProfiler(folder, 3, 100, steps, torch.device("cpu"))
    for _ in range(made):
        step()
        profiler.step()
    profiler.close()


def test_a_few_steps_once(tmp_path: Path):
    watch(tmp_path / "profile", 12)
    trace, table = sorted((tmp_path / "profile").iterdir())
    assert (trace.name, table.name) == ("attempt-3-step-105.json.gz", "attempt-3-step-105.txt")
    events = json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]
    assert sum(event.get("name") == "aten::matmul" for event in events) == 2
    assert "aten::mm" in table.read_text()
    assert trace.stat().st_size < 100_000


@pytest.mark.parametrize("made", [0, 3, 5])
def test_an_attempt_that_ends_before_leaves_none(tmp_path: Path, made: int):
    watch(tmp_path / "profile", made)
    assert not (tmp_path / "profile").exists()


def test_a_folder_that_cannot_be_written_ends_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    (tmp_path / "profile").write_text("in the way")
    with caplog.at_level(logging.WARNING):
        watch(tmp_path / "profile", 8)
    assert "cannot be written" in caplog.text


def train_quietly(config: RunConfig) -> None:
    run_worker(config, lambda figures: None)


def test_a_run_is_traced(packed: Path, tmp_path: Path):
    """Rank 0 alone writes; the trace has the model's forward and backward and the engine's step."""
    tree = run_tree(
        packed, tmp_path, data={"val": None}, optim={"steps": 6}, log={"profile": 1, "every": 1}
    )
    config = parse_run_config(tree)
    run_ranks(train_quietly, 2, config, preloaded=True)
    folder = RunFolder(config.folder)
    assert folder.is_complete
    assert len([row for row in read_metrics(folder.metrics) if row["kind"] == "train"]) == 6
    trace, table = sorted(folder.profile.iterdir())
    assert trace.name == "attempt-1-step-5.json.gz"
    names = {
        event.get("name", "")
        for event in json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]
    }
    assert any("MmBackward" in name or "AddmmBackward" in name for name in names)
    assert any("all_reduce" in name for name in names)
    assert "Self CPU" in table.read_text()
    assert trace.stat().st_size < 5_000_000
