"""Runs and checkpoints in an object store: a real S3 server behind a proxy that spoils answers."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from launcher.checkpoints.commit import checkpoint_path, commit, describe, record_rank
from launcher.checkpoints.fence import assert_current, begin_attempt, current_attempt, record_origin
from launcher.checkpoints.find import complete_checkpoints, entries
from launcher.checks.preflight import preflight
from launcher.cli import main
from launcher.config import RunConfig, dump, parse_run_config
from launcher.errors import PreflightError, StaleAttemptError
from launcher.observe.events import EventFile, read_events
from launcher.observe.progress import Progress
from launcher.observe.runlog import read_metrics
from launcher.storage.places import create, run_place, upload, working_place
from launcher.storage.run_folder import RunFolder, read_json, write_json, write_text
from launcher.training.weights import load_trained_weights
from launcher.training.worker import run_worker
from tests.dataloaders.s3_server import BUCKET, S3
from tests.launcher.conftest import run_tree
from tests.launcher.pages import check_page
from tests.spawn import run_ranks

from .toy_runs import ToyAttempt

SHARD = "zero/zero_pp_rank_1_mp_rank_00_optim_states.pt"
STEPS = 8


@pytest.fixture
def store(s3: S3) -> Iterator[S3]:
    s3.proxy.clear()
    yield s3
    s3.proxy.clear()
    shutil.rmtree(working_place(run_place(f"s3://{BUCKET}")), ignore_errors=True)


def damaged(environment: dict[str, str], zero: int) -> tuple[int, list[str], list[str]]:
    """Saved twice, the newest checkpoint damaged, gone on from the one before, saved again."""
    os.environ.update(environment)
    import boto3

    storage: Any = f"s3://{BUCKET}/zero-{zero}"
    whole = ToyAttempt(storage, 2, zero)
    whole.keeper.restore()
    for step in (3, 6):
        whole.train(step - 3, step)
        whole.save(step)
    ends = whole.contents()
    whole.engine.destroy()
    if dist.get_rank() == 0:
        client: Any = boto3.client("s3", endpoint_url=environment["AWS_ENDPOINT_URL"])
        key = f"zero-{zero}/toy/checkpoints/step-00000006.attempt-1/{SHARD}"
        body = client.get_object(Bucket=BUCKET, Key=key)["Body"].read()
        client.put_object(Bucket=BUCKET, Key=key, Body=bytes(len(body)))
    dist.barrier()
    again = ToyAttempt(storage, 2, zero)
    position = again.keeper.restore()
    assert position is not None
    again.train(position.step, 6)
    different = again.contents().different(ends)
    again.save(6)
    again.engine.destroy()
    return position.step, again.keeper.passed_over, different


def elsewhere(environment: dict[str, str], zero: int) -> dict[str, torch.Tensor]:
    os.environ.update(environment)
    attempt = ToyAttempt(f"s3://{BUCKET}/zero-{zero}", 1, 3)  # type: ignore[arg-type]
    position = attempt.keeper.restore()
    assert position is not None
    assert position.step == 6
    contents = attempt.contents()
    attempt.engine.destroy()
    return contents.tensors


@pytest.mark.parametrize("zero", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_a_damaged_checkpoint_there_is_passed_over(store: S3, zero: int):
    ranks = run_ranks(damaged, 2, store.env(), zero, preloaded=True)
    (step, passed_over, different), other = ranks
    assert other == (step, passed_over, different)
    assert step == 3
    (line,) = passed_over
    assert line.startswith(f"step-00000006.attempt-1: was damaged: {SHARD}: SHA-256 ")
    assert different == []
    folder = RunFolder(run_place(f"s3://{BUCKET}/zero-{zero}/toy"))
    assert [(c.step, c.attempt) for c in complete_checkpoints(folder)] == [(3, 1), (6, 2)]
    left = working_place(folder.checkpoints).rglob("*")
    assert not any(path.is_file() for path in left)  # on this machine
    # On one rank, at stage 3: by way of a conversion.
    (tensors,) = run_ranks(elsewhere, 1, store.env(), zero, preloaded=True)
    saved = load_trained_weights(folder.checkpoints / "step-00000006.attempt-2")
    trained = saved.keys() & tensors.keys()
    assert len(trained) > 5
    assert all(torch.equal(tensors[name], saved[name].view(-1)) for name in trained)
    assert any(".universal-" in p.name for p in folder.checkpoints.iterdir())


def small_checkpoint(folder: RunFolder, step: int, attempt: int, place: Path) -> None:
    shard = place / "zero" / "shard"
    shard.parent.mkdir(exist_ok=True)
    shard.write_bytes(bytes(range(256)))
    path = checkpoint_path(folder, step, attempt)
    upload(shard, path / "zero" / "shard")
    record_rank(path, 0, 1, {"zero/shard": describe(shard)})
    commit(folder, step, attempt, 1, {"step": step, "world_size": 1, "zero": 2})


def test_attempts_are_told_apart_and_commits_fenced(store: S3, tmp_path: Path):
    folder = RunFolder(run_place(f"s3://{BUCKET}/fenced/run"))
    assert current_attempt(folder) == 0
    assert begin_attempt(folder) == 1
    record_origin(folder, 1, None)
    small_checkpoint(folder, 2, 1, tmp_path)
    assert not create(folder.attempts / "00001.json", "another")
    assert begin_attempt(folder) == 2
    with pytest.raises(StaleAttemptError, match="attempt 2 owns this run now, this is attempt 1"):
        assert_current(folder, 1)
    record_origin(folder, 2, (1, 2))
    with pytest.raises(StaleAttemptError):
        small_checkpoint(folder, 4, 1, tmp_path)
    assert [(e.step, e.why) for e in entries(folder)] == [
        (2, "complete"),
        (4, "was not finished: it has no COMMIT"),
    ]
    store.delete("fenced/run/checkpoints/step-00000002.attempt-1/zero/shard")
    assert entries(folder)[0].why == "was damaged: zero/shard: is missing"


def test_events_of_both_sides_are_kept(store: S3):
    """The worker's that it could not copy before it was killed, and the driver's since."""
    folder = RunFolder(run_place(f"s3://{BUCKET}/both/run"))
    EventFile(folder.events).add("launch")
    first = folder.of_worker(0)
    EventFile(first.events).add("start", attempt=1, world_size=2)
    first.push()
    EventFile(first.events).add("ready", attempt=1, step=4)
    assert first.mirror is not None
    first.mirror._ended.set()  # killed: what is here never gets there
    EventFile(folder.events).add("launch")
    second = folder.of_worker(0)
    EventFile(second.events).add("start", attempt=2, world_size=2)
    second.close()
    kinds = ["launch", "start", "ready", "launch", "start"]
    assert [event["kind"] for event in read_events(folder.events)] == kinds


def test_a_store_that_is_silent_is_not_an_empty_one(store: S3, monkeypatch: pytest.MonkeyPatch):
    """Its checkpoints must not be thought to be gone."""
    monkeypatch.setattr("launcher.storage.places._TRIES", 1)
    folder = RunFolder(run_place(f"s3://{BUCKET}/silent-{os.getpid()}/run"))
    assert begin_attempt(folder) == 1
    store.proxy.inject(BUCKET, "status", times=1000, status=500)  # listings
    for look in (current_attempt, entries):
        with pytest.raises(OSError, match="Internal Server Error"):
            look(folder)
    store.proxy.clear()
    write_json(folder.identity, {"config": "1"})
    store.proxy.inject("run.json", "status", times=1000, status=500)
    with pytest.raises(OSError, match="Internal Server Error"):
        read_json(folder.identity)


class Lost(RuntimeError):
    """What a worker's machine does to it."""


