"""Labels and checks of data on a real S3 server, as the commands reach them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from dataloaders.labels import LabelSet
from gcg.config import GCGConfig
from launcher.checks.preflight import claim, preflight
from launcher.cli import main
from launcher.config import RunConfig, dump
from launcher.errors import PreflightError
from launcher.training.data import storage_options
from tests.conftest import ROOT
from tests.dataloaders.s3_server import BUCKET, S3, SECRET
from tests.launcher.conftest import MODEL
from tests.launcher.test_secrets import holding

AT = f"s3://{BUCKET}"

MakeConfig = Callable[..., RunConfig]


@pytest.fixture
def remote(s3: S3, packed: Path, make_config: MakeConfig, tmp_path: Path):
    """Run files for the packed clips on S3."""
    s3.proxy.clear()
    places = {split: s3.upload(packed / split, split) for split in ("train", "val")}

    def make(**data) -> RunConfig:
        return make_config(
            data={**places, "cache_dir": str(tmp_path / "cache"), "retries": 0, **data}
        )

    return make


def lines_of(config: RunConfig) -> list[str]:
    with pytest.raises(PreflightError) as caught:
        preflight(config)
    return caught.value.lines


def test_what_is_ready_passes_and_fetches_no_shard(remote: MakeConfig, s3: S3):
    preflight(remote())
    claim(remote())
    assert s3.proxy.gets(".tar") == 0


def test_what_cannot_be_reached_is_told_in_a_line(remote: MakeConfig, s3: S3):
    (line,) = lines_of(remote(train=f"{AT}/none"))
    assert line.startswith(f"data.train = {AT}/none: {AT}/none/index.json: missing")
    (line,) = lines_of(remote(labels="other"))
    assert line.startswith(f"data.labels = other: data.train = {AT}/train has no such labels")
    (line,) = lines_of(remote(cache_gb=1e-6))
    assert line.startswith("data.cache_gb = 1e-06: a worker reads from ")
    s3.proxy.inject("val/index.json", "status", times=9, status=403)
    (line,) = lines_of(remote())
    assert line.startswith(f"data.val = {AT}/val: {AT}/val/index.json: cannot be read")
    assert "AWS_ACCESS_KEY_ID" in line
    s3.delete("val/shard-000000.tar")
    s3.proxy.clear()
    (line,) = lines_of(remote())
    assert "val/shard-000000.tar: in the index but nothing there" in line


def test_the_label_command_reads_and_writes_there(
    remote: MakeConfig,
    s3: S3,
    packed: Path,
    tmp_path: Path,
    capsys,
):
    config = remote()
    path = tmp_path / "run.yaml"
    path.write_text(dump(config), encoding="utf-8")
    command = ["label", str(config.data.val), "--config", str(path), "--name", "again"]
    assert main(command) == 0
    assert f"{AT}/val/labels/again: " in capsys.readouterr().out
    made = LabelSet(f"{AT}/val/labels/again", storage_options(config))
    local = LabelSet(packed / "val" / "labels" / "topk")
    assert made.meta == local.meta
    for shard in (packed / "val").glob("*.tar"):
        assert dict(made.for_shard(shard.stem)) == dict(local.for_shard(shard.stem))
    assert main(command) == 0
    assert "labels are there already" in capsys.readouterr().out
    assert main(["label", str(config.data.val), "--compare"]) == 2
    assert "--out" in capsys.readouterr().err
    assert GCGConfig(**MODEL) == config.model


@pytest.mark.slow
def test_two_workers_train_from_s3_and_fetch_each_shard_once(
    remote: MakeConfig, s3: S3, tmp_path: Path
):
    config = remote(prefetch_steps=1)
    path = tmp_path / "run.yaml"
    path.write_text(dump(config), encoding="utf-8")
    command = [sys.executable, "-m", "launcher.cli", "train", str(path)]
    command += ["--set", "engine.precision=fp32", "--set", "optim.steps=3"]
    secrets = {"HF_TOKEN": f"hf-{SECRET}", "WANDB_API_KEY": f"wb-{SECRET}"}
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, **secrets},
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert done.returncode == 0, done.stderr
    assert main(["report", str(config.folder)]) == 0
    assert holding(SECRET, config.folder) == []
    assert SECRET not in done.stdout + done.stderr
    assert (config.folder / "final").is_dir()
    fetched = [place for method, place in s3.proxy.requests if place.endswith(".tar")
               and method == "GET"]  # fmt: skip
    assert len(fetched) == len(set(fetched)) > 0
