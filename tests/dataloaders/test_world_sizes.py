"""1 → 2 → 4 → 1 ranks in the middle of an epoch, a process a rank: the uninterrupted sequence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.dataloaders.loader_fixtures import COUNTS, collect, make, take
from tests.dataloaders.shard_fixtures import pack_clips
from tests.spawn import run_ranks

PLAN = {"num_streams": 4, "global_batch": 4}
STAGES = ((1, 1), (2, 2), (4, 1), (1, 3))  # world size, steps

Found = dict[Any, Any]


def read(folder: Path, state: dict[str, Any] | None, steps: int) -> tuple[Found, dict[str, Any]]:
    """What one rank reads in its steps, and the state it leaves."""
    import torch.distributed as dist

    found: Found = {}
    with make(folder, plan=PLAN, rank=dist.get_rank(), world_size=dist.get_world_size()) as loader:
        if state is not None:
            loader.load_state_dict(state)
        for step in take(loader, steps):
            for batch in step.micro:
                collect(found, (step.epoch, step.step), batch)
        return found, loader.state_dict()


@pytest.mark.parametrize("format", ["wds", "mds"])
def test_ranks_come_and_go_in_mid_epoch(tmp_path: Path, format: str):
    folder = pack_clips(tmp_path, COUNTS, per_shard=1, format=format).folder
    with make(folder, plan=PLAN) as loader:
        whole: Found = {}
        for step in take(loader, sum(steps for _, steps in STAGES)):
            for batch in step.micro:
                collect(whole, (step.epoch, step.step), batch)
        per_epoch = loader.plan.steps_per_epoch(0)
    assert per_epoch > 2  # the first changes are in mid-epoch
    found: Found = {}
    state: dict[str, Any] | None = None
    for world_size, steps in STAGES:
        parts = run_ranks(read, world_size, folder, state, steps)
        states = [left for _, left in parts]
        assert all(left == states[0] for left in states)
        state = states[0]
        for own, _ in parts:
            assert not own.keys() & found.keys()
            found |= own
    assert found == whole
