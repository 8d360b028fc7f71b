"""Being asked to leave, and hanging: the real command through Ray, on real clips.

One run is asked four times: a worker gets SIGTERM, a worker is stopped (a rank that hangs), the
command gets SIGTERM, and is started again. Its weights are those of an undisturbed run.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import torch

from launcher.cluster.departure import EXIT_RESUME
from launcher.config import RunConfig, dump, parse_run_config
from launcher.observe.runlog import read_metrics
from launcher.storage.run_folder import RunFolder
from launcher.training.weights import load_trained_weights
from launcher.training.worker import run_worker
from tests.launcher.conftest import run_tree
from tests.launcher.test_kill_resume import Command
from tests.spawn import run_ranks

STEPS = 40

pytestmark = pytest.mark.slow


def make(packed: Path, storage: Path, name: str, every: int = 100, grace_s: int = 60) -> RunConfig:
    return parse_run_config(
        run_tree(
            packed,
            storage,
            run={"name": name},
            data={"val": None},
            optim={"steps": STEPS, "lr": 1e-3, "grounding_lr": 1e-3, "warmup_steps": 2},
            checkpoint={"every": every, "keep": 2},
            scale={"max_failures": 1},
            safety={"hang_timeout_s": 25, "grace_s": grace_s},
        )
    )


def train_quietly(config: RunConfig) -> None:
    run_worker(config, lambda figures: None)


@pytest.fixture
def commands() -> Iterator[list[Command]]:
    started: list[Command] = []
    yield started
    for command in started:
        command.kill_everything()


def rows(folder: RunFolder, kind: str) -> list[dict]:
    return [row for row in read_metrics(folder.metrics) if row["kind"] == kind]


def test_asked_to_leave_and_hung(packed: Path, tmp_path: Path, commands: list[Command]):
    config = make(packed, tmp_path, "disturbed")
    folder = RunFolder(config.folder)
    path = tmp_path / "run.yaml"
    path.write_text(dump(config))

    def steps() -> int:
        return max((row["step"] for row in rows(folder, "train")), default=0)

    command = Command.start(path)
    commands.append(command)
    command.wait_for(lambda: steps() >= 3, "the first steps")
    command.workers()[1].send_signal(signal.SIGTERM)
    command.wait_for(lambda: len(rows(folder, "left")) == 1, "a worker asked to leave")
    left = rows(folder, "left")[0]
    assert left["reason"] == "a worker received SIGTERM"
    assert [row["step"] for row in rows(folder, "saved")] == [left["step"]]

    # The same command goes on with other workers, though no failure has been counted.
    command.wait_for(lambda: steps() >= left["step"] + 3, "steps after it")
    hung = command.workers()[0]
    hung.send_signal(signal.SIGSTOP)
    command.wait_for(lambda: len(rows(folder, "start")) == 3, "a rank that hung replaced")
    assert rows(folder, "start")[2]["step"] == left["step"]
    stacks = [p.read_text() for p in (folder.root / "logs").glob("hang-worker-*")]
    assert any("Timeout" in text and "launcher/training/loop.py" in text for text in stacks)

    command.wait_for(lambda: steps() >= left["step"] + 3, "steps after that")
    command.process.send_signal(signal.SIGTERM)
    code, words = command.finish()
    assert code == EXIT_RESUME, words
    assert "left with a checkpoint of step" in words
    asked = rows(folder, "left")[-1]
    assert asked["reason"] == "the command was asked to stop"
    assert f"step {asked['step']};" in words
    assert asked["step"] < STEPS

    again = Command.start(path)
    commands.append(again)
    code, words = again.finish()
    assert code == 0, words
    assert rows(folder, "start")[-1]["step"] == asked["step"]  # nothing was done twice
    assert [row["step"] for row in rows(folder, "train")] == list(range(1, STEPS + 1))

    check_equal(config, make(packed, tmp_path, "whole"))


def test_five_seconds_of_grace(packed: Path, tmp_path: Path, commands: list[Command]):
    """All workers get SIGTERM, and SIGKILL five seconds later: they have left by then, or no more
    is lost than what came after the last checkpoint."""
    config = make(packed, tmp_path, "hurried", every=4, grace_s=5)
    folder = RunFolder(config.folder)
    path = tmp_path / "run.yaml"
    path.write_text(dump(config))
    command = Command.start(path)
    commands.append(command)
    command.wait_for(lambda: len(rows(folder, "train")) >= 6, "steps past a checkpoint")
    workers = command.workers()
    asked_at = time.time()
    for worker in workers:
        worker.send_signal(signal.SIGTERM)
    _, late = psutil.wait_procs(workers, timeout=5)
    for worker in late:
        worker.kill()
    made = rows(folder, "train")[-1]["step"]
    code, words = command.finish()
    assert code == 0, words
    left, again = rows(folder, "left"), rows(folder, "start")[1]
    assert made - again["step"] <= (0 if left else 4 + 1)
    if left:
        assert again["step"] == left[0]["step"]
    assert [row["step"] for row in rows(folder, "train")] == list(range(1, STEPS + 1))
    print(  # noqa: T201
        f"{len(late)} of 2 killed; left with a checkpoint: {bool(left)}; at step {made}, "
        f"begun again at {again['step']} after {again['time'] - asked_at:.0f} s"
    )
    check_equal(config, make(packed, tmp_path, "whole"))


def check_equal(config: RunConfig, whole: RunConfig) -> None:
    run_ranks(train_quietly, 2, whole)
    found, expected = (
        load_trained_weights(RunFolder(each.folder).final) for each in (config, whole)
    )
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)
