"""What is made of a job's log: lines, one bar, the step, the result."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest

from launcher.cluster.departure import DepartedError
from launcher.jobs.follow import LogView
from launcher.jobs.log_lines import last_step, left_at
from launcher.jobs.runs import RunJob, next_id, outcome
from launcher.jobs.table import job_table
from launcher.observe.progress import Progress

LOG = """Running entrypoint for job a-1: python -m launcher.train --config submitted-run.yaml
a: continues from step 4 (attempt 2)
a: step 5/40 loss 0.500, vqa 0.400, reg 0.050, con 0.050, 3.1 pairs/s, 00:10 left
workers left with a checkpoint of step 3: a worker received SIGTERM
a: step 6: validation: accuracy 50.0 %
"""


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def job(state: str, exit_code: int | None = None) -> RunJob:
    return RunJob("a-1", "a", "/runs/a", state, 1.0, 2.0, exit_code, "words\nthe last of them\n")


def test_without_a_terminal_the_log_is_as_it_is():
    stream = io.StringIO()
    view = LogView(stream)
    for start in range(0, len(LOG), 7):  # lines come in pieces
        view.add(LOG[start : start + 7])
    view.add("half a line")
    view.close()
    assert stream.getvalue() == LOG + "half a line\n"
    assert view.shown == len(LOG) + len("half a line")


def test_in_a_terminal_steps_move_one_bar():
    stream = Terminal()
    view = LogView(stream)
    view.add(LOG)
    view.add(LOG.replace("step 5/40", "step 9/40").splitlines()[2] + "\n")
    view.close()
    shown = stream.getvalue()
    assert "step 5/40" not in shown
    assert "9/40" in shown
    assert "loss 0.500" in shown
    assert "validation: accuracy 50.0 %" in shown  # lines stay lines, above it


@pytest.mark.parametrize(
    ("log", "step"),
    [
        (LOG, (5, 40)),
        (
            LOG + "left with a checkpoint of step 7; run the same command again to continue\n",
            (7, None),
        ),
        ("a: continues from step 4 (attempt 2)\n", (4, None)),
        ("Runtime env is setting up.\n", None),
        ("", None),
    ],
)
def test_the_step_that_a_log_is_at(log: str, step: tuple[int, int | None] | None):
    assert last_step(log) == step


def test_the_lines_are_those_that_the_command_writes(tmp_path: Path):
    """By the writers themselves: a change of theirs must not make jobs stepless."""
    metrics, stream = tmp_path / "metrics.jsonl", io.StringIO()
    with Progress(metrics, 40, "a.run-1", stream):
        row = {"kind": "train", "step": 40, "time": 1.0, "loss": 1.0, "pairs_per_s": 2.0}
        row |= dict.fromkeys(("loss_vqa", "loss_reg", "loss_con"), 0.5)
        metrics.write_text(
            json.dumps({"kind": "start", "step": 4, "time": 0.5, "attempt": 2})
            + "\n"
            + json.dumps(row)
            + "\n"
        )
    begin, stepped = stream.getvalue().splitlines()
    assert last_step(begin) == (4, None)
    assert last_step(stepped) == (40, 40)
    assert left_at(str(DepartedError(15, 12))) == 12
    assert left_at(str(DepartedError(15, None))) is None


@pytest.mark.parametrize(
    ("state", "exit_code", "left", "code", "words"),
    [
        ("succeeded", 0, False, 0, "a-1: succeeded"),
        ("failed", 1, False, 1, "failed with exit code 1; gcg logs a says why"),
        ("failed", -9, False, 1, "failed with exit code -9"),
        ("failed", 2, False, 2, "failed with exit code 2"),
        ("failed", 75, False, 75, "failed with exit code 75"),  # the cluster was lost
        ("failed", 75, True, 75, "left with a checkpoint of step 7; submit the same run again"),
        ("failed", None, False, 1, "failed: the last of them"),
        ("stopped", None, True, 75, "left with a checkpoint of step 7; submit the same run again"),
        ("stopped", None, False, 130, "stopped without a last checkpoint"),
    ],
)
def test_the_result_of_a_job(state, exit_code, left, code, words):
    log = LOG + ("left with a checkpoint of step 7; run …\n" if left else "")
    found = outcome(job(state, exit_code), log)
    assert found[0] == code
    assert words in found[1]


def test_submissions_of_a_run_are_numbered():
    jobs = [job("failed"), replace(job("failed"), id="a-10"), replace(job("failed"), id="a-b-99")]
    assert next_id(jobs, "a") == "a-11"
    assert next_id(jobs, "a-b") == "a-b-100"
    assert next_id(jobs, "a.b") == "a.b-1"
    assert next_id([], "a") == "a-1"


def test_rows_in_a_table():
    row = {
        "run": None, "job": "raysubmit_x", "state": "failed", "started": None, "seconds": None,
        "step": None, "steps": None, "message": "failed with exit code 1",
    }  # fmt: skip
    other = {**row, "run": "a", "started": 1.0, "seconds": 3725.2, "step": 5, "steps": 40}
    _, one, two = job_table([row, other])
    assert one.split() == ["-", "raysubmit_x", "failed", "-", "-", "-", *row["message"].split()]
    assert "1:02:05" in two
    assert "5/40" in two
