"""Damage to the newest checkpoint: the one before is loaded, and the run says so."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch.distributed as dist

from launcher.checkpoints.find import complete_checkpoints, newest
from launcher.errors import CheckpointError
from launcher.run_folder import RunFolder
from tests.spawn import run_ranks

from .toy_runs import ToyAttempt

SHARD = "zero/zero_pp_rank_1_mp_rank_00_optim_states.pt"
FIRST, LAST = "step-00000003.attempt-1", "step-00000006.attempt-1"


def truncate(path: Path) -> None:
    file = path / SHARD
    file.write_bytes(file.read_bytes()[:-1000])


def flip_a_bit(path: Path) -> None:
    content = bytearray((path / SHARD).read_bytes())
    content[len(content) // 2] ^= 1
    (path / SHARD).write_bytes(content)


def swap_in_another(path: Path) -> None:
    """A shard of the same rank, size and name, from the checkpoint before."""
    foreign = path.with_name(FIRST) / SHARD
    assert foreign.stat().st_size == (path / SHARD).stat().st_size
    shutil.copy(foreign, path / SHARD)


# what is done to the newest checkpoint; what the run says of it
CASES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a truncated shard": (truncate, f"was damaged: {SHARD}: has "),
    "a deleted rank file": (lambda p: (p / "rank-00001.pt").unlink(), "rank-00001.pt: is missing"),
    "a deleted shard": (lambda p: (p / SHARD).unlink(), f"was damaged: {SHARD}: is missing"),
    "a foreign shard": (swap_in_another, f"was damaged: {SHARD}: SHA-256 "),
    "a flipped bit": (flip_a_bit, f"was damaged: {SHARD}: SHA-256 "),
    "no commit record": (lambda p: (p / "COMMIT").unlink(), "was not finished: it has no COMMIT"),
}


def fall_back(root: str) -> dict[str, tuple[int, list[str], list[str]]]:
    """By case: the step gone on from, what was passed over, how the end differs."""
    place = Path(root)
    whole = ToyAttempt(place / "whole", 2, 2)
    assert whole.keeper.restore() is None
    for step in (3, 6):
        whole.train(step - 3, step)
        whole.save(step)
    ends = whole.contents()
    whole.engine.destroy()
    found = {}
    for number, (name, (damage, _)) in enumerate(CASES.items()):
        storage = place / f"case-{number}"
        if dist.get_rank() == 0:
            shutil.copytree(place / "whole", storage)
            damage(storage / "toy" / "checkpoints" / LAST)
        dist.barrier()
        attempt = ToyAttempt(storage, 2, 2)
        position = attempt.keeper.restore()
        assert position is not None
        attempt.train(position.step, 6)
        found[name] = (
            position.step,
            attempt.keeper.passed_over,
            attempt.contents().different(ends),
        )
        attempt.save(6)
        attempt.engine.destroy()
    found["nothing is left"] = (-1, nothing_left(place), [])
    return found


def nothing_left(place: Path) -> list[str]:
    storage = place / "nothing-left"
    if dist.get_rank() == 0:
        shutil.copytree(place / "whole", storage)
        for name in (FIRST, LAST):
            flip_a_bit(storage / "toy" / "checkpoints" / name)
    dist.barrier()
    attempt = ToyAttempt(storage, 2, 2)
    with pytest.raises(CheckpointError) as caught:
        attempt.keeper.restore()
    attempt.engine.destroy()
    return caught.value.lines


def test_damage_is_passed_over_and_said(tmp_path: Path):
    ranks = run_ranks(fall_back, 2, str(tmp_path), preloaded=True)
    assert ranks[0] == ranks[1]
    for number, (name, (_, said)) in enumerate(CASES.items()):
        step, passed_over, different = ranks[0][name]
        assert step == 3, name
        (line,) = passed_over
        assert line.startswith(f"{LAST}: "), name
        assert said in line, name
        assert different == [], name  # trained again, bit for bit
        folder = RunFolder(tmp_path / f"case-{number}" / "toy")
        # Saved again under the second attempt's name; the damaged one no longer counts.
        assert [(c.step, c.attempt) for c in complete_checkpoints(folder)] == [(3, 1), (6, 2)]
    (line,) = ranks[0]["nothing is left"][1]
    assert "no other checkpoint is left: restore it, or delete" in line
    assert newest(RunFolder(tmp_path / "nothing-left" / "toy")) is not None  # nothing was deleted
