"""Damage to the newest checkpoint: the one before is loaded, and the run says so."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch.distributed as dist

from launcher.checkpoints.find import complete_checkpoints, newest
from launcher.cli import main
from launcher.errors import CheckpointError
from launcher.storage.run_folder import RunFolder
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
        began = time.monotonic()
        position = attempt.keeper.restore()
        assert position is not None
        if dist.get_rank() == 0:
            print(f"{name}: restored in {time.monotonic() - began:.2f} s")  # noqa: T201
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


Found = dict[str, tuple[int, list[str], list[str]]]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("damage")


@pytest.fixture(scope="module")
def found(root: Path) -> Found:
    ranks = run_ranks(fall_back, 2, str(root), preloaded=True)
    assert ranks[0] == ranks[1]
    return ranks[0]


@pytest.mark.parametrize("name", CASES)
def test_damage_is_passed_over_and_said(found: Found, root: Path, name: str):
    step, passed_over, different = found[name]
    assert step == 3
    (line,) = passed_over
    assert line.startswith(f"{LAST}: ")
    assert CASES[name][1] in line
    assert different == []  # trained again, bit for bit
    folder = RunFolder(root / f"case-{list(CASES).index(name)}" / "toy")
    # Saved again under the second attempt's name; the damaged one no longer counts.
    assert [(c.step, c.attempt) for c in complete_checkpoints(folder)] == [(3, 1), (6, 2)]


def test_where_all_are_damaged_nothing_is_thrown_away(found: Found, root: Path):
    (line,) = found["nothing is left"][1]
    assert "no other checkpoint is left: restore it, or delete" in line
    assert newest(RunFolder(root / "nothing-left" / "toy")) is not None


def test_the_command_lists_verifies_and_compares(
    found: Found, root: Path, capsys: pytest.CaptureFixture[str]
):
    def gcg(*arguments: str) -> tuple[int, list[str]]:
        capsys.readouterr()
        code = main(["checkpoints", *arguments])
        return code, capsys.readouterr().out.splitlines()

    whole, hurt = str(root / "whole" / "toy"), str(root / "nothing-left" / "toy")
    code, lines = gcg(whole)
    assert code == 0
    assert [line.split()[:2] for line in lines[1:3]] == [["3", "1"], ["6", "1"]]
    assert lines[2].endswith("2     2  complete, newest")
    assert "2 of 2 complete; attempt 1 owns the run" in lines[3]
    assert gcg(whole, "verify") == (0, [f"{whole}: 2 read, 0 damaged files"])
    code, lines = gcg(hurt, "verify", "6")
    assert code == 1
    assert SHARD in lines[0]
    code, lines = gcg(whole, "diff", "3", "6")
    assert code == 1
    assert lines[0] == "step: 3 | 6"
    assert lines[-1].startswith("all weights: relative difference ")
    assert "grounding.0.weight: relative " in "".join(lines)
    assert gcg(whole, "diff", "6", "6")[0] == 0


def test_the_command_prunes(found: Found, root: Path, tmp_path: Path):
    copy = shutil.copytree(root / "whole" / "toy", tmp_path / "copy")
    folder = RunFolder(copy)
    assert main(["checkpoints", str(copy), "prune", "--keep", "1", "--dry-run"]) == 0
    assert [c.step for c in complete_checkpoints(folder)] == [3, 6]
    assert main(["checkpoints", str(copy), "prune", "--keep", "1"]) == 0
    assert [c.step for c in complete_checkpoints(folder)] == [6]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere"], "nowhere: holds no checkpoints"),
        (["{whole}", "verify", "5"], "step 5: no complete checkpoint of it; there are: 3, 6"),
        (["{whole}", "diff", "3"], "diff: compares two checkpoints; give two STEPs"),
        (["{whole}", "prune", "--keep", "0"], "--keep 0: at least the newest stays"),
    ],
)
def test_what_the_command_refuses(
    found: Found, root: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
):
    given = [argument.format(whole=root / "whole" / "toy") for argument in arguments]
    assert main(["checkpoints", *given]) == 2
    assert said in capsys.readouterr().err
