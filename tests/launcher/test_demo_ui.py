"""`gcg demo-ui`: the page over real HTTP, with real clips, and what it refuses."""

from __future__ import annotations

import base64
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from launcher.cli import main
from launcher.errors import UserError
from launcher.predict.predictor import load_model
from launcher.ui.demo import Demo
from launcher.ui.server import MOST_BYTES, DemoServer
from tests.conftest import ROOT
from tests.launcher.trained_runs import trained_run

OURS = {"X-GCG": "1"}


@pytest.fixture(scope="module")
def run(packed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained_run(packed, tmp_path_factory.mktemp("ui")).folder


@pytest.fixture(scope="module")
def server(
    packed: Path, run: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[DemoServer]:
    pytest.importorskip("PIL", reason="strips are drawn by Pillow")
    demo = Demo(*load_model(run), packed / "raw", tmp_path_factory.mktemp("uploads"))
    with DemoServer(demo, 0) as made:
        thread = threading.Thread(target=made.serve_forever, daemon=True)
        thread.start()
        yield made
        made.shutdown()
        thread.join()
    demo.close()


def send(
    server: DemoServer, method: str, path: str, body: bytes = b"", **headers: str
) -> tuple[int, Any]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=60)
    try:
        connection.request(method, path, body, named)
        reply = connection.getresponse()
        data = reply.read()
        is_json = reply.getheader("Content-Type") == "application/json"
        return reply.status, json.loads(data) if is_json else data.decode()
    finally:
        connection.close()


def ask(server: DemoServer, **asked: Any) -> tuple[int, Any]:
    return send(server, "POST", "/ask", json.dumps(asked).encode(), **OURS)


def test_the_page_names_only_what_is_served(server: DemoServer) -> None:
    status, page = send(server, "GET", "/")
    assert status == 200
    assert set(re.findall(r'call\("([^"]+)"', page)) == {"/clips", "/ask"}
    assert "http" not in page.replace("http-equiv", "")  # it loads nothing from elsewhere
    ids = set(re.findall(r'at\("(\w+)"\)', page))
    assert ids <= set(re.findall(r'id="(\w+)"', page))


def test_a_question_in_every_mode(server: DemoServer) -> None:
    status, names = send(server, "GET", "/clips")
    assert status == 200
    assert all(name.endswith(".mp4") for name in names)
    options = ["it moves left", "it blinks"]
    asked = {"clip": names[0], "question": "What does the circle do?", "options": options}
    status, rows = ask(server, **asked)
    assert status == 200
    assert [row["mode"] for row in rows] == ["grounding", "uniform"]
    status, rows = ask(server, **asked, answer=options[1])
    assert [row["mode"] for row in rows] == ["grounding", "uniform", "oracle"]
    for row in rows:
        assert row["answer"] in options
        png = base64.b64decode(row["strip"].removeprefix("data:image/png;base64,"))
        assert png.startswith(b"\x89PNG")


def test_an_upload(server: DemoServer, packed: Path) -> None:
    clip = sorted((packed / "raw").rglob("*.mp4"))[0].read_bytes()
    status, added = send(server, "POST", "/clips", clip, X_Name="my%20clip.mp4", **OURS)
    assert status == 200
    assert added["clip"].endswith(": my clip.mp4")
    assert added["clip"] in send(server, "GET", "/clips")[1]
    status, rows = ask(server, clip=added["clip"], question="What happens?")
    assert status == 200
    assert rows[0]["options"] is None
    _, broken = send(server, "POST", "/clips", b"no video", X_Name="../../b.mp4", **OURS)
    status, said = ask(server, clip=broken["clip"], question="What happens?")
    assert status == 400
    assert "no demuxer opens" in said["error"]


def test_what_is_refused(server: DemoServer) -> None:
    name = send(server, "GET", "/clips")[1][0]
    for (status, said), expected, rule in (
        (ask(server, clip="../../../etc/passwd", question="q"), 400, "is not among those"),
        (ask(server, clip=name, question=""), 400, "question: "),
        (ask(server, clip=name, question="q", options=["one"]), 400, "two texts or more"),
        (ask(server, clip=name, question="q", more=1), 400, "more: "),
        (send(server, "POST", "/ask", b"{", **OURS), 400, "Invalid JSON"),
        (send(server, "POST", "/ask", b"{}"), 403, "must carry the header X-GCG"),
        (send(server, "GET", "/", Host="evil.example:80"), 403, "localhost alone"),
        (send(server, "GET", "/page.html"), 404, "no such page"),
        (send(server, "POST", "/ask", b"x" * (1 << 20) + b"x", **OURS), 413, "at most"),
    ):
        assert (status, rule in said["error"]) == (expected, True), said
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=60)
    connection.putrequest("POST", "/clips")
    connection.putheader("Content-Length", str(MOST_BYTES + 1))
    connection.putheader("X-GCG", "1")
    connection.endheaders()
    assert connection.getresponse().status == 413
    connection.close()


def test_the_command(packed: Path, run: Path) -> None:
    # Tests that a shell runs in the background inherit an ignored SIGINT.
    code = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from launcher.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code, "demo-ui", "--model", str(run), "--port", "0"]
    process = subprocess.Popen(
        [*command, "--videos", str(packed / "raw")],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("http://127.0.0.1:")
        os.kill(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert out == "ended\n"
    assert "Traceback" not in err
    assert process.returncode == 0


def test_what_cannot_be_shown(
    run: Path, server: DemoServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo-ui", "--model", str(run), "--videos", str(tmp_path / "no")]) == 2
    assert "no such folder" in capsys.readouterr().err
    with pytest.raises(UserError, match=rf"--port {server.server_port}: cannot be used"):
        DemoServer(server.demo, server.server_port)
    with pytest.raises(UserError, match="--port 99999"):
        DemoServer(server.demo, 99999)
