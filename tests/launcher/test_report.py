"""`gcg report` on runs in every state, and on what is no run."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.cli import main
from launcher.config import dump
from launcher.observe.events import EventFile
from launcher.observe.ledger import Ledger
from launcher.observe.runlog import RunLog
from launcher.report import plots
from launcher.report.figures import run_figures
from launcher.report.page import render, span
from launcher.storage.run_folder import RunFolder, write_json, write_text

from .pages import Page, check_page
from .toy import toy_config

STEP = {
    "loss": 1.0, "loss_vqa": 0.5, "loss_reg": 0.25, "loss_con": 0.25, "pairs_per_s": 12.5,
    "step_s": 0.2, "step_p50_s": 0.2, "step_p90_s": 0.3, "step_p99_s": 0.3, "step_max_s": 0.3,
    "data_wait_share": 0.125, "bad_share": None, "mfu": None, "rss_gb": 1.25,
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    config = toy_config(tmp_path)
    folder = RunFolder(config.folder)
    write_text(folder.config, dump(config))
    return folder


def page_of(folder: RunFolder, now: float) -> tuple[dict, Page]:
    found = run_figures(folder.root, now)
    return found, check_page(render(found))


def make_steps(folder: RunFolder, last: int) -> float:
    """A run that has made some steps; the time of its last record."""
    ledger = Ledger(folder, 1, flush_every_s=0)
    ledger.record("start", world_size=2)
    ledger.record("ready", step=0)
    log = RunLog(folder, 0)
    log.write("start", 0, {"attempt": 1, "peak_tflops": None, "peak_source": "a new GPU",
                           "mfu_unknown": "a new GPU: no published peak is known"})  # fmt: skip
    for step in range(1, last + 1):
        ledger.step(step, 0.0, 0.0, made=True)
        log.write("train", step, STEP)
    log.close()
    return run_figures(folder.root, 0.0)["goodput"]["end"]


def test_a_run_that_only_begins(folder: RunFolder):
    found, page = page_of(folder, 1e9)
    assert found["state"]["name"] == "silent"  # no event yet: nobody can tell
    assert "No time has been recorded yet" in page.text
    assert "No step logged yet" in page.text
    assert page.charts == []


def test_a_run_that_goes_on_and_one_that_went_silent(folder: RunFolder):
    last = make_steps(folder, 3)
    found, page = page_of(folder, last + 5)
    assert found["state"] == {
        "name": "running", "why": None, "step": 3, "steps": 12,
        "silent_s": pytest.approx(5, abs=0.5),
    }  # fmt: skip
    assert "running at step 3 of 12; last record" in page.text
    assert "no published peak is known" in page.text
    assert "12.5" in page.text
    # A hang is ended after hang_timeout_s: until then the run may still go on.
    assert run_figures(folder.root, last + 1700)["state"]["name"] == "running"
    found, page = page_of(folder, last + 4000)
    assert found["state"]["name"] == "silent"
    assert "it was killed, or hangs" in page.text


def test_a_run_that_was_stopped_and_one_that_left(folder: RunFolder):
    last = make_steps(folder, 3)
    ledger = Ledger(folder, 1)
    ledger.record("left", step=3, reason="a worker received SIGTERM")
    assert run_figures(folder.root, last + 1)["state"]["name"] == "restarting"
    EventFile(folder.events).add("over")
    found, page = page_of(folder, last + 1)
    assert found["state"]["name"] == "left"
    assert "a worker received SIGTERM" in page.text
    EventFile(folder.events).add("launch")
    assert run_figures(folder.root, last + 1)["state"]["name"] == "running"
    EventFile(folder.events).add("start", attempt=2, world_size=2)
    EventFile(folder.events).add("over")  # killed while it was being built
    found, page = page_of(folder, last + 1)
    assert found["state"]["name"] == "failed"
    assert "its workers had no last word" in page.text
    write_json(folder.stopped, {"lines": ["step 3: the loss is not a finite number"]})
    found, page = page_of(folder, last + 1e6)
    assert found["state"]["name"] == "stopped"
    assert "stopped at step 3 of 12: step 3: the loss is not a finite number" in page.text


def test_bad_clips_and_steps_are_summed_up(folder: RunFolder):
    make_steps(folder, 2)
    clip = {"data": "d", "shard": "s", "key": "k", "reason": "damaged: at 3"}
    for rank, keys in ((0, "ab"), (1, "b")):
        write_text(
            folder.quarantine(rank),
            "".join(json.dumps({**clip, "key": key}) + "\n" for key in keys) + '{"half',
        )
    log = RunLog(folder, 2)
    log.bad_step(2, 1, "loss", 0, 1, [{"video": "v", "question": "q"}])
    log.close()
    found, page = page_of(folder, 0.0)
    assert found["quarantine"]["clips"] == 2  # of two ranks, one of them noted by both
    assert found["quarantine"]["reasons"] == {"damaged": 2}
    assert found["bad_steps"]["causes"] == {"loss": 1}
    assert found["bad_steps"]["last"] == [{"step": 2, "attempt": 1, "cause": "loss", "pairs": 1}]
    assert "2 distinct clips" in page.text


def test_figures_that_are_no_number(folder: RunFolder):
    """The last losses of a run that went wrong, and of files by other hands."""
    make_steps(folder, 2)
    with folder.metrics.open("a") as file:
        file.write('{"kind": "train", "step": 3, "loss": null, "loss_vqa": null, "mfu": null}\n')
    _, page = page_of(folder, 0.0)
    assert "last loss no number" in page.text
    with folder.metrics.open("a") as file:
        file.write('{"kind": "val", "step": 3, "accuracy": NaN, "miop": null}\n')
        file.write('{"kind": "train", "step": 4, "loss": NaN, "loss_vqa": 1e999, "step_s": NaN}\n')
    _, page = page_of(folder, 0.0)
    assert "last loss nan" in page.text


def test_what_others_wrote_is_text_and_urls_keep_their_secrets(folder: RunFolder):
    make_steps(folder, 1)
    Ledger(folder, 1).record("end", how="failed", reason="<script>alert(1)</script>")
    write_text(
        folder.config,
        "run: {name: '<b>x</b>'}\ndata: {train: 'https://me:pass@host/d?sig=abc', val: s3://b/c}\n",
    )
    found = run_figures(folder.root, 0.0)
    html = render(found)
    page = check_page(html)
    assert "<script>alert(1)</script>" in page.text
    assert "<b>x</b>" in page.text
    assert "https://host/d" in page.text
    assert "s3://b/c" in page.text
    assert "pass" not in html
    assert "sig=abc" not in html


def test_a_damaged_folder_still_has_a_page(folder: RunFolder):
    make_steps(folder, 2)
    for path in (folder.config, folder.metrics, folder.events, folder.bad_steps, folder.stopped):
        with path.open("ab") as file:
            file.write(
                b'\xff{"kind": [1\n[]\n"text"\n{"kind": "train"}\n{"kind": "val", "step": 1}'
            )
    found, page = page_of(folder, 0.0)
    assert found["config"] is None
    assert "config.yaml is not there, or cannot be read" in page.text
    assert found["state"]["step"] == 2


@pytest.mark.parametrize("there", [True, False])
def test_what_is_no_run_is_told_in_a_line(
    tmp_path: Path, there: bool, capsys: pytest.CaptureFixture[str]
):
    root = tmp_path / "run"
    if there:
        root.mkdir()
    assert main(["report", str(root)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {root}: ")
    assert "give a run's folder" in line
    assert root.exists() == there


def test_a_page_that_cannot_be_written(folder: RunFolder, capsys: pytest.CaptureFixture[str]):
    make_steps(folder, 1)
    out = folder.config / "page.html"  # a file is no folder
    assert main(["report", str(folder.root), "--out", str(out)]) == 2
    assert f"--out {out}: " in capsys.readouterr().err


def test_spans_are_said_in_two_units():
    assert [span(s) for s in (0.04, 59.94, 61, 3700, 90000)] == [
        "0.0 s", "59.9 s", "1 min 1 s", "1 h 1 min", "1 d 1 h"
    ]  # fmt: skip


NUMBERS = st.floats(-1e12, 1e12)
NAMES = st.text("abc <&>\"'é", max_size=8)


@given(st.dictionaries(NAMES, st.lists(NUMBERS, max_size=1000), max_size=4))
def test_lines_stay_in_their_chart(series: dict[str, list[float]]):
    points = {name: list(enumerate(values)) for name, values in series.items()}
    chart = plots.lines(points, "words")
    if not any(series.values()):
        assert "nothing logged yet" in chart
        return
    svg = ElementTree.fromstring(chart[: chart.index("</svg>") + 6])
    for line in svg.iter("polyline"):
        for pair in line.attrib["points"].split():
            x, y = map(float, pair.split(","))
            assert 0 <= x <= plots.WIDTH
            assert 0 <= y <= plots.HEIGHT


@given(st.lists(NUMBERS, min_size=1, max_size=3000))
def test_thinning_keeps_the_peaks(values: list[float]):
    kept = plots.thinned(list(enumerate(values)))
    assert len(kept) <= 402
    assert [x for x, _ in kept] == sorted({x for x, _ in kept})
    assert {min(values), max(values)} <= {y for _, y in kept}


@given(st.dictionaries(NAMES, st.floats(0, 1e9), max_size=12))
def test_the_parts_of_a_bar_fill_it(parts: dict[str, float]):
    chart = plots.bar(parts, "words")
    if sum(parts.values()) <= 0:
        assert "no time has passed" in chart
        return
    widths = [float(rect.attrib["width"]) for rect in ElementTree.fromstring(chart)]
    assert sum(widths) == pytest.approx(plots.WIDTH, abs=0.01 * len(widths))
