"""A conversion that is killed midway is never used half: the next attempt converts afresh."""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException

from launcher.checkpoints.find import newest
from launcher.checkpoints.universal import caches, find_universal
from launcher.checkpoints.verify import damage
from launcher.storage.run_folder import RunFolder
from tests.spawn import run_ranks

from .toy_runs import Contents, ToyAttempt

PATIENCE_S = 120


def save_at_2(root: str) -> Contents:
    attempt = ToyAttempt(Path(root), 2, 2)
    attempt.train(0, 3)
    attempt.save(3)
    return attempt.contents()


def resume_at_1(root: str) -> Contents:
    tempfile.tempdir = None  # of a forked rank: TMPDIR is this test's
    attempt = ToyAttempt(Path(root), 1, 3)
    assert attempt.keeper.restore() is not None
    return attempt.contents()


def the_converter() -> psutil.Process | None:
    for process in psutil.Process().children(recursive=True):
        try:
            if "launcher.checkpoints.convert" in process.cmdline():
                return process
        except psutil.NoSuchProcess:
            continue
    return None


def kill_converter(process: psutil.Process) -> None:
    process.kill()


def kill_rank_and_converter(process: psutil.Process) -> None:
    parent = process.parent()
    assert parent is not None
    parent.kill()
    process.kill()


KILLS: dict[str, tuple[Callable[[psutil.Process], None], type[Exception], str]] = {
    "the conversion": (kill_converter, ProcessRaisedException, "ended with code -9"),
    "the rank too": (kill_rank_and_converter, ProcessExitedException, "SIGKILL"),
}


def scratch() -> list[str]:
    place = Path(tempfile.gettempdir()) / f"gcg-universal-{os.getuid()}"
    return [path.name for path in place.iterdir()] if place.is_dir() else []


# What stands in sitecustomize.py of a process: it goes no further than the first weight's folder.
HOLD = """
import sys, threading

def hold(event, arguments):
    if event == "os.mkdir" and "/out/zero/" in str(arguments[0]):
        threading.Event().wait()

sys.addaudithook(hold)
"""


def interrupted(root: str, local: Path, name: str) -> None:
    """An attempt whose conversion is killed when it has begun to write; until then it waits."""
    kill, error, text = KILLS[name]
    killed, ended = threading.Event(), threading.Event()

    def watch() -> None:
        while not ended.wait(0.01):
            process = the_converter()
            if process is not None and any(local.glob("gcg-universal-*/*/out/zero")):
                kill(process)
                killed.set()
                return

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        with pytest.raises(error, match=text):
            run_ranks(resume_at_1, 1, root, timeout_s=PATIENCE_S, preloaded=True)
    finally:
        ended.set()
        watcher.join()
    assert killed.is_set(), name


@pytest.mark.slow
def test_a_killed_conversion_is_begun_afresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    local = tmp_path / "local"
    local.mkdir()
    monkeypatch.setenv("TMPDIR", str(local))
    monkeypatch.setattr(tempfile, "tempdir", None)
    root, folder = str(tmp_path), RunFolder(tmp_path / "toy")
    saved = run_ranks(save_at_2, 2, root, preloaded=True)[0]
    source = newest(folder)
    assert source is not None
    held = tmp_path / "held"
    held.mkdir()
    (held / "sitecustomize.py").write_text(HOLD)
    for name in KILLS:
        with monkeypatch.context() as environment:
            environment.setenv("PYTHONPATH", str(held), prepend=os.pathsep)
            interrupted(root, local, name)
        assert find_universal(source) is None, name
    (restored,) = run_ranks(resume_at_1, 1, root, preloaded=True)
    assert restored.different(saved) == []
    made = find_universal(source)
    assert made is not None
    assert damage(made) == []
    assert len(caches(folder)) == 1
    assert scratch() == []  # what the killed ones left is gone, too
    wait_until_gone(str(local))


def wait_until_gone(place: str) -> None:
    """The processes of a killed conversion end with it."""
    left = [process for process in psutil.process_iter() if works_in(process, place)]
    _, alive = psutil.wait_procs(left, timeout=PATIENCE_S)
    assert alive == []


def works_in(process: psutil.Process, place: str) -> bool:
    try:
        return any(place in part for part in process.cmdline())
    except psutil.Error:
        return False
