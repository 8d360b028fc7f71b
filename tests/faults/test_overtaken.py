"""A worker that was overtaken ends, and not by a failure: Ray would start it again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from launcher.checkpoints.fence import begin_attempt
from launcher.checkpoints.find import complete_checkpoints
from launcher.cluster.launch import check_outcome
from launcher.config import RunConfig
from launcher.errors import RunStoppedError
from launcher.observe.runlog import read_metrics
from launcher.storage.run_folder import RunFolder
from launcher.training.worker import run_worker
from tests.spawn import run_ranks

from .test_training_runs import make


def be_overtaken(config: RunConfig) -> None:
    def report(figures: Any) -> None:
        if figures["step"] == 2:
            begin_attempt(RunFolder(config.folder))  # elsewhere, while this one lives on

    run_worker(config, report)


def test_an_overtaken_run_stops(packed: Path, tmp_path: Path):
    config = make(packed, tmp_path, "overtaken", 1, 2)
    # In the background, the checkpoint of step 2 would come too late as well.
    section = config.checkpoint.model_copy(update={"in_background": False})
    config = config.model_copy(update={"checkpoint": section})
    run_ranks(be_overtaken, 1, config, preloaded=True)
    folder = RunFolder(config.folder)
    assert [c.step for c in complete_checkpoints(folder)] == [2]
    assert not folder.stopped.exists()  # the run itself goes on
    assert "owns this run now, this is attempt 1" in folder.log(0).read_text()
    assert max(row["step"] for row in read_metrics(folder.metrics)) == 4  # found when it saved
    with pytest.raises(RunStoppedError, match="attempt 2, begun elsewhere, owns this run now"):
        check_outcome(folder)
