"""The command is asked to stop while the run's storage refuses."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from launcher.cluster.departure import Departure
from launcher.storage.run_folder import RunFolder


def test_a_wish_is_a_file_while_it_lasts(tmp_path: Path):
    folder = RunFolder(tmp_path)
    with Departure(folder, grace_s=60) as departure:
        os.kill(os.getpid(), signal.SIGTERM)
        assert folder.leave.read_text() == "SIGTERM\n"
        assert departure.number == signal.SIGTERM
        assert not departure.is_over
    assert not folder.leave.exists()


def test_workers_that_cannot_be_asked_are_not_waited_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    folder = RunFolder(tmp_path / "run")
    with Departure(folder, grace_s=60) as departure:
        folder.root.write_text("in the way")  # what permission bits do not do to a superuser
        os.kill(os.getpid(), signal.SIGTERM)
        assert departure.number == signal.SIGTERM
        assert departure.is_over
    assert "the workers cannot be asked to save" in caplog.text
