"""The demo overlay's command on a real Ray cluster of three nodes with a token, end to end.

Its entry point, environment and run file are read out of the rendered manifests. It is submitted as
the operator does, loses a worker, loses a node, is stopped, and is submitted again by `gcg submit`:
its weights are those of a run that nothing disturbed.
"""

from __future__ import annotations

import json
import os
import secrets
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from launcher.config import RunConfig, load_run_config
from launcher.jobs.submit import entrypoint
from launcher.observe.runlog import read_metrics
from launcher.storage.run_folder import RunFolder
from launcher.training.weights import load_trained_weights
from launcher.training.worker import run_worker
from tests.conftest import ROOT
from tests.faults.ray_nodes import Nodes, kill, ray_environment, ray_nodes
from tests.launcher.test_kill_resume import last_step, saved_step
from tests.launcher.test_ray_job import BIN, PATIENCE_S, answers, wait_for
from tests.spawn import run_ranks

from .rendered import Rendered, render

STEPS = 40
# The clips and labels at hand, and a run that is soon over; all else is as in the overlay.
OVERRIDES = [
    "model.num_frames=8",
    "model.num_moments=2",
    "data.decode_threads=1",
    "data.val=null",
    f"optim.steps={STEPS}",
    "optim.warmup_steps=2",
    "checkpoint.every=4",
    "log.every=1",
]


def sets() -> list[str]:
    return [word for override in OVERRIDES for word in ("--set", override)]


def environment(rendered: Rendered) -> dict[str, str]:
    """Of nodes and commands: the Pod's, with a token as the operator makes one."""
    assert rendered.auth_mode == "token"
    return {
        **ray_environment(),
        **rendered.environment,
        "RAY_AUTH_MODE": rendered.auth_mode,
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),  # the image has the code installed
        "OMP_NUM_THREADS": "1",
    }


