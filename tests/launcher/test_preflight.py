"""What is told before a worker starts."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from launcher.checkpoints.commit import commit, open_checkpoint
from launcher.checkpoints.fence import begin_attempt
from launcher.checks.preflight import claim, preflight
from launcher.config import RunConfig, dump, fingerprint
from launcher.errors import PreflightError
from launcher.storage.run_folder import RunFolder
from launcher.train import main

MakeConfig = Callable[..., RunConfig]


def lines_of(config: RunConfig) -> list[str]:
    with pytest.raises(PreflightError) as caught:
        preflight(config)
    return caught.value.lines


def one_line(config: RunConfig) -> str:
    (line,) = lines_of(config)
    return line


def copy_of(packed: Path, place: Path) -> Path:
    return shutil.copytree(packed / "train", place / "copy")


def test_what_is_ready_passes(make_config: MakeConfig):
    config = make_config()
    preflight(config)
    claim(config)
    preflight(config)


def test_all_problems_at_once(make_config: MakeConfig, tmp_path: Path):
    (tmp_path / "file").touch()
    config = make_config(
        data={"train": "nowhere", "val": str(tmp_path), "test": "nowhere/else"},
        run={"storage": str(tmp_path / "file")},
    )
    starts = [line.split(" = ")[0] for line in lines_of(config)]
    assert starts == ["data.train", "data.val", "data.test", "run.storage"]


def test_labels_are_needed_where_the_mode_reads_them(make_config: MakeConfig):
    for mode, count in (("grounding", 1), ("oracle", 2)):
        config = make_config(model={"mode": mode}, data={"labels": "other"})
        lines = lines_of(config)
        assert len(lines) == count
        assert "`gcg label" in lines[0]
    preflight(make_config(model={"mode": "uniform"}, data={"labels": "other"}))


def test_labels_must_fit_frames_and_moments(make_config: MakeConfig):
    lines = lines_of(make_config(model={"num_frames": 16, "num_moments": 3}))
    assert ["num_frames" in lines[0], "num_moments" in lines[1]] == [True, True]


def test_an_index_that_does_not_fit_its_tar(make_config: MakeConfig, packed: Path, tmp_path: Path):
    data = copy_of(packed, tmp_path)
    tar = next(data.glob("*.tar"))
    tar.write_bytes(tar.read_bytes() + b"\0" * 512)
    line = one_line(make_config(data={"train": str(data)}))
    assert "the index does not fit its shard" in line


def test_too_few_shards_for_the_streams(make_config: MakeConfig):
    config = make_config(data={"streams": 64, "global_batch": 128}, engine={"micro_batch": 2})
    assert one_line(config).startswith("data.streams = 64")


def test_a_folder_of_another_run(make_config: MakeConfig):
    claim(make_config())
    assert one_line(make_config(optim={"lr": 0.5})).startswith("optim.lr = 0.5: the run in ")
    preflight(make_config(checkpoint={"keep": 9}))


def test_a_checkpoint_of_other_data(make_config: MakeConfig):
    config = make_config()
    folder = RunFolder(config.folder)
    attempt = begin_attempt(folder)
    open_checkpoint(folder, 2, attempt)
    identity = {"world_size": 4, "zero": 3, "config": fingerprint(config), "data": "other"}
    commit(folder, 2, attempt, 0, identity)
    # The world size and the ZeRO stage are free.
    assert one_line(config).startswith("data.train = ")


def test_the_command_tells_and_exits_with_2(
    make_config: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    path = tmp_path / "run.yaml"
    path.write_text(dump(make_config()), encoding="utf-8")
    assert main(["--config", str(path), "--set", "data.train=nowhere"]) == 2
    told = capsys.readouterr().err.splitlines()
    assert told == [f"error: data.train = {Path.cwd()}/nowhere: no such folder; "
                    "make it with `gcg pack`"]  # fmt: skip
    assert main(["--config", str(path), "--set", "optim.step=3", "--set", "scale.num_workers=5"])
    assert capsys.readouterr().err.startswith("error: optim.step = 3: unknown key")


def test_a_complete_run_is_left_alone(
    make_config: MakeConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    caplog.set_level("INFO")
    config = make_config()
    path = tmp_path / "run.yaml"
    path.write_text(dump(config), encoding="utf-8")
    folder = RunFolder(config.folder)
    claim(config)
    folder.final.mkdir()
    (folder.final / "meta.json").write_text(json.dumps({"step": 4}))
    assert main(["--config", str(path)]) == 0
    assert "already complete" in caplog.text
