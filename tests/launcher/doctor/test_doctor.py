"""`gcg doctor` on machines in good and in bad condition; the conditions are real."""

from __future__ import annotations

import functools
import json
import os
import re
import resource
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from dataloaders.decode import decode_frames
from dataloaders.frames import uniform_indices
from dataloaders.transform import preprocess
from launcher.cli import main
from launcher.doctor import machine, software, video
from launcher.doctor.checks import CHECKS
from launcher.doctor.finding import Finding, Options, is_sound, table
from tests.conftest import ROOT
from tests.dataloaders.s3_server import BUCKET, S3

Rows = dict[str, dict]
COMMAND = [sys.executable, "-m", "launcher.cli", "doctor", "--json", "--only"]


def doctor(
    *arguments: str, expect: int = 0, before: list[str] | None = None, limit: int | None = None
) -> Rows:
    """Run the command in a process of its own, with ``limit`` files that it may open."""

    def lower() -> None:
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))

    done = subprocess.run(
        [*(before or []), *COMMAND, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        preexec_fn=lower,
        check=False,
    )
    assert done.returncode == expect, done.stderr
    report = json.loads(done.stdout)
    assert report["sound"] == (expect == 0)
    return {row["check"]: row for row in report["findings"]}


@pytest.mark.parametrize(
    ("limit", "state", "code"), [(512, "failed", 1), (4096, "warning", 0), (16384, "ok", 0)]
)
def test_open_files(limit: int, state: str, code: int) -> None:
    if resource.getrlimit(resource.RLIMIT_NOFILE)[1] < limit:
        pytest.skip(f"this user may not have {limit} open files")
    row = doctor("limits", expect=code, limit=limit)["open files"]
    assert row["state"] == state
    assert row["found"] == f"{limit} allowed, at most {limit}"
    assert "ulimit -n 65536" in row["remedy"]


def test_a_small_shm_is_a_warning() -> None:
    inside = ["unshare", "--mount", "sh", "-c"]
    mount = "mount -t tmpfs -o size=64m tmpfs /dev/shm"
    if not shutil.which("unshare") or subprocess.run([*inside, mount], check=False).returncode:
        pytest.skip("another /dev/shm cannot be mounted here")
    row = doctor("shm", before=[*inside, f'{mount} && exec "$@"', "sh"])["/dev/shm"]
    assert row["state"] == "warning"
    assert row["found"].startswith("/dev/shm has 64 MiB")
    assert "--shm-size" in row["remedy"]


def test_what_the_system_says() -> None:
    rows = doctor("cores,memory,clock")
    assert list(rows) == ["cores", "memory", "clock"]
    if hasattr(os, "sched_getaffinity"):
        assert rows["cores"]["found"].startswith(f"{len(os.sched_getaffinity(0))} cores, ")
    assert "GiB free" in rows["memory"]["found"]
    assert rows["clock"]["found"].startswith("20")


def test_storage(tmp_path: Path) -> None:
    row = doctor("disk", "--storage", str(tmp_path / "new"))["disk"]
    assert row["state"] in ("ok", "warning")  # as fast as the disk is
    assert row["found"].startswith(f"{tmp_path / 'new'}: ")
    assert not list((tmp_path / "new").iterdir())
    (tmp_path / "file").touch()
    row = doctor("disk", "--storage", str(tmp_path / "file" / "x"), expect=1)["disk"]
    assert row["found"].endswith("Not a directory")


def test_a_machine_that_should_have_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert not machine.has_gpu()
    rows = doctor("torch")
    assert rows["gpu"]["state"] == "missing"
    assert {"torch", "bf16", "fp16", "attention"} <= rows.keys()
    assert "times as long as in fp32" in rows["bf16"]["found"]
    rows = doctor("torch", "--gpu", expect=1)
    assert rows["gpu"]["state"] == "failed"


def test_imports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gcg_test_broken.py").write_text("raise RuntimeError('wrong driver')\n")
    (tmp_path / "gcg_test_good.py").write_text("print('hello')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    names = ("gcg_test_good", "gcg_test_broken", "gcg_test_absent", "gcg_test_absent.inside")
    monkeypatch.setattr(software, "_IMPORTED", names)
    broken, times = software.imports(Options())
    assert broken.check == "import gcg_test_broken"
    assert broken.state == "failed"
    assert broken.found == "exit code 1: RuntimeError: wrong driver"
    assert times.state == "ok"
    assert times.found.startswith("gcg_test_good 0.")
    assert times.found.endswith(
        "s, gcg_test_absent not installed, gcg_test_absent.inside not installed"
    )


def test_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {finding.check: finding for finding in software.packages(Options())}
    assert "torch " in found["packages"].found
    monkeypatch.setattr(software, "_NEEDED", ("torch", "a-package-nobody-has"))
    lacking = {finding.check: finding for finding in software.packages(Options())}
    assert lacking["packages"].state == "failed"
    assert lacking["packages"].found.startswith("not installed: a-package-nobody-has; torch ")


@pytest.fixture
def serve() -> Iterator[Callable[[Path], str]]:
    servers: list[tuple[ThreadingHTTPServer, threading.Thread]] = []

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

    def start(folder: Path) -> str:
        handler = functools.partial(Quiet, directory=str(folder))
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        servers.append((server, thread))
        return f"http://127.0.0.1:{server.server_address[1]}"

    yield start
    for server, thread in servers:
        server.shutdown()
        thread.join()
        server.server_close()


def test_data_in_a_folder(packed: Path, tmp_path: Path) -> None:
    row = doctor("data", "--data", str(packed / "train"))["data"]
    assert row["state"] == "ok"
    assert row["found"].endswith("read and 4 frames of it decoded")
    row = doctor("data", "--data", str(tmp_path), expect=1)["data"]
    assert "make it with `gcg pack`" in row["found"]
    assert doctor("data") == {}


def test_data_at_a_url(packed: Path, serve: Callable[[Path], str]) -> None:
    pytest.importorskip("aiohttp", reason="fsspec reads http:// with aiohttp")
    url = serve(packed / "train")
    done = subprocess.run(
        [*COMMAND, "data", "--data", url], cwd=ROOT, capture_output=True, text=True, check=False
    )
    access, data = json.loads(done.stdout)["findings"]
    assert (access["check"], access["state"]) == ("data access", "ok"), access
    assert (data["check"], data["state"]) == ("data", "ok"), data
    row = doctor("data", "--data", f"{url}/nowhere", expect=1)["data access"]
    assert "index.json: missing" in row["found"]
    assert "gcg pack" in row["found"]


def test_a_url_that_refuses() -> None:
    pytest.importorskip("aiohttp", reason="fsspec reads http:// with aiohttp")
    with socket.socket() as taken:  # bound and not listening: connections are refused
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/data"
        row = doctor("data", "--data", url, expect=1)["data access"]
    assert row["found"].startswith(f"{url}/")
    assert "onnect" in row["found"]
    row = doctor("data", "--data", "nonsense://bucket/data", expect=1)["data access"]
    assert "nonsense" in row["found"]


def test_decoding_on_this_machine() -> None:
    pytest.importorskip("nvidia.dali", reason="DALI is not installed")
    (host,) = video.host(Options())
    assert host.state == "ok"
    assert "H.264" in host.found
    (frames,) = video.sample_corpus(Options())
    assert frames.state == "ok"
    (nvdec,) = video.nvdec(Options())
    assert nvdec.state == "missing"


def test_wrong_frames_are_noticed() -> None:
    data = video._encode(video._CODECS["H.264"])
    right = uniform_indices(60, 8)

    def compare(indices) -> Finding:
        frames = preprocess(decode_frames(data, indices).frames, 224)
        return video._compare("it", [data], [frames], "decodes")

    assert compare(right).state == "ok"
    assert compare(right - 3).state != "ok"


def test_the_report() -> None:
    findings = [
        Finding("a", "ok", "there"),
        Finding("bcd", "failed", "not there " * 20, "It is needed.", "get it"),
    ]
    lines = table(findings).splitlines()
    assert lines[0] == "a    ok       there"
    assert lines[1].startswith("bcd  failed   not there")
    assert all(line.startswith(" " * 14) for line in lines[2:6])
    assert lines[-3].endswith("Remedy: get it")
    assert lines[-1] == "1 ok, 0 warning, 0 missing, 1 failed"
    assert max(map(len, lines)) <= 100
    assert not is_sound(findings)


def test_only_checks_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--only", "shm,moon"]) == 2
    assert capsys.readouterr().err.startswith("error: --only: moon: no such check; choose from ")


@pytest.mark.slow
def test_every_check_gives_findings_here() -> None:
    done = subprocess.run(
        [*COMMAND, ",".join(check.name for check in CHECKS)],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    rows = {row["check"]: row for row in json.loads(done.stdout)["findings"]}
    assert {"python", "cores", "disk", "torch", "gloo", "nccl", "import times"} <= rows.keys()
    assert rows["gloo"]["state"] == "ok"
    assert all(row["why"] and row["remedy"] for row in rows.values() if row["state"] != "ok")


def test_storage_in_a_bucket(s3: S3) -> None:
    row = doctor("disk", "--storage", f"s3://{BUCKET}/runs")["disk"]
    assert re.match(rf"s3://{BUCKET}/runs: \d+ MiB/s uploaded in one stream", row["found"])
    assert not s3.client.list_objects_v2(Bucket=BUCKET, Prefix="runs").get("Contents")
    row = doctor("disk", "--storage", "s3://no-such-bucket/runs", expect=1)["disk"]
    assert "The specified bucket does not exist" in row["found"]
