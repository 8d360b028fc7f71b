"""A cluster that a run starts for itself is nobody else's: loopback ports, and a token."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import psutil

from launcher.cluster.launch import ray_cluster
from launcher.training.noise import quiet_environment
from tests.conftest import ROOT
from tests.launcher.toy import toy_config


def main(storage: Path) -> None:
    """In a process of its own: who listens where, and what is answered to whom."""
    quiet_environment()
    with ray_cluster(toy_config(storage, scale__num_workers=1)):
        own = psutil.Process()
        ports = sorted(
            {
                (connection.laddr.ip, connection.laddr.port)
                for process in (own, *own.children(recursive=True))
                for connection in process.net_connections(kind="inet")
                if connection.status == psutil.CONN_LISTEN
            }
        )
        found = {port: [ip, *answers(port, None)] for ip, port in ports}
        closed = [port for port, (_, status, _) in found.items() if status == 401]
        wrong = [answers(port, "0" * 64)[0] for port in closed]
        right = [answers(port, os.environ["RAY_AUTH_TOKEN"])[0] for port in closed]
    sys.stdout.write(json.dumps({"found": [*found.values()], "wrong": wrong, "right": right}))


def answers(port: int, token: str | None) -> tuple[int, str]:
    """What is said to a question for the jobs: the HTTP status and the beginning of the text; 0
    where another language is spoken."""
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    request = urllib.request.Request(f"http://127.0.0.1:{port}/api/jobs/", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=3) as response:
            return response.status, response.read(20).decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, ""
    except (OSError, http.client.HTTPException):
        return 0, ""


def test_nobody_else_reaches_it(tmp_path: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    done = subprocess.run(
        [sys.executable, "-m", "tests.launcher.test_own_cluster", str(tmp_path)],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    found = said["found"]
    assert {ip.removeprefix("::ffff:") for ip, _, _ in found} <= {"127.0.0.1", "::1"}
    assert {status for _, status, _ in found} <= {0, 200, 401}
    # Figures are open to who is on this machine, nothing else is.
    assert all(text.startswith("# HELP ") for _, status, text in found if status == 200)
    assert said["wrong"]
    assert set(said["wrong"]) == {403}
    assert not {401, 403} & set(said["right"])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
