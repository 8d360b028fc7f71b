"""A checkpoint that someone else wrote, with checksums that fit, runs nothing on any rank."""

from __future__ import annotations

import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.multiprocessing.spawn import ProcessRaisedException

from launcher.checkpoints.commit import COMMIT, describe
from launcher.checkpoints.find import newest
from launcher.checkpoints.safe_load import load, only_known_classes, refuse_unknown
from launcher.errors import CheckpointError
from launcher.storage.run_folder import RunFolder, read_json, write_json
from launcher.training.rng import rng_state, set_rng_state
from tests.spawn import run_ranks

from .toy_runs import ToyAttempt


class Command:
    """Unpickled, it would run a command that leaves a mark."""

    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self._mark}",)


class Call(Command):
    """The same by another way: one of Python's own functions."""

    def __reduce__(self) -> Any:
        return eval, (f"__import__('pathlib').Path({str(self._mark)!r}).touch()",)


def save_at(root: str, world: int, zero: int) -> None:
    attempt = ToyAttempt(Path(root), world, zero)
    attempt.train(0, 3)
    attempt.save(3)


def resume_at(root: str, world: int, zero: int) -> int:
    attempt = ToyAttempt(Path(root), world, zero)
    position = attempt.keeper.restore()
    assert position is not None
    return position.step


def poison(checkpoint: Path, name: str, mark: Path) -> None:
    """Put a command into a file of a checkpoint, and right its COMMIT."""
    file = checkpoint / name
    content = torch.load(file, weights_only=False)
    torch.save({**content, "extra": Command(mark)}, file)
    record = read_json(checkpoint / COMMIT)
    assert record is not None
    record["files"][name] = describe(file)
    write_json(checkpoint / COMMIT, record)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("saved")
    run_ranks(save_at, 2, str(root), 2, 2, preloaded=True)
    return root


@pytest.mark.parametrize("world", [2, 1])  # at 1 it would be converted first
def test_a_command_in_a_file_stops_the_run(saved: Path, tmp_path: Path, world: int):
    root, mark = tmp_path / "root", tmp_path / "ran"
    shutil.copytree(saved, root)
    checkpoint = newest(RunFolder(root / "toy"))
    assert checkpoint is not None
    (shard,) = (name for name in checkpoint.files if "zero_pp_rank_1_mp" in name)
    names = ["zero/mp_rank_00_model_states.pt", shard, "rank-00001.pt"]
    for name in names:
        poison(checkpoint.path, name, mark)
    with pytest.raises(ProcessRaisedException, match="RunStoppedError") as error:
        run_ranks(resume_at, world, str(root), world, 2, preloaded=True)
    for name in names:
        line = f"{checkpoint.path / name}: holds posix.system, which no checkpoint of ours does"
        assert line in str(error.value)
    assert not mark.exists()


def test_what_a_checkpoint_holds_is_read(saved: Path, tmp_path: Path):
    assert run_ranks(resume_at, 2, str(saved), 2, 2, preloaded=True) == [3, 3]
    file = tmp_path / "rng.pt"
    before = rng_state()
    torch.save({"rng": before}, file)
    expected = (torch.rand(3).tolist(), np.random.rand(3).tolist())
    set_rng_state(load(file)["rng"])
    assert (torch.rand(3).tolist(), np.random.rand(3).tolist()) == expected


def test_the_loss_scaler_of_fp16_is_read(tmp_path: Path):
    """Which only a GPU's run leaves behind."""
    from launcher.training.engine import import_deepspeed

    import_deepspeed(use_gpu=False)
    from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler

    scaler = DynamicLossScaler(
        init_scale=2**16, scale_window=100, min_scale=1, delayed_shift=2,
        consecutive_hysteresis=False, raise_error_at_min_scale=False, dtype=torch.half,
    )  # fmt: skip
    torch.save({"loss_scaler": scaler}, tmp_path / "state.pt")
    refuse_unknown([tmp_path / "state.pt"])
    assert vars(load(tmp_path / "state.pt")["loss_scaler"]) == vars(scaler)


@pytest.mark.parametrize("content", [Command, Call])
def test_a_file_alone(tmp_path: Path, content: type[Command]):
    file, mark = tmp_path / "state.pt", tmp_path / "ran"
    torch.save({"step": 3, "extra": content(mark)}, file)
    what = "posix.system" if content is Command else "eval"
    for read in (load, lambda path: refuse_unknown([path])):
        with pytest.raises(CheckpointError, match=rf"state\.pt: holds .*{what}, which no check"):
            read(file)
    with only_known_classes(), pytest.raises(pickle.UnpicklingError):
        torch.load(file, weights_only=False)  # as DeepSpeed asks
    assert not mark.exists()
    torch.load(file, weights_only=False)  # what the test is about would happen
    assert mark.exists()


def test_the_switch_ends_with_its_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    name = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    monkeypatch.delenv(name, raising=False)
    with only_known_classes():
        assert os.environ[name] == "1"
    assert name not in os.environ
    monkeypatch.setenv(name, "0")
    with only_known_classes():
        assert os.environ[name] == "1"
    assert os.environ[name] == "0"


@pytest.mark.parametrize("content", [b"", b"no archive", pickle.dumps({"step": 3})])
def test_what_torch_did_not_write(tmp_path: Path, content: bytes):
    file = tmp_path / "state.pt"
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"state\.pt: holds a format of its own"):
        refuse_unknown([file])
