"""`ray job submit` and `gcg submit` on a token-protected Ray cluster on loopback: the same run is
refused, stopped and resumed by both."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from launcher.checkpoints.find import newest
from launcher.config import dump, parse_run_config
from launcher.observe.runlog import read_metrics
from launcher.storage.run_folder import RunFolder
from tests.conftest import ROOT
from tests.launcher.conftest import run_tree
from tests.launcher.test_kill_resume import last_step

BIN = Path(sys.executable).parent
PATIENCE_S = 240
STEPS = 60
REFUSED: list[tuple[dict[str, str], str]] = [
    ({"RAY_AUTH_TOKEN": "0" * 64}, "{address}: the token that was sent is not the cluster's; set"),
    ({"RAY_AUTH_MODE": "disabled"}, "{address}: the cluster asks for a token, and none was sent"),
    (
        {"RAY_AUTH_TOKEN": "", "RAY_AUTH_TOKEN_PATH": "/none/token"},
        "RAY_AUTH_TOKEN_PATH = /none/token: cannot be read or is empty; name the file",
    ),
    ({"RAY_AUTH_TOKEN": "", "HOME": "/none"}, "RAY_AUTH_MODE = token: there is no token; set"),
]
UPLOADS = "runtime_resources/working_dir_files"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@dataclass(frozen=True)
class Cluster:
    """A head node with a dashboard on loopback, and the environment that may talk to it."""

    address: str
    environment: dict[str, str]
    folder: Path

    def ray(self, *arguments: str, **changes: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(BIN / "ray"), *arguments],
            cwd=ROOT,
            env={**self.environment, **changes},
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
        )

    def gcg(self, *arguments: str, **changes: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "launcher.cli", *arguments, "--address", self.address]
        return subprocess.run(
            command,
            cwd=ROOT,
            env={**self.environment, **changes},
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
        )

    def submit(self, config: Path, job: str, *options: str) -> subprocess.CompletedProcess[str]:
        entry = ["python", "-m", "launcher.train", "--config", str(config)]
        return self.ray(
            "job", "submit", "--address", self.address, "--submission-id", job,
            "--working-dir", ".", *options, "--", *entry,
        )  # fmt: skip


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    # Ray's sockets lie in its folder, and a socket's path may not be long.
    folder = tempfile.mkdtemp(prefix="gcg-", dir="/tmp")
    port, dashboard = free_port(), free_port()
    environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith("RAY_")},
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_JOB_STOP_WAIT_TIME_S": "60",  # 3 s are too short for a last checkpoint
        "PYTHONPATH": str(ROOT),  # the code is installed on the cluster, too
    }
    head = subprocess.Popen(
        [
            str(BIN / "ray"), "start", "--head", "--block", "--num-cpus=2",
            "--node-ip-address=127.0.0.1", f"--port={port}", "--dashboard-host=127.0.0.1",
            f"--dashboard-port={dashboard}", f"--temp-dir={folder}",
            f"--dashboard-agent-listen-port={free_port()}",
            f"--object-store-memory={100 * 2**20}",
        ],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip
    address = f"http://127.0.0.1:{dashboard}"
    try:
        wait_for(lambda: answers(address, environment["RAY_AUTH_TOKEN"]) == 200, "the dashboard")
        yield Cluster(address, environment, Path(folder))
    finally:
        stop(head)
        shutil.rmtree(folder, ignore_errors=True)


def stop(head: subprocess.Popen[bytes]) -> None:
    """Stop what this test started, by process id."""
    family = psutil.Process(head.pid).children(recursive=True)
    head.send_signal(signal.SIGTERM)
    psutil.wait_procs(family, timeout=15)
    for process in family:
        if process.is_running():
            process.kill()
    head.kill()
    head.wait()


def answers(address: str, token: str | None) -> int:
    """The HTTP status of the job API; 0 while nothing listens."""
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    request = urllib.request.Request(f"{address}/api/jobs/", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return response.status
    except urllib.error.HTTPError as error:
        with error:
            return error.code
    except OSError:
        return 0


def wait_for(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not there after {PATIENCE_S} s"
        time.sleep(0.2)


@pytest.mark.timeout(900)
def test_submit_stop_and_submit_again(cluster: Cluster, packed: Path, tmp_path: Path) -> None:
    config = parse_run_config(
        run_tree(
            packed,
            tmp_path / "runs",
            run={"name": "job"},
            optim={"steps": STEPS, "lr": 1e-3, "grounding_lr": 1e-3, "warmup_steps": 2},
            checkpoint={"every": 4},
        )
    )
    path, folder = tmp_path / "run.yaml", RunFolder(config.folder)
    path.write_text(dump(config))

    assert answers(cluster.address, None) == 401
    refused = cluster.ray("job", "list", "--address", cluster.address, RAY_AUTH_TOKEN="0" * 64)
    assert refused.returncode != 0
    for changes, words in REFUSED:
        refused = cluster.gcg("jobs", **changes)
        assert refused.returncode == 2
        (line,) = refused.stderr.splitlines()
        assert words.format(address=cluster.address) in line
        assert "0000" not in line

    first = cluster.submit(path, "first", "--no-wait")
    assert first.returncode == 0, first.stderr
    wait_for(lambda: newest(folder) is not None, "a checkpoint")
    (row,) = json.loads(cluster.gcg("jobs", "--json").stdout)
    assert (row["job"], row["run"], row["state"]) == ("first", None, "running")
    asked = cluster.gcg("stop", "first")
    assert asked.returncode == 0, asked.stderr
    assert asked.stdout.startswith("first: ")
    stopped_at = newest(folder)
    assert stopped_at is not None
    assert stopped_at.step < STEPS
    # Asked to stop, the workers left with a checkpoint of the step they were at.
    (left,) = (row for row in read_metrics(folder.metrics) if row["kind"] == "left")
    assert left["reason"] == "the command was asked to stop"
    assert stopped_at.step == left["step"] == last_step(folder)
    said = cluster.ray("job", "logs", "--address", cluster.address, "first").stdout
    assert f"left with a checkpoint of step {left['step']}" in said
    # What the job unpacked is what was uploaded: the packages and examples, nothing else.
    (upload,) = (p for p in cluster.folder.glob(f"session_latest/{UPLOADS}/*") if p.is_dir())
    assert sum(file.stat().st_size for file in upload.rglob("*") if file.is_file()) < 4 * 2**20
    assert (upload / "launcher" / "train.py").is_file()
    assert not (upload / "tests").exists()

    second = cluster.gcg("submit", str(path), "--env", "GCG_TRIED=1")
    assert second.returncode == 0, second.stdout + second.stderr
    assert "job-1: submitted" in second.stdout
    assert f"job: step {STEPS}/{STEPS} " in second.stdout
    assert second.stderr.splitlines()[-1] == "job-1: succeeded"
    starts = [row["step"] for row in read_metrics(folder.metrics) if row["kind"] == "start"]
    assert starts == [0, stopped_at.step]  # nothing was done twice
    assert folder.is_complete
    third = cluster.gcg("submit", str(path), "--working-dir", "none", "--no-follow", "--wait")
    assert third.returncode == 0, third.stdout + third.stderr
    assert "uploading the run file alone" in third.stdout
    assert "job-2: submitted, the run goes on where it left" in third.stdout
    assert third.stderr.splitlines()[-1] == "job-2: succeeded"
    assert "already complete" in cluster.gcg("logs", "job").stdout
    rows = json.loads(cluster.gcg("jobs", "--json").stdout)
    assert [(row["job"], row["run"], row["result"]) for row in rows[1:]] == [
        ("job-1", "job", 0),
        ("job-2", "job", 0),
    ]
    again = cluster.gcg("stop", "job")
    assert again.returncode == 2
    assert "job-2: is over already (succeeded)" in again.stderr
    unknown = cluster.gcg("logs", "nothing")
    assert unknown.returncode == 2
    assert "there are: job, first" in unknown.stderr
    told = [*(each.stdout + each.stderr for each in (second, third, again)), json.dumps(rows)]
    logs = cluster.folder.glob("session_latest/logs/job-driver-*")
    told += [path.read_text() for path in logs]
    assert len(told) == 7
    assert not any(cluster.environment["RAY_AUTH_TOKEN"] in text for text in told)
