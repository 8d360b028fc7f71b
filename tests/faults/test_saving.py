"""Writing in the background, and storage that refuses: real engines on two ranks over gloo."""

from __future__ import annotations

import resource
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist

from launcher.checkpoints.background import BackgroundWriter
from launcher.checkpoints.find import complete_checkpoints, newest
from launcher.checkpoints.keeper import Position
from launcher.checkpoints.snapshot import HostMemory, Snapshot
from launcher.errors import RunStoppedError
from tests.launcher.test_engine import Attempt, same
from tests.spawn import run_ranks


@dataclass(frozen=True)
class Found:
    """What one rank saw."""

    went_on: bool
    second_waited: bool
    of_the_snapshot: bool
    steps: list[int]
    refused: list[str]
    stood: list[int]
    said: list[str]
    steps_after: list[int]
    given_up: list[str]


def background(attempt: Attempt, root: str) -> tuple[bool, bool, bool, list[int]]:
    """While the writer is held up, training goes on and a second save waits."""
    attempt.train(0, 2)
    held = threading.Event()
    attempt.keeper._saver._writer._thread.submit(held.wait)
    attempt.keeper.save(position(2))
    at_save = attempt.masters()
    attempt.train(2, 4)
    went_on = newest(attempt.folder) is None and not same(at_save, attempt.masters())
    with ThreadPoolExecutor(1) as pool:
        second = pool.submit(attempt.keeper.save, position(4))
        waited = not threading.Event().wait(0.5) and not second.done()
        held.set()
        second.result()
    attempt.keeper.wait()
    dist.barrier()
    steps = [each.step for each in complete_checkpoints(attempt.folder)]
    dist.barrier()
    if attempt.rank == 0:
        (attempt.folder.checkpoints / "step-00000004.attempt-1" / "COMMIT").unlink()
    dist.barrier()
    again = Attempt(Path(root))
    restored = again.keeper.restore()
    assert restored is not None
    alike = restored.step == 2 and same(at_save, again.masters())
    again.engine.destroy()
    return went_on, waited, alike, steps


def position(step: int) -> Position:
    return Position(step, {"epoch": 0, "step": step})


def refusing(root: str) -> tuple[list[str], list[int], list[str], list[int], list[str]]:
    """Rank 1 may not write more than 4 KB into a file: its shard is larger."""
    attempt = Attempt(Path(root), checkpoint__max_failed=1, checkpoint__keep=9)
    attempt.train(0, 1)
    attempt.keeper.save(position(1))
    attempt.keeper.wait()
    limit(4096 if attempt.rank == 1 else None)
    attempt.train(1, 2)
    attempt.keeper.save(position(2))
    attempt.train(2, 3)
    limit(None)  # room again, in time
    attempt.keeper.save(position(3))
    attempt.keeper.wait()
    refused = attempt.keeper.take_failures()
    dist.barrier()
    stood = [each.step for each in complete_checkpoints(attempt.folder)]
    limit(4096 if attempt.rank == 1 else None)
    said: list[str] = []
    attempt.keeper.save(position(4))
    try:
        attempt.keeper.save(position(5))
        attempt.keeper.save(position(6))
    except RunStoppedError as error:
        said = error.lines
    limit(None)
    dist.barrier()
    after = [each.step for each in complete_checkpoints(attempt.folder)]
    dist.barrier()  # all have looked
    given_up = last_one(attempt)
    attempt.keeper.close()
    return refused, stood, said, after, given_up


def last_one(attempt: Attempt) -> list[str]:
    """The place of the checkpoints has become a file; the last save of a run may not fail."""
    if attempt.rank == 0:
        attempt.folder.checkpoints.rename(attempt.folder.root / "moved")
        attempt.folder.checkpoints.write_text("not a folder")
    dist.barrier()
    attempt.keeper._saver._failed_in_a_row = 0
    attempt.keeper.save(position(7))
    try:
        attempt.keeper.wait()
    except RunStoppedError as error:
        return error.lines
    return []


def limit(size: int | None) -> None:
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most if size is None else size, most))


def everything(root: str) -> Found:
    attempt = Attempt(Path(root) / "background")
    first = background(attempt, f"{root}/background")
    attempt.keeper.close()
    attempt.engine.destroy()
    return Found(*first, *refusing(f"{root}/refusing"))


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[Found]:
    return run_ranks(everything, 2, str(tmp_path_factory.mktemp("saving")))


def test_training_goes_on_while_a_snapshot_is_written(found: list[Found]):
    for own in found:
        assert own.went_on
        assert own.of_the_snapshot
        assert own.steps == [2, 4]


def test_a_second_save_waits_for_the_first(found: list[Found]):
    assert any(own.second_waited for own in found)


def test_a_storage_that_refuses_for_a_while_costs_one_checkpoint(found: list[Found]):
    for own in found:
        (line,) = own.refused
        assert "step-00000002.attempt-1: cannot be written: File too large" in line
        assert "the checkpoint before it is intact" in line
        assert own.stood == [1, 3]


def test_one_that_goes_on_refusing_stops_all_ranks(found: list[Found]):
    first, second = found
    assert first.said == second.said
    assert "2 in a row have failed, checkpoint.max_failed = 1" in first.said[0]
    assert first.steps_after == [1, 3]


def test_the_last_save_may_not_fail(found: list[Found]):
    for own in found:
        assert "step-00000007" in own.given_up[0]


def test_a_save_that_failed_is_none_that_was_made(tmp_path: Path):
    """Training asks after every step; only who waits for the save is told why it failed."""
    writer = BackgroundWriter(0, 1, HostMemory())
    path = tmp_path / "step-00000004.attempt-1"
    path.write_text("not a folder")
    snapshot = Snapshot()
    snapshot.files = [(str(path / "zero" / "shard.pt"), {})]
    writer.start(path, snapshot, lambda: None)
    writer.stalled(4, 0.1)
    writer.close()  # until it has failed
    assert writer.take_saved() is None
    with pytest.raises(NotADirectoryError):
        writer.wait_written()


def test_settings(tmp_path: Path):
    from tests.launcher.toy import toy_config

    config: Any = toy_config(tmp_path)
    assert config.checkpoint.in_background
    assert config.checkpoint.max_failed == 3