def train(environment: dict[str, str], config: RunConfig, lost_at: int | None) -> None:
    os.environ.update(environment)

    def report(figures: Mapping[str, Any]) -> None:
        if figures["step"] == lost_at:
            raise Lost("the machine went away")

    try:
        run_worker(config, report)
    except Lost:
        assert lost_at is not None


def make(packed: Path, storage: str, name: str) -> RunConfig:
    tree = run_tree(
        packed,
        storage,  # type: ignore[arg-type]
        run={"name": name},
        optim={"steps": STEPS, "warmup_steps": 1},
        checkpoint={"every": 2, "keep": 2},
        log={"every": 1, "tensorboard": True},
    )
    return parse_run_config(tree)


def test_a_run_there_goes_on_on_another_machine(
    store: S3, packed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """With a save that the store refuses for a while; the same run on the disk ends alike."""
    remote = make(packed, f"s3://{BUCKET}/runs", "there")
    folder = RunFolder(remote.folder)
    preflight(remote)
    EventFile(folder.events).add("launch")
    store.proxy.inject(SHARD, "status", times=4, status=500)
    run_ranks(train, 2, store.env(), remote, 6, preloaded=True)
    shutil.rmtree(working_place(folder.root))  # another machine has none of it
    run_ranks(train, 2, store.env(), remote, None, preloaded=True)
    EventFile(folder.events).add("over")
    local = make(packed, str(tmp_path), "here")
    run_ranks(train, 2, {}, local, None, preloaded=True)

    here = RunFolder(local.folder)
    assert folder.is_complete
    ours, theirs = load_trained_weights(folder.final), load_trained_weights(here.final)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    rows = [[r for r in read_metrics(f.metrics) if r["kind"] == "train"] for f in (folder, here)]
    assert [r["step"] for r in rows[0]] == list(range(1, STEPS + 1))
    assert [r["loss"] for r in rows[0]] == [r["loss"] for r in rows[1]]
    assert [e["kind"] for e in read_events(folder.events)].count("start") == 2
    assert {e["kind"] for e in read_events(folder.events)} >= {"launch", "ready", "steps", "over"}
    names = {path.name for path in folder.root.rglob("*")}
    assert {"worker-0.log", "worker-1.log"} <= names
    assert any(name.startswith("events.out.tfevents") for name in names)
    commands(str(folder.root), remote, capsys)


def commands(url: str, config: RunConfig, capsys: pytest.CaptureFixture[str]) -> None:
    """What people look at a run with takes its URL."""
    write_text(RunFolder(config.folder).config, dump(config))
    assert main(["checkpoints", url, "verify"]) == 0
    assert main(["checkpoints", url, "list", "--json"]) == 0
    said = capsys.readouterr().out
    assert f"{url}: 2 read, 0 damaged files" in said
    assert main(["report", url]) == 0
    assert f"there: complete at step {STEPS}" in capsys.readouterr().out
    assert "<html" in (run_place(url) / "report.html").read_text()[:200]
    assert main(["eval", url, "--split", "val"]) == 0
    assert main(["report", url]) == 0
    page = check_page((run_place(url) / "report.html").read_text(encoding="utf-8"))
    assert "Answers to the val questions" in page.text
    assert page.images > 0
    assert main(["checkpoints", url, "prune", "--keep", "1"]) == 0
    with Progress(RunFolder(config.folder).metrics, STEPS, "there") as progress:
        assert progress._follower.new_rows() == []


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("s3://no-such-bucket/runs", "cannot be written to (The specified bucket does not exist)"),
        (f"s3://{BUCKET}/denied", "cannot be written to ("),
    ],
    ids=["no bucket", "denied"],
)
def test_a_place_that_cannot_be_written_to_is_told(store: S3, packed: Path, url: str, why: str):
    pid = os.getpid()
    store.proxy.inject(f"denied/name/.write-test.{pid}", "status", times=99, status=403)
    with pytest.raises(PreflightError) as caught:
        preflight(make(packed, url, "name"))
    (line,) = caught.value.lines
    assert line.startswith(f"run.storage = {url}: {url}/name {why}")
    assert "choose a bucket that exists, or set AWS_ACCESS_KEY_ID" in line
