"""What `gcg submit` refuses before anything is sent, and what it would send."""

from __future__ import annotations

import functools
import socket
import threading
from collections.abc import Callable
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from launcher.cli import main
from launcher.config import load_run_config, parse_run_config
from launcher.errors import UserError
from launcher.jobs.check import check_job
from launcher.jobs.client import DEFAULT_ADDRESS, _told, find_address
from launcher.jobs.environment import STOP_WAIT, runtime_env
from launcher.jobs.upload import MAX_BYTES, RUN_FILE, files_of, own_checkout, staged
from tests.conftest import ROOT

Refused = Callable[..., list[str]]

TREE: dict[str, Any] = {
    "run": {"name": "sent", "storage": "/mnt/runs"},
    "data": {"train": "/mnt/data/train"},
    "optim": {"steps": 3},
}


def tree(**sections: dict[str, Any]) -> dict[str, Any]:
    return {name: {**TREE.get(name, {}), **sections.get(name, {})} for name in {**TREE, **sections}}


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Refused:
    def run(*arguments: object) -> list[str]:
        capsys.readouterr()
        assert main([str(argument) for argument in arguments]) == 2
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        assert "uploading" not in said.out
        return [line for line in said.err.splitlines() if line.startswith("error: ")]

    return run


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        monkeypatch.delenv(name, raising=False)


def write(tmp_path: Path, content: dict[str, Any]) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def test_all_that_is_wrong_is_told_at_once(tmp_path: Path, refused: Refused):
    content = tree(
        run={"storage": "runs"},
        data={"train": "shards/train", "val": "s3://bucket/val", "cache_dir": "cache"},
        model={"llm": {"liger": True}},
        scale={"address": "10.0.0.1:6379"},
    )
    lines = refused("submit", write(tmp_path, content))
    starts = (
        "scale.address = 10.0.0.1:6379: a job runs in the cluster",
        "run.storage = runs: is relative",
        "data.train = shards/train: is relative",
        "data.cache_dir = cache: is relative",
        "model.llm.liger = true: needs a GPU",
    )
    assert len(lines) == len(starts)
    for line, start in zip(lines, starts, strict=True):
        assert line.startswith(f"error: {start}")
    (line,) = refused("submit", write(tmp_path, tree(optim={"step": 3})))
    assert "optim.step = 3: unknown key" in line


def test_a_model_that_cannot_be_built_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    check_job(parse_run_config(tree()))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights").mkdir()
    llm = {"name": "weights"}
    with pytest.raises(UserError) as caught:
        check_job(parse_run_config(tree(model={"llm": llm})))
    assert any("model.llm.name = weights: is relative" in line for line in caught.value.lines)


@pytest.mark.parametrize(
    "address", ["head:8265", "ftp://head:8265", "http://", "http://head:port", "ray://head:10001"]
)
def test_an_address_that_is_none(tmp_path: Path, refused: Refused, address: str):
    for command in (["submit", write(tmp_path, tree())], ["jobs"], ["logs", "x"], ["stop", "x"]):
        (line,) = refused(*command, "--address", address)
        assert f"--address = {address}: is not the URL of a Ray dashboard; write it as" in line


def test_a_password_in_an_address_is_not_repeated(refused: Refused):
    (line,) = refused("jobs", "--address", "http://me:secret@head:8265")
    assert "secret" not in line


def test_where_the_address_comes_from(monkeypatch: pytest.MonkeyPatch):
    assert find_address(None) == DEFAULT_ADDRESS
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")  # for `ray.init`, not for jobs
    assert find_address(None) == DEFAULT_ADDRESS
    monkeypatch.setenv("RAY_ADDRESS", "http://one:8265")
    assert find_address(None) == "http://one:8265"
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://two:8265/")
    assert find_address(None) == "http://two:8265"
    assert find_address("https://three") == "https://three"


def test_nobody_answers(refused: Refused):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{probe.getsockname()[1]}"
        (line,) = refused("jobs", "--address", address)
    assert f"{address}: no Ray dashboard answers there (Connection refused); check" in line


def test_what_answers_is_no_dashboard(tmp_path: Path, refused: Refused):
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

    for content in (None, "<html>hello</html>"):
        if content is not None:
            (tmp_path / "api").mkdir()
            (tmp_path / "api" / "version").write_text(content)
        handler = functools.partial(Quiet, directory=str(tmp_path))
        with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            address = f"http://127.0.0.1:{server.server_address[1]}"
            (line,) = refused("jobs", "--address", address)
            server.shutdown()
        assert f"{address}: the request was not understood: " in line
        assert "check that this is the dashboard of a Ray cluster" in line


