"""What a Pod needs: the sums, and that they follow the settings they are made of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from launcher.config import RunConfig, load_run_config
from launcher.k8s.quantities import GIB, gibibytes
from launcher.k8s.sizing import (
    RAY_WORKER,
    Need,
    limit_for,
    plan_worker,
    pod_needs,
    rank_needs,
    shm_needs,
    total,
)
from launcher.planning.memory import snapshot
from tests.conftest import ROOT

OVERLAYS = ROOT / "kubernetes" / "overlays"


def run(overlay: str, *overrides: str) -> RunConfig:
    return load_run_config(Path(OVERLAYS / overlay / "run.yaml"), overrides)


def of_a_rank(config: RunConfig) -> dict[str, int]:
    return {need.what: need.bytes for need in rank_needs(plan_worker(config))}


def test_a_rank_on_cpus_is_its_planned_peak():
    config = run("demo-cpu")
    worker = plan_worker(config)
    found = of_a_rank(config)
    assert found["its peak, as planned"] == worker.memory.peak
    assert found["the checkpoint being written"] == snapshot(config, worker.census)
    assert sum(found.values()) == worker.memory.peak + RAY_WORKER + snapshot(config, worker.census)


@pytest.mark.parametrize(
    ("override", "what", "times"),
    [
        (
            "data.prefetch_steps=5",
            "steps held ready",
            2,
        ),  # five and the one in use, for two and one
        ("data.decode_threads=16", "16 × decoder", 2),
        ("engine.zero=2", "the checkpoint being written", None),
    ],
)
def test_a_rank_on_a_gpu_follows_its_settings(override: str, what: str, times: Any):
    before, after = (of_a_rank(run("zero3-h100", *more)) for more in ((), (override,)))
    was = before.get(what) or before["8 × decoder"]
    if times is None:
        assert after[what] > was
    else:
        assert after[what] == times * was


def test_a_checkpoint_written_at_once_takes_no_memory():
    assert "the checkpoint being written" not in of_a_rank(
        run("zero3-h100", "checkpoint.in_background=false")
    )


def test_an_elastic_run_is_sized_for_its_least():
    """Under ZeRO a worker's share is largest where there are fewest."""
    least = plan_worker(run("zero3-h100", "scale.num_workers=[4,16]"))
    assert least.config.world_size == 4
    assert least.memory.peak > plan_worker(run("zero3-h100")).memory.peak


def test_the_sum_of_a_pod():
    worker = plan_worker(run("zero3-h100"))
    shm = total(shm_needs("cuda", 8))
    assert shm == 9 * GIB
    needs = pod_needs(worker, 8, shm, head=False)
    assert total(needs) == 1 * GIB + 8 * total(rank_needs(worker)) + shm
    assert total(needs) < limit_for(needs) <= 1.1 * total(needs) + GIB
    assert gibibytes(limit_for(needs)) == "62Gi"
    with_head = pod_needs(worker, 0, shm, head=True)
    assert [need.what for need in with_head] == [
        "Ray's daemons", "driver and controller", "/dev/shm",
    ]  # fmt: skip


def test_a_limit_is_in_whole_gibibytes():
    assert limit_for([Need("x", 10 * GIB)]) == 11 * GIB
    assert gibibytes(1) == "1Gi"
