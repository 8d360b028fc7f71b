"""What a run writes about itself, and what the driver makes of it."""

from __future__ import annotations

import io
import json
import resource
import time
from pathlib import Path

import pytest

from launcher.observe.event_files import EventFiles
from launcher.observe.lines import LineFile, read_lines
from launcher.observe.progress import Progress
from launcher.observe.runlog import RunLog, read_metrics
from launcher.storage.run_folder import RunFolder

STEP = {
    "loss": 1.0,
    "loss_vqa": 0.5,
    "loss_reg": 0.25,
    "loss_con": 0.25,
    "pairs_per_s": 12.5,
    "bad": 1,
}


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path)


def test_a_resumed_run_has_each_step_once(folder: RunFolder):
    log = RunLog(folder, 0)
    for step in (1, 2, 3):
        log.write("train", step, STEP)
    log.close()
    with folder.metrics.open("a") as file:
        file.write('{"kind": "train", "st')  # killed while writing
    log = RunLog(folder, 2)
    for step in (3, 4):
        log.write("train", step, STEP)
    log.close()
    assert [row["step"] for row in read_metrics(folder.metrics)] == [1, 2, 3, 4]


def test_lines_are_json_even_where_a_figure_does_not_exist(folder: RunFolder):
    log = RunLog(folder, 0)
    log.write("val", 1, {"overlap": float("nan"), "by": {"x": [float("inf"), 1.0]}})
    log.close()
    row = json.loads(folder.metrics.read_text())
    assert row["overlap"] is None
    assert row["by"] == {"x": [None, 1.0]}


def test_lines_wait_for_a_storage_that_refuses(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    place = tmp_path / "run"
    place.write_text("in the way")
    lines = LineFile(place / "lines.jsonl")
    lines.write({"step": 1})
    lines.write({"step": 2})
    place.unlink()
    lines.write({"step": 3})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40, hard))  # takes a part of the next line
    try:
        lines.write({"step": 4, "text": "longer than there is room for"})
        lines.write({"step": 5}, sync=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (place / "lines.jsonl").stat().st_size == 40
    lines.close()
    assert [row["step"] for row in read_lines(place / "lines.jsonl")] == [1, 2, 3, 4, 5]
    assert len([r for r in caplog.records if "wait until" in r.getMessage()]) == 2  # not each line


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # tensorboard's own imports
def test_numbers_go_to_tensorboard(folder: RunFolder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = RunLog(folder, 0, [EventFiles(folder, 0)])
    log.write("train", 1, STEP)
    log.write("val", 1, {"accuracy": 0.5, "by_type": {}})
    log.close()
    events = EventAccumulator(str(folder.root / "tensorboard")).Reload()
    assert set(events.Tags()["scalars"]) == {f"train/{name}" for name in STEP} | {"val/accuracy"}


def test_progress_follows_through_a_restart(folder: RunFolder):
    old = RunLog(folder, 0)
    old.write("train", 1, STEP)
    old.close()
    out = io.StringIO()
    with Progress(folder.metrics, 4, "demo", out):
        for attempt, begin in ((1, 1), (2, 2)):
            log = RunLog(folder, begin)
            log.write("start", begin, {"attempt": attempt})
            for step in range(begin + 1, 5):
                log.write("train", step, STEP)
                log.write("val", step, {"accuracy": step / 10, "miop": None})
            log.close()
            time.sleep(0.5)
    text = out.getvalue()
    assert "continues from step 1 (attempt 1)" in text
    assert "continues from step 2 (attempt 2)" in text
    assert text.count("step 4/4 loss 1.000, vqa 0.500, reg 0.250, con 0.250, 12.5 pairs/s") == 2
    assert "step 4: validation: accuracy 40.0 %" in text
    assert "step 1/4" not in text  # of an earlier command


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_is_a_bar_in_a_terminal(folder: RunFolder):
    out = Terminal()
    with Progress(folder.metrics, 4, "demo", out):
        log = RunLog(folder, 0)
        log.write("start", 0, {"attempt": 1})
        for step in range(1, 5):
            log.write("train", step, STEP)
        log.close()
    assert "4/4" in out.getvalue()
    assert "loss 1.000" in out.getvalue()
