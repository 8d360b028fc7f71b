"""Which checkpoint folders count, and which may go."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from launcher.checkpoint import (
    COMMIT,
    Checkpoint,
    commit,
    complete_checkpoints,
    newest,
    open_partial,
    prune,
    read_best,
    read_checkpoint,
    record_best,
)
from launcher.errors import StaleAttemptError
from launcher.run_folder import RunFolder, begin_attempt


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    folder = RunFolder(tmp_path / "run")
    assert begin_attempt(folder) == 1
    return folder


def write(folder: RunFolder, step: int, attempt: int = 1) -> Checkpoint:
    partial = open_partial(folder, step, attempt)
    (partial / "zero").mkdir()
    (partial / "zero" / "shard.pt").write_bytes(b"x" * (100 + step))
    return commit(folder, step, attempt, {"step": step})


def test_the_newest_complete_one_is_found(folder: RunFolder):
    assert newest(folder) is None
    for step in (100, 300, 200):
        write(folder, step)
    found = newest(folder)
    assert found is not None
    assert (found.step, found.meta, found.path.name) == (300, {"step": 300}, "step-00000300")


def test_a_partial_folder_is_not_loaded(folder: RunFolder):
    write(folder, 1)
    partial = open_partial(folder, 2, 1)
    (partial / "shard.pt").write_bytes(b"x")
    assert [c.step for c in complete_checkpoints(folder)] == [1]


@pytest.mark.parametrize("damage", ["no record", "cut record", "lost", "short", "no meta", "name"])
def test_a_damaged_one_is_not_loaded(folder: RunFolder, damage: str):
    write(folder, 1)
    path = write(folder, 2).path
    shard = path / "zero" / "shard.pt"
    if damage == "no record":
        (path / COMMIT).unlink()
    elif damage == "cut record":
        (path / COMMIT).write_text((path / COMMIT).read_text()[:20])
    elif damage == "lost":
        shard.unlink()
    elif damage == "short":
        shard.write_bytes(shard.read_bytes()[:-1])
    elif damage == "no meta":
        (path / "meta.json").unlink()
    else:
        path = path.rename(path.with_name("step-2"))
    assert read_checkpoint(path) is None
    assert [c.step for c in complete_checkpoints(folder)] == [1]


def test_the_newest_and_the_best_stay(folder: RunFolder):
    for step, accuracy in ((1, 0.5), (2, 0.7), (3, 0.7), (4, 0.6), (5, 0.1)):
        record_best(folder, write(folder, step), "accuracy", accuracy)
        prune(folder, 2, 1)
    assert [c.step for c in complete_checkpoints(folder)] == [2, 4, 5]
    best = read_best(folder)
    assert best == {
        "step": 2,
        "metric": "accuracy",
        "value": 0.7,
        "path": "checkpoints/step-00000002",
    }


def test_a_best_that_is_gone_is_no_best(folder: RunFolder):
    path = write(folder, 1)
    record_best(folder, path, "accuracy", 0.9)
    shutil.rmtree(path.path)
    assert read_best(folder) is None
    assert record_best(folder, write(folder, 2), "accuracy", 0.1)


def test_what_an_earlier_attempt_left_is_cleaned_up(folder: RunFolder):
    left = open_partial(folder, 7, 1)
    assert begin_attempt(folder) == 2
    write(folder, 8, attempt=2)
    own = open_partial(folder, 9, 2)
    assert prune(folder, 1, 2) == [left]
    assert own.exists()


def test_a_stale_attempt_may_not_write(folder: RunFolder):
    open_partial(folder, 7, 1)
    begin_attempt(folder)
    for action in (
        lambda: open_partial(folder, 8, 1),
        lambda: commit(folder, 7, 1, {}),
        lambda: prune(folder, 1, 1),
    ):
        with pytest.raises(StaleAttemptError, match="attempt 2 owns"):
            action()
    assert newest(folder) is None


def test_committing_a_step_again_replaces_it(folder: RunFolder):
    write(folder, 5)
    begin_attempt(folder)
    open_partial(folder, 5, 2)
    commit(folder, 5, 2, {"step": 5, "attempt": 2})
    (found,) = complete_checkpoints(folder)
    assert found.meta["attempt"] == 2
