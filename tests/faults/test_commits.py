"""Commits against kills and zombies, in real processes: what is half written never counts."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from launcher.checkpoints.fence import begin_attempt, record_origin
from launcher.checkpoints.find import complete_checkpoints, entries, newest, passed_over
from launcher.checkpoints.keep import prune
from launcher.storage.run_folder import RunFolder
from tests.conftest import ROOT

# file, bytes of it that reach the disk before the kill
EDGES = [
    ("shard-0.pt", 0),
    ("shard-0.pt", 1),
    ("shard-1.pt", 3999),
    ("rank-00000.json", 0),
    ("rank-00001.json", 100),
    ("meta.json", 5),
    ("COMMIT", 0),
    ("COMMIT", 64),
    ("COMMIT", 500),
]


def drawn(folder: Path, number: int) -> list[tuple[str, int]]:
    """As many of them again, at random bytes of all that a whole checkpoint has: of a file each in
    turn, since most bytes are the shards'."""
    draw = random.Random(0)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    chosen = [files[count % len(files)] for count in range(number)]
    return [(path.name, draw.randrange(path.stat().st_size)) for path in chosen]


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    folder = RunFolder(tmp_path / "run")
    assert begin_attempt(folder) == 1
    record_origin(folder, 1, None)
    return folder


def start(folder: RunFolder, step: int, attempt: int, what: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.faults.writer", str(folder.root), str(step)]
    return subprocess.Popen(
        [*command, str(attempt), what],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def run(folder: RunFolder, step: int, attempt: int, what: str = "nothing") -> int:
    process = start(folder, step, attempt, what)
    process.communicate(timeout=60)
    return process.returncode


def steps(folder: RunFolder) -> list[int]:
    return [checkpoint.step for checkpoint in complete_checkpoints(folder)]


def test_a_kill_while_writing_leaves_the_one_before(folder: RunFolder):
    assert run(folder, 1, 1) == 0
    (whole,) = complete_checkpoints(folder)
    kills = [*EDGES, *drawn(whole.path, 12)]
    running = [start(folder, 10 + n, 1, f"{name}:{at}") for n, (name, at) in enumerate(kills)]
    for process in running:
        process.communicate(timeout=60)
    assert [process.returncode for process in running] == [-signal.SIGXFSZ] * len(kills)
    assert len(entries(folder)) == 1 + len(kills)
    assert steps(folder) == [1]
    assert all("was not finished" in line for line in passed_over(folder, newest(folder)))
    # The next attempt goes on from step 1, and clears away what the killed ones left.
    attempt = begin_attempt(folder)
    record_origin(folder, attempt, (1, 1))
    assert run(folder, 2, attempt) == 0
    assert len(prune(folder, 2, attempt)) == len(kills)
    assert steps(folder) == [1, 2]


@pytest.fixture
def zombie(folder: RunFolder, request: pytest.FixtureRequest) -> Iterator[subprocess.Popen[str]]:
    """Attempt 1 in the middle of its checkpoint of step 8 when attempt 2 has gone on from 4."""
    assert run(folder, 4, 1) == 0
    process = start(folder, 8, 1, request.param)
    assert process.stdout is not None
    assert process.stdout.readline() == "waiting\n"
    assert begin_attempt(folder) == 2
    record_origin(folder, 2, (1, 4))
    assert run(folder, 8, 2) == 0
    yield process
    process.kill()
    process.communicate()


@pytest.mark.parametrize("zombie", ["pause-before-commit"], indirect=True)
def test_a_zombie_is_refused(folder: RunFolder, zombie: subprocess.Popen[str]):
    said, _ = zombie.communicate("go on\n", timeout=60)
    assert zombie.returncode == 3
    assert "attempt 2 owns this run now, this is attempt 1; it stops here" in said
    assert [(c.step, c.attempt) for c in complete_checkpoints(folder)] == [(4, 1), (8, 2)]


@pytest.mark.parametrize("zombie", ["pause-inside-commit"], indirect=True)
def test_a_zombie_that_was_held_up_inside_its_commit_is_not_believed(
    folder: RunFolder, zombie: subprocess.Popen[str]
):
    zombie.communicate("go on\n", timeout=60)
    assert zombie.returncode == 0  # it had looked before it was overtaken
    assert [(c.step, c.attempt) for c in complete_checkpoints(folder)] == [(4, 1), (8, 2)]
    (stale,) = (e for e in entries(folder) if e.checkpoint is None)
    assert stale.committed
    assert stale.stale
    assert stale.why == "attempt 1 was overtaken: attempt 2 does not descend from it"
