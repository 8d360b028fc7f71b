"""Room for workers in a real Ray cluster, and workers that leave to make room for more."""

from __future__ import annotations

import multiprocessing
import os
import secrets
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from launcher.checkpoints.fence import begin_attempt
from launcher.checkpoints.find import newest
from launcher.cluster.elastic import Growth, wait_for_room, worker_resources
from launcher.config import RunConfig, parse_run_config
from launcher.observe.runlog import read_metrics
from launcher.planning.world import fit_world
from launcher.storage.run_folder import RunFolder, read_json, write_text
from launcher.training.worker import run_worker
from tests.spawn import run_ranks

from .conftest import run_tree
from .toy import toy_config

PATIENCE_S = 120


def elastic(storage: Path, least: int, most: int) -> RunConfig:
    # Longer than a busy machine takes from one seat to the next.
    return toy_config(
        storage, scale__num_workers=[least, most], scale__settle_s=3, engine__micro_batch=1
    )


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def in_a_cluster_of_three(storage: Path) -> None:
    os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32))
    import ray
    from ray.util import placement_group, remove_placement_group

    ray.init(address="local", num_cpus=3, include_dashboard=False, log_to_driver=False)
    try:
        config = elastic(storage, 1, 4)
        assert config.world_sizes == [1, 2, 4]
        # The room for three is used by the largest number that divides the batches.
        assert wait_for_room(config, lambda: False) == 2
        assert wait_for_room(elastic(storage, 1, 2), lambda: False) == 2
        assert wait_for_room(config.at_world_size(4), lambda: False) == 4  # Ray waits, not we
        began = time.monotonic()
        patient = elastic(storage, 4, 4)
        assert wait_for_room(patient, lambda: time.monotonic() > began + 1) is None

        taken = [placement_group([worker_resources(config)]) for _ in range(2)]
        assert all(group.wait(PATIENCE_S) for group in taken)
        folder = RunFolder(config.folder)
        write_text(folder.grow, "left behind by a command that was killed\n")
        growth = Growth(config, folder, 1)
        assert not folder.grow.exists()
        free = ray.available_resources()["CPU"]
        began = time.monotonic()
        while time.monotonic() < began + 1:
            growth.look()
        assert ray.available_resources()["CPU"] == free  # no seat is taken before the workers'
        begin_attempt(folder)
        wait_for(lambda: growth.look() or folder.grow.exists())
        assert folder.grow.read_text() == "there is room for 2 workers\n"
        remove_placement_group(taken[0])  # three: still two, as batches fit
        wait_for(lambda: ray.available_resources().get("CPU", 0) == 0)
        growth.look()
        assert folder.grow.read_text() == "there is room for 2 workers\n"
        growth.close()
        assert not folder.grow.exists()
        wait_for(lambda: ray.available_resources().get("CPU", 0) == 2)
    finally:
        ray.shutdown()


def test_room_is_asked_of_the_cluster(tmp_path: Path):
    # Ray reads how to authenticate when it is imported, so in a process of its own.
    process = multiprocessing.get_context("spawn").Process(
        target=in_a_cluster_of_three, args=(tmp_path,)
    )
    process.start()
    process.join(PATIENCE_S)
    assert process.exitcode == 0


def room_that_went(storage: Path) -> None:
    os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32))
    os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = "1"
    import ray
    from ray.train import TrainingFailedError
    from ray.util import placement_group

    from launcher.cluster.backend import Losses
    from launcher.cluster.launch import build_trainer

    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        config = elastic(storage, 1, 2)
        assert wait_for_room(config, lambda: False) == 2
        assert placement_group([worker_resources(config)]).wait(PATIENCE_S)  # another's
        losses = Losses(config)
        trainer = build_trainer(config.at_world_size(2), losses.within_one_fit(config))
        with pytest.raises(TrainingFailedError) as found:
            trainer.fit()
        assert losses.bears(found.value)
        assert wait_for_room(config, lambda: False) == 1
    finally:
        ray.shutdown()


@pytest.mark.slow
def test_room_that_went_is_looked_for_anew(tmp_path: Path):
    process = multiprocessing.get_context("spawn").Process(target=room_that_went, args=(tmp_path,))
    process.start()
    process.join(2 * PATIENCE_S)
    assert process.exitcode == 0


def test_a_range_is_planned_at_its_most(tmp_path: Path):
    config = elastic(tmp_path, 1, 3)
    assert fit_world(config).gpus == 2
    assert fit_world(config).config.scale.num_workers == 2
    assert fit_world(config, 4).gpus == 4


def asked_to_grow(config: RunConfig) -> None:
    run_worker(config, lambda figures: None)


def test_workers_leave_for_more_at_a_checkpoint(packed: Path, tmp_path: Path):
    tree = run_tree(packed, tmp_path, data={"val": None}, optim={"steps": 60, "warmup_steps": 1})
    config = parse_run_config(tree)
    folder = RunFolder(config.folder)
    write_text(folder.grow, "there is room for 4 workers\n")
    run_ranks(asked_to_grow, 2, config, preloaded=True)
    left = read_json(folder.left)
    assert left is not None
    assert left["reason"] == "there is room for 4 workers"
    last = newest(folder)
    assert last is not None
    assert left["step"] == last.step < 60
    assert last.step % config.checkpoint.every == 0  # no checkpoint was made for it
    assert [r["step"] for r in read_metrics(folder.metrics) if r["kind"] == "left"] == [last.step]
    assert not folder.is_complete
