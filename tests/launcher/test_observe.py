"""What a real run with a restart tells about itself: its account, its figures, its trackers."""

from __future__ import annotations

import json
import math
from importlib.util import find_spec
from pathlib import Path

import pytest

from launcher.cli import main
from launcher.config import load_run_config
from launcher.observe.events import read_events
from launcher.observe.goodput import USEFUL, account
from launcher.observe.lines import read_lines
from launcher.observe.runlog import read_metrics
from launcher.storage.run_folder import RunFolder, read_json

from .accounts import check_account
from .observed import STEPS, observe
from .pages import check_page

TRACKERS = {name: find_spec(name) is not None for name in ("mlflow", "wandb")}


@pytest.fixture(scope="module")
def folder(packed: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    trackers = {name: {"enabled": there} for name, there in TRACKERS.items()}
    runs = tmp_path_factory.mktemp("runs")
    return observe(packed, runs, tensorboard=True, questions=True, **trackers)


def test_the_account_of_a_run_with_a_restart(folder: RunFolder):
    events = read_events(folder.events)
    found = account(events)
    first, second = found.attempts
    assert (first.first_step, first.last_step, first.how) == (0, 4, "failed")
    assert "the machine went away" in (first.reason or "")
    assert (second.first_step, second.last_step, second.how) == (2, STEPS, "complete")
    assert found.lost_steps == 2
    assert found.skipped_steps == 0
    assert math.isclose(found.wall_s, events[-1]["time"] - events[0]["time"], abs_tol=1e-6)
    for cause in (USEFUL, "data_wait", "checkpoint", "validation", "lost", "startup", "restart"):
        assert found.parts[cause] > 0, cause
    assert found.parts["down"] == found.parts["skipped"] == 0
    # Two ranks' steps of real clips: what no cause explains is little.
    assert found.parts["other"] < 0.5 * found.wall_s
    # Steps that count were computed in the second attempt, but for the first two.
    steps = [e for e in events if e["kind"] == "steps" and (e["attempt"] == 2 or e["last"] <= 2)]
    assert math.isclose(found.parts[USEFUL], sum(e["step_s"] for e in steps), abs_tol=1e-3)


def test_the_questions_of_every_step(folder: RunFolder, packed: Path):
    seen = check_account(load_run_config(folder.config), packed / "raw" / "train.jsonl")
    assert sum(counts.total() for counts in seen.values()) >= 4 * STEPS
    attempts = [row["attempt"] for row in read_lines(folder.questions)]
    assert not folder.bad_steps.exists()  # there was none
    assert attempts == [1, 1, *[2] * (STEPS - 2)]  # what was lost with the attempt is not in it


def test_the_figures_of_an_interval(folder: RunFolder):
    rows = [row for row in read_metrics(folder.metrics) if row["kind"] == "train"]
    assert [row["step"] for row in rows] == [2, 4, 6, 8]
    for row in rows:
        assert 0 < row["step_p50_s"] <= row["step_p90_s"] <= row["step_p99_s"]
        assert row["step_p50_s"] <= row["step_s"] <= row["step_max_s"] == row["step_p99_s"]
        assert 0 <= row["data_wait_share"] <= 1
        assert row["bad_share"] in (0.0, None)
        assert 0.05 < row["rss_gb"] < 64
        assert 0 < row["mfu"] < 1
        assert 0 <= row["goodput"] < 1
    starts = [row for row in read_metrics(folder.metrics) if row["kind"] == "start"]
    assert all(row["peak_tflops"] > 0 and row["mfu_unknown"] is None for row in starts)
    assert all("measured" in row["peak_source"] for row in starts)


@pytest.mark.skipif(not TRACKERS["mlflow"], reason="mlflow is not installed")
def test_one_mlflow_run_has_the_figures_of_both_attempts(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    from mlflow.tracking import MlflowClient  # pyright: ignore[reportMissingImports]

    known = (read_json(folder.tracking) or {})["mlflow"]
    client = MlflowClient(tracking_uri=known["uri"])
    assert (folder.root / "mlflow").is_dir()
    run = client.get_run(known["run"])
    assert run.info.status == "FINISHED"
    assert run.data.params["optim.steps"] == str(STEPS)
    losses = {m.step: m.value for m in client.get_metric_history(known["run"], "train/loss")}
    logged = {r["step"]: r["loss"] for r in read_metrics(folder.metrics) if r["kind"] == "train"}
    assert losses == pytest.approx(logged)
    assert client.get_metric_history(known["run"], "val/iop_0.3")
    experiment = client.get_experiment_by_name("gcg")
    assert experiment is not None
    assert len(client.search_runs([experiment.experiment_id])) == 1


@pytest.mark.skipif(not TRACKERS["wandb"], reason="wandb is not installed")
def test_wandb_keeps_an_offline_folder_an_attempt(folder: RunFolder):
    identity = (read_json(folder.tracking) or {})["wandb"]["id"]
    kept = sorted((folder.root / "wandb").glob(f"offline-run-*-{identity}/run-{identity}.wandb"))
    assert kept
    assert all(path.stat().st_size > 1000 for path in kept)
    text = b"".join(path.read_bytes() for path in kept)
    assert b"train/loss" in text


def test_the_report_of_it(folder: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "page.html"
    assert main(["report", str(folder.root), "--json", "--out", str(out)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["state"]["name"] == "complete"
    assert found["state"]["step"] == found["state"]["steps"] == STEPS
    assert found["goodput"]["share"] == pytest.approx(account(read_events(folder.events)).share)
    assert sum(found["goodput"]["parts"].values()) == pytest.approx(found["goodput"]["wall_s"])
    assert [a["how"] for a in found["attempts"]] == ["failed", "complete"]
    assert [c["step"] for c in found["checkpoints"]] == [4, 6, 8]
    assert found["best"]["step"] == STEPS
    assert found["config"]["optim"]["steps"] == STEPS
    page = check_page(out.read_text(encoding="utf-8"))
    assert len(page.charts) == 5
    assert "the machine went away" in page.text
    assert "2 steps done again, 0 left out" in page.text
    assert main(["report", str(folder.root)]) == 0
    said = capsys.readouterr().out
    assert f"observed: complete at step {STEPS}, goodput " in said
    assert str(folder.root / "report.html") in said
