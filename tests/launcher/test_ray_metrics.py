"""The real command through Ray, while it runs: what its exporter says to Prometheus."""

from __future__ import annotations

import re
import time
import urllib.request
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path

import psutil
import pytest

from launcher.cluster.metrics import COUNTERS, GAUGES
from launcher.config import RunConfig, dump, parse_run_config
from launcher.observe.events import read_events
from launcher.observe.goodput import account
from launcher.storage.run_folder import RunFolder

from .conftest import run_tree
from .test_kill_resume import Command

pytestmark = pytest.mark.slow

# Ray's workers hand their metrics over every ten seconds: the run must outlive that.
STEPS = 400


def make(packed: Path, storage: Path) -> RunConfig:
    return parse_run_config(
        run_tree(
            packed,
            storage,
            run={"name": "scraped"},
            optim={"steps": STEPS},
            checkpoint={"every": 5},
            eval={"every": 50, "max_videos": 2},
        )
    )


@pytest.fixture
def commands() -> Iterator[list[Command]]:
    started: list[Command] = []
    yield started
    for command in started:
        command.kill_everything()


def scraped(command: Command) -> str:
    """What the exporter of the command's cluster says, once it tells of a validation, too."""
    for process in command.family():
        try:
            if "DashboardAgent" not in " ".join(process.cmdline()):
                continue
            ports = [c.laddr.port for c in process.net_connections("tcp") if c.status == "LISTEN"]
        except psutil.Error:
            continue
        for port in ports:  # one of them
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=2) as page:
                    text = page.read().decode()
            except (OSError, ValueError, HTTPException):
                continue
            if "ray_gcg_val_accuracy{" in text:
                return text
    return ""


@pytest.mark.timeout(600)
def test_prometheus_gets_the_documented_metrics(
    packed: Path, tmp_path: Path, commands: list[Command]
):
    config = make(packed, tmp_path)
    path = tmp_path / "run.yaml"
    path.write_text(dump(config), encoding="utf-8")
    command = Command.start(path)
    commands.append(command)
    pages: list[str] = []

    def seen() -> bool:
        pages.append(scraped(command))
        return bool(pages[-1])

    command.wait_for(seen, "metrics to scrape")
    page = pages[-1]
    values = {
        name: float(value)
        for name, value in re.findall(
            r'^ray_(gcg_\w+)\{[^}]*run="scraped"[^}]*\} (\S+)$', page, re.M
        )
    }
    never = {"gcg_skipped_steps_total", "gcg_roll_backs_total"}  # none happened
    expected = {*GAUGES, *(f"{name}_total" for name in COUNTERS)} - never
    assert expected <= values.keys()
    assert 1 <= values["gcg_step"] <= STEPS
    assert values["gcg_loss"] > 0
    assert 0 < values["gcg_goodput"] < 1
    assert values["gcg_checkpoints_total"] >= 1
    assert values["gcg_checkpoint_stall_seconds_total"] > 0
    assert 5e7 < values["gcg_rss_bytes"] < 6.4e10
    told = account(read_events(RunFolder(config.folder).events))
    assert told.parts["startup"] > 0
    assert told.parts["down"] == 0
    launched, started = read_events(RunFolder(config.folder).events)[:2]
    assert (launched["kind"], started["kind"]) == ("launch", "start")
    assert time.time() > started["time"] > launched["time"]
