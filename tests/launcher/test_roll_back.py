"""Loss spikes in whole runs of the tiny model: back to the last checkpoint, past the data since."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from launcher.checkpoints.find import newest
from launcher.config import RunConfig, parse_run_config
from launcher.observe.lines import read_lines
from launcher.observe.runlog import read_metrics
from launcher.storage.run_folder import RunFolder
from launcher.training.worker import run_worker
from tests.spawn import run_ranks

from .conftest import run_tree

STEPS = 8


def make(packed: Path, storage: Path, name: str, every: int) -> RunConfig:
    """Weights hardly move: losses differ by their batches, and one lies 14 % above the others."""
    return parse_run_config(
        run_tree(
            packed,
            storage,
            run={"name": name},
            data={"val": None},
            optim={"steps": STEPS, "lr": 1e-9, "grounding_lr": 1e-9, "warmup_steps": 0},
            checkpoint={"every": every},
            safety={
                "on_spike": "roll_back",
                "spike_factor": 1.1,
                "spike_window": 2,
                "max_spikes": 60,
            },
            log={"questions": True},
        )
    )


def run_all(configs: list[RunConfig]) -> None:
    for config in configs:
        run_worker(config, lambda figures: None)


@pytest.fixture(scope="module")
def folders(packed: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, RunFolder]:
    storage = tmp_path_factory.mktemp("spikes")
    configs = [make(packed, storage, "back", 2), make(packed, storage, "nowhere", 100)]
    run_ranks(run_all, 2, configs, preloaded=True)
    return {config.run.name: RunFolder(config.folder) for config in configs}


def spikes(folder: RunFolder) -> list[dict[str, Any]]:
    return [json.loads(line) for line in folder.bad_steps.read_text().splitlines()]


def test_goes_back_and_on_behind_the_data(folders: dict[str, RunFolder]):
    folder = folders["back"]
    found = spikes(folder)
    assert found
    assert {row["cause"] for row in found} == {"spike"}
    assert all(pair["video"] and pair["question"] for row in found for pair in row["pairs"])
    rows = read_metrics(folder.metrics)
    backs = [row for row in rows if row["kind"] == "roll_back"]
    assert backs
    assert all(row["from"] - row["step"] in (1, 2) for row in backs)
    assert [row["step"] for row in rows if row["kind"] == "train"] == list(range(1, STEPS + 1))
    assert folder.is_complete
    # No batch was seen twice: the loader has gone as much further as was taken back.
    last = newest(folder)
    assert last is not None
    assert last.meta["guard"]["spikes"] == len(found)
    steps = [(row["epoch"], row["batch"]) for row in found]
    assert sorted(set(steps)) == steps
    # The account is of what the weights were made of: no step that was taken back.
    account = list(read_lines(folder.questions))
    assert [row["step"] for row in account] == list(range(1, STEPS + 1))
    assert all(row["left_out"] is None for row in account)
    assert not {(row["epoch"], row["batch"]) for row in account} & set(steps)


def test_without_a_checkpoint_the_step_is_left_out(folders: dict[str, RunFolder]):
    folder = folders["nowhere"]
    assert spikes(folder)
    rows = read_metrics(folder.metrics)
    assert not [row for row in rows if row["kind"] == "roll_back"]
    left_out = [row["step"] for row in read_lines(folder.questions) if row["left_out"] == "spike"]
    assert left_out == [row["step"] for row in spikes(folder)]
    assert [row["step"] for row in rows if row["kind"] == "train"] == list(range(1, STEPS + 1))
    assert folder.is_complete