def test_of_an_answer_with_a_traceback_the_ends_are_told():
    text = "Request failed with status code 400: Traceback (most recent call last):\n  File x\n"
    told = r"400: Traceback .* … ValueError: Job a-1 already exists"
    with pytest.raises(UserError, match=told), _told("http://head:8265"):
        raise RuntimeError(text + "ValueError: Job a-1 already exists.\n.")


def test_an_upload_is_what_the_ignore_files_leave(tmp_path: Path):
    code = tmp_path / "code"
    for name in ("a.py", "b/c.py", "b/d.log", "e/f.py", "g/h.py", ".git/config", "b/run.yaml"):
        (code / name).parent.mkdir(parents=True, exist_ok=True)
        (code / name).write_text(name)
    (code / ".gitignore").write_text("*.log\n*.yaml\n/e/\n")
    (code / "g" / ".rayignore").write_text("h.py\n")
    with staged(code, "run: {}\n") as upload:
        there = {str(p.relative_to(upload.folder)) for p in upload.folder.rglob("*") if p.is_file()}
        assert there == {"a.py", "b/c.py", RUN_FILE}  # though *.yaml is ignored
        assert upload.num_files == 3
        assert upload.num_bytes == len("a.py") + len("b/c.py") + len("run: {}\n")
        # Of the folder itself Ray takes all, so that what is sent is what was counted.
        assert {str(p.relative_to(upload.folder)) for p in files_of(upload.folder)} == there
    assert not upload.folder.exists()
    with staged(None, "run: {}\n") as upload:
        assert str(upload) == "the run file alone, 8 B"


def test_an_upload_that_is_too_large_names_the_largest(tmp_path: Path):
    with (tmp_path / "weights.bin").open("wb") as file:
        file.truncate(MAX_BYTES)
    (tmp_path / "small.py").write_text("x = 1\n")
    with (
        pytest.raises(UserError, match=r"weights\.bin \(50 MB\), small\.py") as caught,
        staged(tmp_path, ""),
    ):
        pass
    assert str(tmp_path / ".rayignore") in str(caught.value)
    (tmp_path / ".rayignore").write_text("*.bin\n")
    with staged(tmp_path, "") as upload:
        assert upload.num_files == 2
    with pytest.raises(UserError, match="no such folder"), staged(tmp_path / "none", ""):
        pass


def test_this_checkout_is_small():
    assert own_checkout() == ROOT
    with staged(ROOT, "") as upload:
        assert upload.num_bytes < 5_000_000
        assert (upload.folder / "launcher" / "train.py").is_file()
        assert not (upload.folder / "tests").exists()


def test_the_time_of_grace_travels_with_the_job(tmp_path: Path):
    config = parse_run_config(tree(safety={"grace_s": 75.5}))
    assert runtime_env(config, None, []) == {"env_vars": {STOP_WAIT: "106"}}
    file = tmp_path / "env.yaml"
    file.write_text(
        yaml.safe_dump({"env_vars": {"A": 1, "B": "x"}, "py_modules": ["s3://b/m.zip"]})
    )
    found = runtime_env(config, file, ["B=y=z", "C="])
    assert found["env_vars"] == {STOP_WAIT: "106", "A": "1", "B": "y=z", "C": ""}
    assert found["py_modules"] == ["s3://b/m.zip"]


@pytest.mark.parametrize(
    ("content", "variables", "words"),
    [
        ({}, ["A"], "--env A: must look like NAME=VALUE"),
        ({}, ["1A=2"], "--env 1A: must look like"),
        ({}, ["RAY_AUTH_TOKEN=secret"], "RAY_AUTH_TOKEN: would show the cluster's token"),
        ({"env_vars": {"RAY_AUTH_TOKEN": "secret"}}, [], "would show the cluster's token"),
        ({"env_vars": ["A"]}, [], "env_vars: must be a section"),
        ({"working_dir": "."}, [], "working_dir: is what --working-dir"),
        ({"image_uri": "an/image"}, [], "image_uri: Ray takes no upload beside it"),
        ({"pip": 3}, [], "Ray does not take it"),
        (["pip"], [], "holds no section"),
    ],
)
def test_a_runtime_environment_that_is_refused(
    tmp_path: Path, content: Any, variables: list[str], words: str
):
    file = tmp_path / "env.yaml"
    file.write_text(yaml.safe_dump(content))
    with pytest.raises(UserError) as caught:
        runtime_env(load_run_config(write(tmp_path, tree())), file, variables)
    (line,) = caught.value.lines
    assert words in line
    assert "secret" not in line


def test_a_runtime_environment_that_cannot_be_read(tmp_path: Path):
    config = parse_run_config(tree())
    with pytest.raises(UserError, match="cannot be read: No such file"):
        runtime_env(config, tmp_path / "none.yaml", [])
    (tmp_path / "bad.yaml").write_text("a: [")
    with pytest.raises(UserError, match="is no YAML"):
        runtime_env(config, tmp_path / "bad.yaml", [])
