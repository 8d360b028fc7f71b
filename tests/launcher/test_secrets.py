"""What opens a store for its user is in no message, no log and no file of a run's folder."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import yaml

from launcher.cli import main
from launcher.config import load_run_config
from launcher.errors import ConfigError, UserError
from launcher.training.noise import log_to_file
from tests.launcher.conftest import run_tree

CANARY = "c4nary/of-the+tests"
USER = f"s3://AKIAEXAMPLE:{CANARY}@bucket/train"
SIGNED = f"https://host/train?X-Amz-Signature={CANARY}"
LONG = f"s3://{'a' * 70}:{'b' * 70}{CANARY}{'c' * 70}@bucket/train"  # cut where it is shown


def holding(secret: str, folder: Path) -> list[str]:
    """The files below a folder in which a secret stands."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files, folder
    return [str(path) for path in files if secret.encode() in path.read_bytes()]


@pytest.fixture
def run_file(tmp_path: Path) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(run_tree(tmp_path / "packed", tmp_path / "runs")))
    return path


@pytest.mark.parametrize(
    ("override", "told"),
    [
        (f"data.train={USER}", "data.train = 's3://…@bucket/train': holds a user name"),
        (f"data.train={LONG}", "holds a user name"),
        (f"data.val={SIGNED}", "data.val = 'https://host/train?…': holds a query"),
        (f"data.mixture=[{{place: '{USER}'}}]", "data.mixture[0].place"),
        (f"data.cache_dir={USER}", "data.cache_dir"),
        (f"run.storage={USER}", "run.storage"),
        (f"log.mlflow.tracking_uri=https://me:{CANARY}@host/", "MLFLOW_TRACKING_PASSWORD"),
        (f"log.mlflow.tracking_uri=https://{CANARY[:6]}@host/", "MLFLOW_TRACKING_TOKEN"),
        (f"log.mlflow.tracking_uri=https://host/?token={CANARY}", "MLFLOW_TRACKING_TOKEN"),
        (f"data.storage_options={{key: AKIA, secret: '{CANARY}'}}", "unknown key"),
        (f"data.aws_secret_access_key={CANARY}", "data.aws_secret_access_key = …: unknown key"),
        (f"data={USER}", "data"),
        (f"data.train.x={USER}", "data.train"),
        (f"data.train:{USER}", "must look like section.key=value"),
        (f"data.train='{USER}", "the value is no YAML"),
    ],
)
def test_a_run_file_is_refused_without_saying_its_secret(
    run_file: Path, capsys: pytest.CaptureFixture[str], override: str, told: str
):
    command = ["train", str(run_file), "--dry-run", "--set", override]
    assert main(command) == 2
    said = capsys.readouterr()
    assert told in said.err
    assert CANARY not in said.err + said.out
    assert holding(CANARY, run_file.parent) == []


@pytest.mark.parametrize("place", [USER, SIGNED])
@pytest.mark.parametrize(
    "command",
    [
        ["label", "PLACE"],
        ["inspect", "PLACE"],
        ["index", "PLACE"],
        ["pack", "PLACE", "out", "--from", "wds"],
        ["doctor", "--only", "data", "--data", "PLACE"],
    ],
    ids=lambda words: words[0],
)
def test_so_is_a_place(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    command: list[str],
    place: str,
):
    monkeypatch.chdir(tmp_path)
    code = main([place if word == "PLACE" else word for word in command])
    said = capfd.readouterr()
    assert code in (1, 2)
    assert "s3://" in said.out + said.err or "https://" in said.out + said.err
    assert CANARY not in said.out + said.err


def test_a_run_files_own_values_too(run_file: Path):
    tree = yaml.safe_load(run_file.read_text())
    tree["data"]["train"] = USER
    run_file.write_text(yaml.safe_dump(tree))
    with pytest.raises(ConfigError) as error:
        load_run_config(run_file)
    assert "s3://…@bucket/train" in str(error.value)
    assert CANARY not in str(error.value)


def test_a_workers_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Whichever library speaks there."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", CANARY)
    with log_to_file(tmp_path / "worker.log"):
        logging.getLogger("launcher.training.worker").warning("asked %s", SIGNED)
        try:
            raise OSError(f"403 for {SIGNED} with {CANARY}")
        except OSError:
            logging.getLogger("launcher.training.worker").exception("failed")
    text = (tmp_path / "worker.log").read_text()
    assert "asked https://host/train?…" in text
    assert "403 for https://host/train?… with …" in text
    assert CANARY not in text


def test_a_users_error():
    error = UserError([f"{USER}: no", "and mail@host"])
    assert error.lines == ["s3://…@bucket/train: no", "and mail@host"]
    assert CANARY not in str(error)
