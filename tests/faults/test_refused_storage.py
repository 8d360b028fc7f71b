"""Storage that is really full, and really read-only, below the real command on real clips."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from launcher.cluster.departure import EXIT_RESUME
from launcher.config import RunConfig, dump, parse_run_config
from launcher.observe.lines import read_lines
from launcher.observe.runlog import read_metrics
from launcher.storage.run_folder import RunFolder
from launcher.training.weights import load_trained_weights
from launcher.training.worker import run_worker
from tests.launcher.conftest import run_tree
from tests.launcher.test_kill_resume import Command, last_step, saved_step
from tests.spawn import run_ranks

from .small_disk import SmallDisk, can_mount, small_disk

STEPS = 60  # more than are made until a test is through: the pace of a machine decides nothing
EVERY = 4
LINES = 2**16  # bytes: room for lines, not for a checkpoint

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not can_mount(), reason="may not mount file systems here"),
]


def make(packed: Path, storage: Path, max_failed: int = 1000) -> RunConfig:
    return parse_run_config(
        run_tree(
            packed,
            storage,
            run={"name": "run"},
            data={"val": None},
            optim={"steps": STEPS, "lr": 1e-3, "grounding_lr": 1e-3, "warmup_steps": 2},
            checkpoint={"every": EVERY, "keep": 2, "max_failed": max_failed},
            log={"questions": True, "tensorboard": True},
        )
    )


def train_quietly(config: RunConfig) -> None:
    run_worker(config, lambda figures: None)


def rows(folder: RunFolder, kind: str) -> list[dict[str, Any]]:
    return [row for row in read_metrics(folder.metrics) if row["kind"] == kind]


@pytest.fixture(scope="module")
def whole(
    packed: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[], dict[str, torch.Tensor]]:
    """Gives the weights of the run that no storage refused; trained when first asked for."""
    config = make(packed, tmp_path_factory.mktemp("whole"))
    folder = RunFolder(config.folder)

    def weights() -> dict[str, torch.Tensor]:
        if not folder.is_complete:
            run_ranks(train_quietly, 2, config, preloaded=True, timeout_s=800)
        return load_trained_weights(folder.final)

    return weights


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "disk", megabytes=96) as made:
        yield made


Start = Callable[..., Command]
Weights = Callable[[], dict[str, torch.Tensor]]


@pytest.fixture
def start(packed: Path, tmp_path: Path, disk: SmallDisk, commands: list[Command]) -> Start:
    """Starts the command, which sees the disk."""

    def run(**changes: Any) -> Command:
        path = tmp_path / "run.yaml"
        path.write_text(dump(make(packed, disk.mount / "runs", **changes)))
        command = Command.start(path, prefix=disk.enter)
        commands.append(command)
        return command

    return run


def folder_of(disk: SmallDisk) -> RunFolder:
    return RunFolder(disk.seen / "runs" / "run")


def wait_for_work(command: Command, seconds: float) -> None:
    """Until each worker has computed for so long: of what it cannot write nobody hears."""
    until = [(worker, sum(worker.cpu_times()[:2]) + seconds) for worker in command.workers()]
    command.wait_for(lambda: all(sum(w.cpu_times()[:2]) > end for w, end in until), "work")


def check_whole(folder: RunFolder, expected: dict[str, torch.Tensor]) -> None:
    """Every step is on record once, with its questions, and the weights are those expected."""
    steps = list(range(1, STEPS + 1))
    assert [row["step"] for row in rows(folder, "train")] == steps
    account = list(read_lines(folder.questions))
    assert [row["step"] for row in account] == steps
    assert all(row["left_out"] is None for row in account)
    weights = load_trained_weights(folder.final)
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], expected[name]) for name in weights)


def test_a_full_disk(disk: SmallDisk, start: Start, whole: Weights):
    """Saves fail and training goes on, also when not a line can be written; with room again, the
    next checkpoint is made, and nothing is missing."""
    folder, command = folder_of(disk), start()
    command.wait_for(lambda: last_step(folder) > saved_step(folder) >= EVERY, "a checkpoint")
    full_at = time.time()
    disk.fill(leave=LINES)
    command.wait_for(lambda: bool(rows(folder, "save_failed")), "a save that failed")
    noticed = time.time()
    assert "No space left on device" in rows(folder, "save_failed")[0]["why"]
    kept = saved_step(folder)
    assert kept >= EVERY
    disk.fill()
    assert disk.free == 0
    wait_for_work(command, 1)
    cleared, before = time.time(), last_step(folder)
    disk.clear()
    command.wait_for(lambda: saved_step(folder) > max(kept, before), "a checkpoint again")
    print(  # noqa: T201
        f"a full disk: noticed after {noticed - full_at:.1f} s, saved {time.time() - cleared:.1f} "
        f"s after there was room, {len(rows(folder, 'save_failed'))} saves failed"
    )
    code, said = command.finish()
    assert code == 0, said
    assert len(rows(folder, "start")) == 1  # no worker was lost by it
    check_whole(folder, whole())


def test_a_disk_that_is_full_for_too_long(disk: SmallDisk, start: Start, whole: Weights):
    """The run stops with a line; once there is room the same command goes on."""
    folder, command = folder_of(disk), start(max_failed=0)
    command.wait_for(lambda: last_step(folder) > saved_step(folder) >= EVERY, "a checkpoint")
    disk.fill(leave=LINES)
    code, said = command.finish()
    assert code == 2, said
    assert "Traceback" not in said
    # Ray starts the workers again, who then cannot begin either: what they say last is told.
    assert "cannot be written to: No space left on device; make room or restore the storage" in said
    kept, reached = saved_step(folder), last_step(folder)
    assert kept >= EVERY
    disk.clear()
    code, said = start(max_failed=0).finish()
    assert code == 0, said
    assert f"continues from step {kept}" in said
    print(f"full for too long: {reached - kept} steps lost")  # noqa: T201
    check_whole(folder, whole())


def test_read_only(disk: SmallDisk, start: Start, whole: Weights):
    """Saves fail; asked to stop, the command ends at once, since no worker can be told. None can
    be started meanwhile. Writable again, the same command goes on."""
    folder, command = folder_of(disk), start()
    command.wait_for(lambda: last_step(folder) > saved_step(folder) >= EVERY, "a checkpoint")
    refused_at = time.time()
    with disk.read_only():
        command.wait_for(lambda: bool(rows(folder, "save_failed")), "a save that failed")
        noticed = time.time()
        assert "Read-only file system" in rows(folder, "save_failed")[0]["why"]
        kept = saved_step(folder)
        command.process.send_signal(signal.SIGTERM)
        code, said = command.finish()
        assert code == EXIT_RESUME, said
        assert "Traceback" not in said
        assert "run the same command again to continue" in said
        reached = last_step(folder)
        code, said = start().finish()
        assert code == 2, said
        assert "cannot be written to (Read-only file system)" in said
    code, said = start().finish()
    assert code == 0, said
    assert f"continues from step {kept}" in said
    print(  # noqa: T201
        f"read-only: noticed after {noticed - refused_at:.1f} s, {reached - kept} steps lost"
    )
    check_whole(folder, whole())
