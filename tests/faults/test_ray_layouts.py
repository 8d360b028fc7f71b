"""The real command through Ray, killed with SIGKILL and started again in another layout, twice."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from launcher.checkpoints.universal import caches
from launcher.config import RunConfig, dump, parse_run_config
from launcher.observe.runlog import read_metrics
from launcher.storage.run_folder import RunFolder
from launcher.training.weights import load_trained_weights
from launcher.training.worker import run_worker
from tests.launcher.conftest import run_tree
from tests.launcher.test_kill_resume import Command, last_step, saved_step
from tests.spawn import run_ranks

from .toy_runs import distance

STEPS = 16
# workers, ZeRO stage, and the step that must be saved before everything is killed
LEGS = [(2, 2, 4), (4, 3, 8), (1, 2, None)]


def make(packed: Path, storage: Path, name: str, world_size: int, zero: int) -> RunConfig:
    return parse_run_config(
        run_tree(
            packed,
            storage,
            run={"name": name},
            data={"streams": 4, "global_batch": 4, "contrast_group": 2, "val": None},
            optim={"steps": STEPS, "lr": 1e-3, "grounding_lr": 1e-3, "warmup_steps": 2},
            engine={"micro_batch": 1, "zero": zero, "precision": "fp32"},
            scale={"num_workers": world_size},
            checkpoint={"every": 4, "keep": 9},
            eval={"every": 0},
        )
    )


def train_quietly(config: RunConfig) -> None:
    run_worker(config, lambda figures: None)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_and_continued_in_other_layouts(
    packed: Path, tmp_path: Path, commands: list[Command]
):
    whole = make(packed, tmp_path, "whole", 2, 2)
    run_ranks(train_quietly, 2, whole, preloaded=True)
    folder = RunFolder(tmp_path / "killed")
    said, began = "", []
    for world_size, zero, until in LEGS:
        path = tmp_path / f"run-{world_size}.yaml"
        path.write_text(dump(make(packed, tmp_path, "killed", world_size, zero)))
        began.append(time.time())
        command = Command.start(path)
        commands.append(command)
        if until is None:
            code, said = command.finish()
            assert code == 0, said
            break
        command.wait_for(
            lambda until=until: last_step(folder) > saved_step(folder) >= until, f"step {until}"
        )
        lost = last_step(folder) - saved_step(folder)
        command.kill_everything()
        print(f"{world_size} workers, ZeRO-{zero}: {lost} steps lost")  # noqa: T201
    assert "from 4 workers, ZeRO-3, to 1, ZeRO-2" in said
    assert "continues from step" in said
    rows = read_metrics(folder.metrics)
    starts = [row for row in rows if row["kind"] == "start"]
    assert [row["world_size"] for row in starts] == [2, 4, 1]
    for at, row in zip(began, starts, strict=True):
        seconds = row["time"] - at
        print(f"attempt {row['attempt']}: restored {seconds:.0f} s after the command")  # noqa: T201
    assert len(caches(folder)) == 2
    ours, theirs = load_trained_weights(folder.final), load_trained_weights(whole.folder / "final")
    gap = distance(ours, theirs)
    print(f"relative difference of the final weights {gap:.2e}")  # noqa: T201
    assert gap < 1e-4
    losses = {row["step"]: row["loss"] for row in rows if row["kind"] == "train"}
    expected = read_metrics(RunFolder(whole.folder).metrics)
    assert losses == pytest.approx(
        {row["step"]: row["loss"] for row in expected if row["kind"] == "train"}, rel=1e-3
    )