class Commands:
    """`gcg` against a cluster, in processes of their own."""

    def __init__(self, nodes: Nodes) -> None:
        self.nodes = nodes

    def start(self, *words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            # Ctrl-C works, though whoever started the tests may have them ignore it.
            ["env", "--default-signal=INT", sys.executable, "-m", "launcher.cli", *words],
            cwd=ROOT,
            env={**self.nodes.environment, "RAY_API_SERVER_ADDRESS": self.nodes.dashboard},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def run(self, *words: str) -> tuple[int, str, str]:
        return self.finish(self.start(*words))

    def finish(self, process: subprocess.Popen[str]) -> tuple[int, str, str]:
        out, err = process.communicate(timeout=PATIENCE_S)
        return process.returncode, out, err


def rows(folder: RunFolder, kind: str) -> list[dict[str, Any]]:
    return [row for row in read_metrics(folder.metrics) if row["kind"] == kind]


def starts(folder: RunFolder) -> int:
    return len(rows(folder, "start"))


def stepping(folder: RunFolder, attempt: int) -> Callable[[], bool]:
    """Whether so many attempts have begun, and the last is past a checkpoint of the run."""
    return lambda: starts(folder) == attempt and last_step(folder) > saved_step(folder) >= 4


def train_quietly(config: RunConfig) -> None:
    run_worker(config, lambda figures: None)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_submitted_disturbed_stopped_and_resumed(packed: Path, tmp_path: Path):
    began = time.monotonic()
    rendered = render("demo-cpu", tmp_path / "pod")
    (rendered.storage / "data").symlink_to(packed)
    config = load_run_config(rendered.run_file, OVERRIDES)
    folder = RunFolder(config.folder)
    assert folder.root.is_relative_to(rendered.storage)
    assert shlex.join(rendered.entrypoint) == entrypoint(str(rendered.run_file))
    memory = int(rendered.start["object-store-memory"])
    with ray_nodes(environment(rendered), memory=memory, with_dashboard=True) as nodes:
        added = {number: nodes.add() for number in (1, 2)}
        as_the_operator_does(nodes, rendered)
        disturb(nodes, folder, added)
        stopped_at = stop(nodes, folder)
        submit_again(nodes, rendered, folder, stopped_at)
    assert [row["step"] for row in rows(folder, "train")] == list(range(1, STEPS + 1))
    took = time.monotonic() - began
    print(f"three nodes, five attempts: {took:.0f} s")  # noqa: T201
    check_equal(config, folder, tmp_path)


def as_the_operator_does(nodes: Nodes, rendered: Rendered) -> None:
    """KubeRay's submitter: the entry point and nothing to upload."""
    token = nodes.environment["RAY_AUTH_TOKEN"]
    wait_for(lambda: answers(nodes.dashboard, token) == 200, "the dashboard")
    assert answers(nodes.dashboard, None) == 401
    assert answers(nodes.dashboard, "0" * 64) == 403
    command = [str(BIN / "ray"), "job", "submit", "--address", nodes.dashboard, "--no-wait"]
    entry = ["--submission-id", "kube", "--", *rendered.entrypoint, *sets()]
    for _ in range(3):  # the submitter Pod is tried again, too: a head is not ready at once
        done = subprocess.run(
            [*command, *entry],
            env=nodes.environment, capture_output=True, text=True, timeout=PATIENCE_S,
        )  # fmt: skip
        if "No available agent" not in done.stderr:
            break
    assert done.returncode == 0, done.stdout + done.stderr


def disturb(nodes: Nodes, folder: RunFolder, added: dict[int, str]) -> None:
    """A worker is killed; then a node with a worker is drained, and another takes its place."""
    wait_for(stepping(folder, 1), "steps past a checkpoint")
    kill(workers(nodes)[0])
    wait_for(stepping(folder, 2), "going on without the worker")
    number = next(each for each in added if nodes.workers(each))
    with held(nodes):
        nodes.drain(added[number], seconds=120)
    wait_for(lambda: len(rows(folder, "left")) == 1, "leaving a drained node")
    assert rows(folder, "left")[0]["reason"].startswith("Ray takes nodes away")
    wait_for(stepping(folder, 3), "going on elsewhere")
    assert not nodes.workers(number)


def stop(nodes: Nodes, folder: RunFolder) -> int:
    """`gcg stop`; the step of the checkpoint that it left with."""
    commands = Commands(nodes)
    with held(nodes):
        asked = commands.start("stop", "kube")
        wait_for(folder.leave.exists, "the wish to leave")
    code, out, err = commands.finish(asked)
    assert code == 0, err
    left = rows(folder, "left")[-1]
    assert left["reason"] == "the command was asked to stop"
    assert out.startswith(f"kube: left with a checkpoint of step {left['step']}; submit the same")
    (row,) = json.loads(commands.run("jobs", "--json")[1])
    assert (row["state"], row["result"], row["step"]) == ("stopped", 75, left["step"])
    return left["step"]


def submit_again(nodes: Nodes, rendered: Rendered, folder: RunFolder, stopped_at: int) -> None:
    """`gcg submit` goes on; it is left alone by Ctrl-C, refused twice over, and followed to the
    end."""
    commands = Commands(nodes)
    submit = ["submit", str(rendered.run_file), *sets(), "--env", "GCG_TRIED=1"]
    looking = commands.start(*submit)
    wait_for(lambda: starts(folder) == 4, "resuming")
    assert rows(folder, "start")[-1]["step"] == stopped_at
    with held(nodes) as frozen:
        assert all(worker.environ()["GCG_TRIED"] == "1" for worker in frozen)
        looking.send_signal(signal.SIGINT)
        code, out, err = commands.finish(looking)
        assert code == 130
        assert "demo-1: submitted" in out
        assert "demo-1: goes on without being looked at; gcg logs demo follows it" in err
        code, _, err = commands.run(*submit)
        assert code == 2
        assert "run.name = demo: goes on already, as job demo-1 (running); `gcg logs demo`" in err
    code, out, err = commands.run("logs", "demo")
    assert code == 0, out + err
    assert f"continues from step {stopped_at} " in out
    assert f"demo: step {STEPS}/{STEPS} " in out
    assert err.splitlines()[-1] == "demo-1: succeeded"


def workers(nodes: Nodes) -> list[psutil.Process]:
    return [worker for number in range(3) for worker in nodes.workers(number)]


@contextmanager
def held(nodes: Nodes) -> Iterator[list[psutil.Process]]:
    """The workers stand still, so that the pace of this machine decides nothing."""
    found = workers(nodes)
    for worker in found:
        worker.send_signal(signal.SIGSTOP)
    try:
        yield found
    finally:
        for worker in found:
            worker.send_signal(signal.SIGCONT)


def check_equal(config: RunConfig, folder: RunFolder, tmp_path: Path) -> None:
    run = config.run.model_copy(update={"storage": tmp_path / "whole"})
    whole = config.model_copy(update={"run": run})
    run_ranks(train_quietly, 2, whole, preloaded=True)
    found, expected = (
        load_trained_weights(each.final) for each in (folder, RunFolder(whole.folder))
    )
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)
