"""Which checkpoint folders count, who may write them, and which may go."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from launcher.checkpoints.commit import (
    COMMIT,
    Checkpoint,
    commit,
    describe,
    open_checkpoint,
    record_rank,
)
from launcher.checkpoints.fence import begin_attempt, current_attempt, record_origin
from launcher.checkpoints.find import (
    complete_checkpoints,
    entries,
    newest,
    passed_over,
    read_checkpoint,
)
from launcher.checkpoints.keep import prune, read_best, record_best
from launcher.checkpoints.universal import find_universal, publish
from launcher.checkpoints.verify import damage, share
from launcher.errors import CheckpointError, StaleAttemptError
from launcher.storage.run_folder import RunFolder


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    folder = RunFolder(tmp_path / "run")
    assert begin_attempt(folder) == 1
    record_origin(folder, 1, None)
    return folder


def write_ranks(folder: RunFolder, step: int, attempt: int = 1, world_size: int = 2) -> Path:
    """All of a checkpoint but its commit."""
    path = open_checkpoint(folder, step, attempt)
    for rank in range(world_size):
        shard = path / "zero" / f"shard-{rank}.pt"
        shard.parent.mkdir(exist_ok=True)
        shard.write_bytes(b"%d" % (rank + attempt) * (100 + step))
        record_rank(path, rank, world_size, {f"zero/{shard.name}": describe(shard)})
    return path


def write(folder: RunFolder, step: int, attempt: int = 1) -> Checkpoint:
    write_ranks(folder, step, attempt)
    return commit(folder, step, attempt, 2, {"step": step, "world_size": 2, "zero": 2})


def steps(folder: RunFolder) -> list[int]:
    return [checkpoint.step for checkpoint in complete_checkpoints(folder)]


def test_the_newest_complete_one_is_found(folder: RunFolder):
    assert newest(folder) is None
    for step in (100, 300, 200):
        write(folder, step)
    found = newest(folder)
    assert found is not None
    assert (found.step, found.attempt, found.meta["step"]) == (300, 1, 300)
    assert found.path.name == "step-00000300.attempt-1"
    assert set(found.files) == {
        "meta.json", "rank-00000.json", "rank-00001.json", "zero/shard-0.pt", "zero/shard-1.pt",
    }  # fmt: skip


def edit_record(path: Path, **changes: object) -> None:
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, **changes}))


def list_also(path: Path, name: str) -> None:
    files = json.loads(path.read_text())["files"]
    edit_record(path, files={**files, name: {"bytes": 0, "sha256": ""}})


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize(
    ("damage_it", "why"),
    [
        (lambda p: (p / COMMIT).unlink(), "was not finished: it has no COMMIT"),
        (lambda p: (p / COMMIT).write_text((p / COMMIT).read_text()[:20]), "COMMIT: cannot be"),
        (lambda p: edit_record(p / COMMIT, version=1), "is in format 1, this release reads 2"),
        (lambda p: (p / "zero" / "shard-1.pt").unlink(), "zero/shard-1.pt: is missing"),
        (lambda p: list_also(p / COMMIT, "../../../other.pt"), "must be a name below"),
        (lambda p: list_also(p / COMMIT, "/dev/zero"), "must be a name below"),
        (lambda p: (p / "zero" / "shard-1.pt").write_bytes(b"1"), "has 1 bytes, 102 were written"),
        (lambda p: (p / "rank-00001.json").unlink(), "rank-00001.json: is missing"),
        (lambda p: (p / "meta.json").unlink(), "meta.json: is missing"),
        (lambda p: p.rename(p.with_name("step-00000002")), "is not named"),
    ],
)
def test_a_damaged_one_is_not_loaded(
    folder: RunFolder, damage_it: Callable[[Path], object], why: str
):
    write(folder, 1)
    damage_it(write(folder, 2).path)
    assert steps(folder) == [1]
    (line,) = passed_over(folder, newest(folder))
    assert line.startswith("step-00000002")
    assert why in line


def test_contents_are_checked_too(folder: RunFolder):
    checkpoint = write(folder, 1)
    assert damage(checkpoint, threads=4) == []
    flip(checkpoint.path / "zero" / "shard-1.pt")
    assert read_checkpoint(checkpoint.path) is not None  # sizes say nothing
    (line,) = damage(checkpoint)
    assert line.startswith("zero/shard-1.pt: SHA-256 ")
    found = [damage(checkpoint, share(checkpoint, rank, 3)) for rank in range(3)]
    assert [line for lines in found for line in lines] == [
        line
    ]  # ranks read every file once, between them


def test_a_foreign_shard_is_noticed(folder: RunFolder):
    """The same size, even the same name: another checkpoint's."""
    one, other = write(folder, 1), write(folder, 2)
    begin_attempt(folder)
    record_origin(folder, 2, (1, 2))
    third = write(folder, 3, attempt=2)
    shutil.copy(other.path / "zero" / "shard-1.pt", one.path / "zero" / "shard-1.pt")
    assert read_checkpoint(one.path) is None
    shutil.copy(third.path / "rank-00000.json", third.path / "rank-00001.json")
    (line,) = damage(third)
    assert "another checkpoint's" in line


