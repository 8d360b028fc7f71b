"""Whole runs of the tiny model on packed clips, in every mode and ZeRO stage, without Ray."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from gcg.build import build_model
from launcher.checkpoints.find import complete_checkpoints
from launcher.checkpoints.keep import read_best
from launcher.config import RunConfig, parse_run_config
from launcher.observe.runlog import read_metrics
from launcher.storage.run_folder import RunFolder, read_json
from launcher.training.weights import load_trained_weights
from launcher.training.worker import run_worker
from tests.spawn import run_ranks

from .conftest import run_tree

CASES: dict[str, dict[str, Any]] = {
    "grounding-2": {"model": {"mode": "grounding"}, "engine": {"zero": 2}},
    "oracle-3": {"model": {"mode": "oracle"}, "engine": {"zero": 3}},
    "uniform-1": {"model": {"mode": "uniform"}, "engine": {"zero": 1, "precision": "fp32"}},
}


def run_all(configs: list[RunConfig]) -> list[list[dict[str, Any]]]:
    reported: list[list[dict[str, Any]]] = []
    for config in configs:
        reports: list[dict[str, Any]] = []
        run_worker(config, lambda figures, into=reports: into.append(dict(figures)))
        reported.append(reports)
    return reported


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


Trained = tuple[dict[str, RunConfig], list[list[list[dict[str, Any]]]]]


@pytest.fixture(scope="module")
def trained(packed: Path, storage: Path) -> Trained:
    configs = {name: make(packed, storage, name, **case) for name, case in CASES.items()}
    sets = [{"place": str(packed / "train")}, {"place": str(packed / "test"), "repeat": 2}]
    configs["mixture"] = make(packed, storage, "mixture", data={"train": None, "mixture": sets})
    wild = make(
        packed,
        storage,
        "wild",
        optim={"lr": 1e30, "warmup_steps": 0},
        safety={"max_bad_steps": 1},
    )
    spoilt = make(
        packed,
        storage,
        "spoilt",
        data={"train": str(with_a_spoilt_shard(packed, storage)), "max_bad_share": 0.0},
        model={"mode": "uniform"},
        optim={"steps": 50, "warmup_steps": 1},
    )
    return configs, run_ranks(run_all, 2, [*configs.values(), wild, spoilt])


def with_a_spoilt_shard(packed: Path, storage: Path) -> Path:
    """A copy of the clips whose first shard no longer holds what its index says."""
    copy = shutil.copytree(packed / "train", storage / "spoilt-data")
    tar = min(copy.glob("*.tar"))
    tar.write_bytes(bytes(len(tar.read_bytes())))
    return copy


def make(packed: Path, storage: Path, name: str, **sections: dict[str, Any]) -> RunConfig:
    return parse_run_config(run_tree(packed, storage, run={"name": name}, **sections))


@pytest.mark.parametrize("name", [*CASES, "mixture"])
def test_a_run_leaves_what_it_promises(trained: Trained, name: str):
    config = trained[0][name]
    folder = RunFolder(config.folder)
    rows = read_metrics(folder.metrics)
    assert [row["step"] for row in rows if row["kind"] == "train"] == [1, 2, 3, 4]
    assert all(row["bad"] == row["timeouts"] == 0 for row in rows if row["kind"] == "train")
    assert [row["step"] for row in rows if row["kind"] == "val"] == [4]
    assert [c.step for c in complete_checkpoints(folder)] == [2, 4]
    assert folder.is_complete
    best = read_best(folder)
    assert best is not None
    assert best["step"] == 4
    assert not folder.stopped.exists()


@pytest.mark.parametrize("name", CASES)
def test_the_final_weights_are_the_trained_ones(trained: Trained, name: str):
    config = trained[0][name]
    model = build_model(config.model, config.run.seed)
    begun = {n: p.clone() for n, p in model.named_parameters()}
    missing, unexpected = model.load_state_dict(
        load_trained_weights(RunFolder(config.folder).final), strict=False
    )
    assert not unexpected
    learning = {n for n, p in model.named_parameters() if p.requires_grad}
    assert not learning & set(missing)
    moved = {n for n, p in model.named_parameters() if not torch.equal(p, begun[n])}
    assert moved <= learning
    assert len(moved) > len(learning) / 2


def test_reports_are_equally_often_on_every_rank(trained: Trained):
    first, second = trained[1]
    assert first == second  # the one that bad data stopped, too
    assert [report["step"] for report in first[0]] == [2, 4]


def test_too_many_bad_clips_on_one_rank_stop_all(trained: Trained, storage: Path):
    folder = RunFolder(storage / "spoilt")
    stopped = read_json(folder.stopped)
    assert stopped is not None
    assert all("data.max_bad_share is 0.0" in line for line in stopped["lines"])
    assert any(folder.quarantine(rank).exists() for rank in (0, 1))
    assert not folder.is_complete


def test_a_loss_that_is_no_number_stops_all_and_spoils_nothing(trained: Trained, storage: Path):
    folder = RunFolder(storage / "wild")
    stopped = read_json(folder.stopped)
    assert stopped is not None
    assert "not a finite number" in stopped["lines"][0] or "norm" in stopped["lines"][0]
    assert not folder.is_complete
