"""Whole runs of the tiny model on packed clips, interrupted and continued in another layout.

Every case is compared with a run that nothing interrupts: final weights, and each step's loss,
which other questions would change.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from torch import Tensor

from launcher.config import RunConfig, parse_run_config
from launcher.observe.runlog import read_metrics
from launcher.storage.run_folder import RunFolder
from launcher.training.weights import load_trained_weights
from launcher.training.worker import run_worker
from tests.gcg.weights.checkpoints import make_llm
from tests.launcher.conftest import run_tree
from tests.spawn import run_ranks

from .toy_runs import distance

STEPS = 8
BREAK = 4  # where the first attempt ends

# (ranks, ZeRO stage) of the first attempt and of the second
CASES: dict[str, tuple[tuple[int, int], tuple[int, int]]] = {
    "same": ((2, 2), (2, 2)),
    "2 to 1": ((2, 2), (1, 2)),
    "1 to 4": ((1, 2), (4, 2)),
    "4 to 2": ((4, 2), (2, 2)),
    "ZeRO-2 to 3": ((2, 2), (2, 3)),
    "ZeRO-3 to 2": ((2, 3), (2, 2)),
    "ZeRO-3, 2 to 1": ((2, 3), (1, 3)),
}
# Sums in another order, in fp32, through up to 8 updates.
LIMIT_WEIGHTS, LIMIT_LOSS = 1e-4, 1e-3


class InterruptedHere(Exception):
    """The first attempt's end."""


@dataclass(frozen=True)
class Attempt:
    config: RunConfig
    until: int


def make(
    packed: Path,
    storage: Path,
    name: str,
    world_size: int,
    zero: int,
    model: Mapping[str, Any] = MappingProxyType({}),
) -> RunConfig:
    tree: dict[str, Any] = run_tree(
        packed,
        storage,
        run={"name": name.replace(" ", "-").replace(",", "")},
        data={"streams": 4, "global_batch": 4, "contrast_group": 2, "val": None},
        optim={"steps": STEPS, "lr": 1e-3, "grounding_lr": 1e-3, "warmup_steps": 2},
        engine={"micro_batch": 1, "zero": zero, "precision": "fp32"},
        scale={"num_workers": world_size},
        checkpoint={"every": 2},
        eval={"every": 0},
        model=dict(model),
    )
    return parse_run_config(tree)


def run_some(attempts: list[Attempt]) -> None:
    for attempt in attempts:

        def report(figures: Any, until: int = attempt.until) -> None:
            if figures["step"] == until < STEPS:
                raise InterruptedHere

        try:
            run_worker(attempt.config, report)
        except InterruptedHere:
            continue


def run_by_world(attempts: list[Attempt]) -> None:
    worlds: dict[int, list[Attempt]] = {}
    for attempt in attempts:
        worlds.setdefault(attempt.config.world_size, []).append(attempt)
    for world_size, some in worlds.items():
        run_ranks(run_some, world_size, some, preloaded=True)


def weights(config: RunConfig) -> dict[str, Tensor]:
    return load_trained_weights(RunFolder(config.folder).final)


def losses(config: RunConfig) -> list[float]:
    rows = [r for r in read_metrics(RunFolder(config.folder).metrics) if r["kind"] == "train"]
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    return [row["loss"] for row in rows]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_runs_go_on_in_another_layout(packed: Path, tmp_path: Path):
    whole = make(packed, tmp_path, "whole", 2, 2)
    first = {name: make(packed, tmp_path, name, *a) for name, (a, _) in CASES.items()}
    second = {name: make(packed, tmp_path, name, *b) for name, (_, b) in CASES.items()}
    run_by_world([Attempt(whole, STEPS), *(Attempt(c, BREAK) for c in first.values())])
    run_by_world([Attempt(config, STEPS) for config in second.values()])
    for name, config in second.items():
        gap = distance(weights(config), weights(whole))
        print(f"{name}: relative difference of the final weights {gap:.2e}")  # noqa: T201
        assert gap < (LIMIT_WEIGHTS if name != "same" else 1e-300), name
        assert losses(config) == pytest.approx(losses(whole), rel=LIMIT_LOSS), name


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_adapters_of_a_frozen_llm_go_on_in_another_layout(packed: Path, tmp_path: Path):
    make_llm(tmp_path / "llm", "llama")
    llm = {"name": str(tmp_path / "llm"), "train": "lora", "lora": {"rank": 2, "dropout": 0.1}}
    model = {"mode": "uniform", "llm": llm}
    whole = make(packed, tmp_path, "whole", 2, 3, model)
    first = make(packed, tmp_path, "adapters", 2, 3, model)
    second = make(packed, tmp_path, "adapters", 1, 2, model)
    run_by_world([Attempt(whole, STEPS), Attempt(first, BREAK)])
    run_by_world([Attempt(second, STEPS)])
    assert any("lora_A" in name for name in weights(second))
    gap = distance(weights(second), weights(whole))
    print(f"adapters: relative difference of the final weights {gap:.2e}")  # noqa: T201
    assert gap < LIMIT_WEIGHTS
    assert losses(second) == pytest.approx(losses(whole), rel=LIMIT_LOSS)
