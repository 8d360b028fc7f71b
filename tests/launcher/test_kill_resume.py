"""The real command through Ray: workers and everything killed with SIGKILL, then continued."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from launcher.checkpoints.fence import current_attempt
from launcher.checkpoints.find import newest
from launcher.config import RunConfig, dump, parse_run_config
from launcher.observe.runlog import read_metrics
from launcher.storage.run_folder import RunFolder
from launcher.training.weights import load_trained_weights
from launcher.training.worker import run_worker
from tests.conftest import ROOT
from tests.spawn import run_ranks

from .conftest import run_tree

STEPS = 24
PATIENCE_S = 240


def make(packed: Path, storage: Path, name: str) -> RunConfig:
    return parse_run_config(
        run_tree(
            packed,
            storage,
            run={"name": name},
            optim={"steps": STEPS, "lr": 1e-3, "grounding_lr": 1e-3, "warmup_steps": 2},
            checkpoint={"every": 4, "keep": 2},
            eval={"every": 8, "max_videos": 2},
        )
    )


def train_quietly(config: RunConfig) -> None:
    run_worker(config, lambda figures: None)


@dataclass
class Command:
    """The training command in a process of its own."""

    process: subprocess.Popen[str]

    @classmethod
    def start(
        cls, path: Path, environment: dict[str, str] | None = None, prefix: Sequence[str] = ()
    ) -> Command:
        """``prefix``: goes before the command, and becomes it."""
        if environment is None:
            environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
        return cls(
            subprocess.Popen(
                [*prefix, sys.executable, "-m", "launcher.train", "--config", str(path)],
                cwd=ROOT,
                env=environment,
                text=True,
                stderr=subprocess.PIPE,
                stdout=subprocess.PIPE,
                start_new_session=True,
            )
        )

    def family(self) -> list[psutil.Process]:
        try:
            root = psutil.Process(self.process.pid)
            return [root, *root.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def workers(self) -> list[psutil.Process]:
        found = []
        for process in self.family():
            try:
                if any("RayTrainWorker" in part for part in process.cmdline()):
                    found.append(process)
            except psutil.NoSuchProcess:
                continue
        return found

    def wait_for(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            if self.process.poll() is not None:
                out, err = self.process.communicate()
                pytest.fail(f"{what}: the command ended with {self.process.returncode}: {err}{out}")
            if time.monotonic() > deadline:
                pytest.fail(f"{what}: did not happen in {PATIENCE_S} s")
            time.sleep(0.1)

    def finish(self) -> tuple[int, str]:
        out, err = self.process.communicate(timeout=PATIENCE_S)
        return self.process.returncode, out + err

    def kill_everything(self) -> list[psutil.Process]:
        """SIGKILL to the command and whatever it started, by process id."""
        family = self.family()
        for process in family:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        self.process.communicate()
        return family


@pytest.fixture
def commands() -> Iterator[list[Command]]:
    started: list[Command] = []
    yield started
    for command in started:
        command.kill_everything()


def last_step(folder: RunFolder) -> int:
    return max((r["step"] for r in read_metrics(folder.metrics) if r["kind"] == "train"), default=0)


def saved_step(folder: RunFolder) -> int:
    checkpoint = newest(folder)
    return 0 if checkpoint is None else checkpoint.step


@pytest.mark.timeout(900)
def test_a_run_that_was_killed_ends_as_one_that_was_not(
    packed: Path, tmp_path: Path, commands: list[Command]
):
    whole, killed = make(packed, tmp_path, "whole"), make(packed, tmp_path, "killed")
    run_ranks(train_quietly, 2, whole)  # without Ray, and never interrupted
    path = tmp_path / "run.yaml"
    path.write_text(dump(killed), encoding="utf-8")
    folder = RunFolder(killed.folder)

    first = Command.start(path)
    commands.append(first)
    first.wait_for(lambda: last_step(folder) > saved_step(folder) >= 4, "training past a save")
    (victim, *_) = first.workers()
    killed_at, reached = time.time(), last_step(folder)
    victim.send_signal(signal.SIGKILL)
    first.wait_for(lambda: current_attempt(folder) == 2, "a second attempt")
    first.wait_for(lambda: last_step(folder) > saved_step(folder) >= 8, "going on")
    family = first.kill_everything()
    assert len(family) > 5  # the command, Ray, two workers
    psutil.wait_procs(family, timeout=10)
    left = [p for p in family if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
    assert not left
    assert not folder.is_complete

    second = Command.start(path)
    commands.append(second)
    code, said = second.finish()
    assert code == 0, said
    assert "continues from step" in said
    assert "Warning" not in said
    check_equal(whole, killed)
    (_, again, _) = (row for row in read_metrics(folder.metrics) if row["kind"] == "start")
    took, lost = again["time"] - killed_at, reached - again["step"]
    print(f"a worker killed: restored in {took:.0f} s, {lost} steps lost")  # noqa: T201

    code, said = run_again(path, commands)
    assert code == 0
    assert "already complete" in said


def run_again(path: Path, commands: list[Command]) -> tuple[int, str]:
    command = Command.start(path)
    commands.append(command)
    return command.finish()


def check_equal(whole: RunConfig, killed: RunConfig) -> None:
    one, other = RunFolder(whole.folder), RunFolder(killed.folder)
    weights, again = load_trained_weights(one.final), load_trained_weights(other.final)
    assert weights.keys() == again.keys()
    different = [name for name in weights if not torch.equal(weights[name], again[name])]
    assert not different
    assert figures(one) == figures(other)
    starts = [row for row in read_metrics(other.metrics) if row["kind"] == "start"]
    assert [row["attempt"] for row in starts] == [1, 2, 3]
    assert all(row["step"] % 4 == 0 for row in starts)
    assert 0 == starts[0]["step"] < starts[1]["step"] <= starts[2]["step"]


def figures(folder: RunFolder) -> list[dict[str, Any]]:
    """All that was logged but times and places: each step once, with equal figures."""
    clocks = {"time", "pairs_per_s", "data_wait_s", "loader_wait_s", "data_wait_share"}
    clocks |= {"seconds", "goodput"}
    clocks |= {f"step_{part}s" for part in ("", "p50_", "p90_", "p99_", "max_")}
    clocks |= {"rss_gb", "mfu", "bad_share"}
    rows = [row for row in read_metrics(folder.metrics) if row["kind"] in ("train", "val")]
    assert [row["step"] for row in rows if row["kind"] == "train"] == list(range(1, STEPS + 1))
    return [{k: v for k, v in row.items() if k not in clocks} for row in rows]
