"""Three hosts with their own addresses: one is cut off in the middle of a run, which recovers.

The hosts' own name means 127.0.1.1, to which gloo would bind by itself: two hosts then never meet.
"""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch

from launcher.config import RunConfig, dump, parse_run_config
from launcher.observe.runlog import read_metrics
from launcher.storage.run_folder import RunFolder
from launcher.training.weights import load_trained_weights
from launcher.training.worker import run_worker
from tests.conftest import ROOT
from tests.faults.ray_nodes import ray_environment, ray_nodes
from tests.launcher.conftest import run_tree
from tests.launcher.test_kill_resume import Command, last_step, saved_step
from tests.spawn import run_ranks

from .hosts import hosts, why_not

STEPS = 24

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def make(packed: Path, storage: Path, name: str) -> RunConfig:
    return parse_run_config(
        run_tree(
            packed,
            storage,
            run={"name": name},
            data={"val": None},
            optim={"steps": STEPS, "lr": 1e-3, "grounding_lr": 1e-3, "warmup_steps": 2},
            checkpoint={"every": 4},
            scale={"max_failures": 1},
        )
    )


def train_quietly(config: RunConfig) -> None:
    run_worker(config, lambda figures: None)


def rows(folder: RunFolder, kind: str) -> list[dict]:
    return [row for row in read_metrics(folder.metrics) if row["kind"] == kind]


def test_a_host_is_cut_off(packed: Path, tmp_path: Path):
    reason = why_not()
    if reason is not None:
        pytest.skip(reason)
    config = make(packed, tmp_path, "hosts")
    path, folder = tmp_path / "run.yaml", RunFolder(config.folder)
    path.write_text(dump(config))
    environment = {
        **ray_environment(),
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        # A host is given up after 6 s, not half a minute.
        "RAY_health_check_period_ms": "1000",
        "RAY_health_check_timeout_ms": "2000",
        "RAY_health_check_failure_threshold": "3",
    }
    with hosts(3, tmp_path) as network, ray_nodes(environment, hosts=network) as nodes:
        for _ in range(2):
            nodes.add()
        inside = {**environment, "RAY_ADDRESS": nodes.address}
        command = Command.start(path, inside, network(0).enter)
        try:
            command.wait_for(
                lambda: last_step(folder) > saved_step(folder) >= 4, "steps past a checkpoint"
            )
            number = next(each for each in (1, 2) if nodes.workers(each))
            cut_at = time.time()
            network.cut_off(number)
            command.wait_for(lambda: len(rows(folder, "start")) == 2, "going on without the host")
            back = rows(folder, "start")[1]
            code, said = command.finish()
            assert code == 0, said
        finally:
            command.kill_everything()
    print(f"a host cut off: restored in {back['time'] - cut_at:.0f} s")  # noqa: T201
    assert [row["step"] for row in rows(folder, "train")] == list(range(1, STEPS + 1))
    check_equal(packed, tmp_path, folder)


def check_equal(packed: Path, tmp_path: Path, folder: RunFolder) -> None:
    whole = make(packed, tmp_path, "whole")
    run_ranks(train_quietly, 2, whole, preloaded=True)
    found, expected = (
        load_trained_weights(each.final) for each in (folder, RunFolder(whole.folder))
    )
    assert all(torch.equal(found[name], expected[name]) for name in expected)