def test_only_what_all_ranks_recorded_is_committed(folder: RunFolder):
    path = write_ranks(folder, 1)
    (path / "rank-00001.json").unlink()
    with pytest.raises(CheckpointError, match="rank 1 did not finish"):
        commit(folder, 1, 1, 2, {})
    path = write_ranks(folder, 2)
    shutil.copy(path / "rank-00000.json", path / "rank-00001.json")
    with pytest.raises(CheckpointError, match="rank = 0: it must be 1"):
        commit(folder, 2, 1, 2, {})
    path = write_ranks(folder, 3, world_size=3)
    with pytest.raises(CheckpointError, match="world_size = 3: it must be 2"):
        commit(folder, 3, 1, 2, {})
    path = write_ranks(folder, 4)
    (path / "zero" / "shard-7.pt").touch()
    with pytest.raises(CheckpointError, match=r"zero/shard-7\.pt: no rank wrote it"):
        commit(folder, 4, 1, 2, {})
    assert steps(folder) == []


def test_the_newest_and_the_best_stay(folder: RunFolder):
    for step, accuracy in ((1, 0.5), (2, 0.7), (3, 0.7), (4, 0.6), (5, 0.1)):
        record_best(folder, write(folder, step), "accuracy", accuracy)
        prune(folder, 2, 1)
    assert steps(folder) == [2, 4, 5]
    assert read_best(folder) == {
        "step": 2,
        "metric": "accuracy",
        "value": 0.7,
        "path": "checkpoints/step-00000002.attempt-1",
    }


def test_a_best_that_is_gone_is_no_best(folder: RunFolder):
    path = write(folder, 1)
    record_best(folder, path, "accuracy", 0.9)
    shutil.rmtree(path.path)
    assert read_best(folder) is None
    assert record_best(folder, write(folder, 2), "accuracy", 0.1)


def test_what_an_earlier_attempt_left_is_cleaned_up(folder: RunFolder):
    left = write_ranks(folder, 7)
    write(folder, 6)
    assert begin_attempt(folder) == 2
    record_origin(folder, 2, (1, 6))
    write(folder, 8, attempt=2)
    own = open_checkpoint(folder, 9, 2)
    assert prune(folder, 2, 2) == [left]
    assert own.exists()
    assert steps(folder) == [6, 8]


def test_an_overtaken_attempt_may_not_write(folder: RunFolder):
    write_ranks(folder, 7)
    begin_attempt(folder)
    for action in (
        lambda: open_checkpoint(folder, 8, 1),
        lambda: commit(folder, 7, 1, 2, {}),
    ):
        with pytest.raises(StaleAttemptError, match="attempt 2 owns"):
            action()
    write(folder, 9, attempt=2)
    with pytest.raises(StaleAttemptError):
        prune(folder, 1, 1)
    assert steps(folder) == [9]


def test_what_an_overtaken_attempt_commits_late_does_not_count(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
):
    """It looked whether it was overtaken before it was, and commits after."""
    write(folder, 4)
    write_ranks(folder, 8)
    begin_attempt(folder)
    record_origin(folder, 2, (1, 4))
    write(folder, 6, attempt=2)
    with monkeypatch.context() as late:
        late.setattr("launcher.checkpoints.commit.assert_current", lambda folder, attempt: None)
        commit(folder, 8, 1, 2, {"step": 8})
    assert steps(folder) == [4, 6]
    (line,) = passed_over(folder, newest(folder))
    assert line == (
        "step-00000008.attempt-1: attempt 1 was overtaken: attempt 2 does not descend from it"
    )
    begin_attempt(folder)
    record_origin(folder, 3, (2, 6))
    write(folder, 8, attempt=3)
    assert [(c.step, c.attempt) for c in complete_checkpoints(folder)] == [(4, 1), (6, 2), (8, 3)]
    gone = prune(folder, 9, 3)
    assert [path.name for path in gone] == ["step-00000008.attempt-1"]


def test_going_back_past_a_damaged_one_leaves_it_behind(folder: RunFolder):
    for step in (1, 2, 3):
        write(folder, step)
    begin_attempt(folder)
    record_origin(folder, 2, (1, 2))  # the third was damaged
    assert steps(folder) == [1, 2]
    begin_attempt(folder)
    record_origin(folder, 3, None)  # begun anew
    assert steps(folder) == []


def test_attempts_that_begin_at_once_get_different_numbers(folder: RunFolder):
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(8) as pool:
        numbers = list(pool.map(lambda _: begin_attempt(folder), range(32)))
    assert sorted(numbers) == list(range(2, 34))
    assert current_attempt(folder) == 33


def test_a_copy_without_attempts_can_be_read(folder: RunFolder, tmp_path: Path):
    write(folder, 5)
    shutil.copytree(folder.checkpoints, tmp_path / "copy" / "checkpoints")
    assert steps(RunFolder(tmp_path / "copy")) == [5]


def test_a_converted_form_counts_once_it_is_whole(folder: RunFolder, tmp_path: Path):
    source = write(folder, 5)
    (tmp_path / "out" / "zero").mkdir(parents=True)
    (tmp_path / "out" / "zero" / "fp32.pt").write_bytes(b"weights")
    made = publish(tmp_path / "out", source, 1)
    found = find_universal(source)
    assert found is not None
    assert found.path == made
    assert damage(found) == []
    assert [entry.path for entry in entries(folder)] == [source.path]  # it is no checkpoint
    assert prune(folder, 1, 1) == []
    (made / "zero" / "fp32.pt").write_bytes(b"")
    assert find_universal(source) is None
    publish(tmp_path / "out", source, 1)
    (made / COMMIT).unlink()
    assert find_universal(source) is None
    publish(tmp_path / "out", source, 1)
    write(folder, 6)
    assert prune(folder, 1, 1) == [source.path, made]
    source = write(folder, 5)  # another one at the same place
    assert find_universal(source) is None
