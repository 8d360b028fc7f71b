"""The real command through Ray, its run in an object store that fails for half a minute."""

from __future__ import annotations

import os
import shutil
import signal
import threading
from pathlib import Path

import pytest
import torch

from launcher.cluster.departure import EXIT_RESUME
from launcher.config import RunConfig, dump, parse_run_config
from launcher.observe.runlog import read_metrics
from launcher.storage.places import run_place, working_place
from launcher.storage.run_folder import RunFolder
from launcher.training.weights import load_trained_weights
from tests.dataloaders.s3_server import BUCKET, S3
from tests.launcher.conftest import run_tree
from tests.launcher.test_kill_resume import Command, saved_step, train_quietly
from tests.spawn import run_ranks

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

STEPS = 40
OUTAGE_S = 30.0


def make(packed: Path, storage: str) -> RunConfig:
    return parse_run_config(
        run_tree(
            packed,
            storage,  # type: ignore[arg-type]
            run={"name": "out"},
            optim={"steps": STEPS, "lr": 1e-3, "grounding_lr": 1e-3, "warmup_steps": 2},
            checkpoint={"every": 4, "keep": 2},
            eval={"every": 0, "max_videos": 2},
        )
    )


def test_an_outage_and_a_node_that_is_gone(
    s3: S3, packed: Path, tmp_path: Path, commands: list[Command]
):
    config = make(packed, f"s3://{BUCKET}/runs")
    folder = RunFolder(config.folder)
    path = tmp_path / "run.yaml"
    path.write_text(dump(config))
    s3.proxy.clear()
    command = Command.start(path, {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"})
    commands.append(command)
    command.wait_for(lambda: saved_step(folder) >= 4, "the first checkpoint")
    every = ("GET", "PUT", "POST", "HEAD", "DELETE")
    outage = s3.proxy.inject("", "status", times=10**9, status=500, methods=every)
    over = threading.Event()
    threading.Timer(OUTAGE_S, lambda: (s3.proxy.clear(), over.set())).start()
    command.wait_for(over.is_set, "the end of the outage")
    assert outage.times < 10**9 - 10  # it was met
    before = saved_step(folder)
    command.wait_for(lambda: saved_step(folder) > before, "a checkpoint after it")
    command.process.send_signal(signal.SIGTERM)
    code, words = command.finish()
    assert code == EXIT_RESUME, words
    shutil.rmtree(working_place(run_place(folder.root)))  # another machine has none of it
    again = Command.start(path)
    commands.append(again)
    code, words = again.finish()
    assert code == 0, words

    rows = read_metrics(folder.metrics)
    assert [r["step"] for r in rows if r["kind"] == "train"] == list(range(1, STEPS + 1))
    assert not [r for r in rows if r["kind"] == "save_failed"]
    assert len([r for r in rows if r["kind"] == "start"]) == 2  # no attempt was lost to it
    stalls = [r["stall_s"] for r in rows if r["kind"] == "saved"]
    writes = [r["seconds"] for r in rows if r["kind"] == "saved"]
    print(f"longest stall of a save {max(stalls):.1f} s, longest writing {max(writes):.1f} s")  # noqa: T201
    whole = make(packed, str(tmp_path))
    run_ranks(train_quietly, 2, whole)
    found, expected = (
        load_trained_weights(folder.final),
        load_trained_weights(whole.folder / "final"),
    )
    assert all(torch.equal(found[name], expected[name]) for name in expected)
