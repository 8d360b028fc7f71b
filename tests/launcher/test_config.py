"""The run file: what is accepted, and what a user is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from launcher.config import (
    RunConfig,
    dump,
    fingerprint,
    load_run_config,
    parse_run_config,
    trajectory,
)
from launcher.errors import ConfigError
from tests.launcher.run_files import MINIMAL, changed, lines_of, write


def test_defaults_fit_each_other():
    config = parse_run_config(MINIMAL)
    assert config.accumulation == 4
    assert config.folder == Path("runs/demo")


def test_dump_reads_back_equal(tmp_path: Path):
    config = parse_run_config(changed(optim={"lr": 3e-4}, eval={"max_videos": 7}))
    path = tmp_path / "config.yaml"
    path.write_text(dump(config), encoding="utf-8")
    assert load_run_config(path) == config


def test_all_problems_are_told_at_once():
    lines = lines_of(
        {
            "run": {"name": "a/b"},
            "data": {"trian": "x", "streams": 0},
            "optim": {"steps": "many", "lr": float("inf")},
            "engine": {"zero": 4},
            "nonsense": 1,
        }
    )
    starts = [line.split(" ", 1)[0].rstrip(":") for line in lines]
    assert starts == [
        "run.name",
        "data.train",
        "data.streams",
        "data.trian",
        "optim.steps",
        "optim.lr",
        "engine.zero",
        "nonsense",
    ]
    assert "did you mean 'train'?" in lines[3]
    assert all(";" in line for line in lines)  # a remedy


def test_more_moments_than_frames_names_the_field():
    (line,) = lines_of(changed(model={"num_frames": 8, "num_moments": 9}))
    assert line.startswith("model.num_moments = 9: ")
    assert "K <= T" in line


def test_a_default_at_fault_is_shown():
    (line,) = lines_of(changed(model={"num_frames": 2}))
    assert line.startswith("model.num_moments = 4: ")


@pytest.mark.parametrize(
    ("sections", "start"),
    [
        ({"scale": {"num_workers": 3}}, "scale.num_workers = 3: must divide data.streams = 8"),
        ({"engine": {"micro_batch": 12}}, "data.global_batch = 32: must be engine.micro_batch"),
        ({"data": {"streams": 5}}, "scale.num_workers = 2: must divide data.streams = 5"),
        ({"data": {"contrast_group": 3}}, "data.contrast_group = 3: must divide"),
        ({"optim": {"warmup_steps": 100}}, "optim.warmup_steps = 100: must be less than"),
        ({"eval": {"every": 10}}, "eval.every = 10: there is no data.val"),
    ],
)
def test_sections_are_checked_against_each_other(sections: dict[str, Any], start: str):
    assert any(line.startswith(start) for line in lines_of(changed(**sections)))


def test_a_batch_that_does_not_fit_lists_what_would():
    lines = lines_of(changed(engine={"micro_batch": 16}, scale={"num_workers": 4}))
    assert "num_workers in [1, 2]" in lines[0]
    assert "micro_batch in [1, 2, 4, 8]" in lines[0]


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("optim.lr=1e-4", ("optim", "lr"), 1e-4),
        ("engine.precision=fp32", ("engine", "precision"), "fp32"),
        ("log.tensorboard=false", ("log", "tensorboard"), False),
        ("optim.betas=[0.8, 0.95]", ("optim", "betas"), (0.8, 0.95)),
        ("model.llm.train=true", ("model", "llm", "train"), "full"),
        ("eval.max_videos=null", ("eval", "max_videos"), None),
    ],
)
def test_overrides_are_typed_as_yaml(
    tmp_path: Path, override: str, path: tuple[str, ...], value: object
):
    found: Any = load_run_config(write(tmp_path, MINIMAL), [override])
    for part in path:
        found = getattr(found, part)
    assert found == value


def test_every_bad_override_is_told(tmp_path: Path):
    with pytest.raises(ConfigError) as caught:
        load_run_config(write(tmp_path, MINIMAL), ["lr", "run.name.x=1", "a.=2", "optim.lr=[1"])
    assert len(caught.value.lines) == 4


def test_an_unknown_override_is_an_unknown_key(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"optim\.leaning_rate = 1: unknown key"):
        load_run_config(write(tmp_path, MINIMAL), ["optim.leaning_rate=1"])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("run: {name: x\n", "line"),
        ("run: {name: x}\nrun: {name: y}\n", "'run' is given twice"),
        ("- 1\n", "holds a list"),
        ("a: 2024-13-01\n", "correct the YAML"),
    ],
)
def test_unreadable_files(tmp_path: Path, text: str, says: str):
    path = tmp_path / "run.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=says):
        load_run_config(path)


def test_absent_binary_and_empty_files(tmp_path: Path):
    with pytest.raises(ConfigError, match="No such file"):
        load_run_config(tmp_path / "none.yaml")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="UTF-8"):
        load_run_config(tmp_path / "binary")
    (tmp_path / "empty").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"run: is required"):
        load_run_config(tmp_path / "empty")


def test_only_what_is_learned_is_in_the_fingerprint():
    base = parse_run_config(MINIMAL)
    elsewhere = parse_run_config(
        changed(run={"storage": "/other"}, log={"every": 3}, checkpoint={"keep": 9})
    )
    assert fingerprint(base) == fingerprint(elsewhere)
    other = parse_run_config(changed(optim={"lr": 2e-5}))
    assert fingerprint(base) != fingerprint(other)
    assert trajectory(other)["optim.lr"] == 2e-5


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ({"mixture": [{"place": "a"}], "train": "b"}, "data.train = 'b': data.mixture is given"),
        ({}, "data.train: is required"),
        ({"mixture": [{"place": "a", "weight": 2}, {"place": "b"}]}, "some have none"),
        (
            {"mixture": [{"place": "a", "weight": 2}, {"place": "b", "weight": 1, "repeat": 2}]},
            "some a repeat",
        ),
        ({"mixture": [{"place": "a"}, {"place": "a/"}]}, "listed twice"),
        ({"mixture": [{"place": "a", "repeat": 0}]}, "must be greater than 0"),
        ({"mixture": [{"plaice": "a"}]}, "plaice"),
    ],
)
def test_a_mixture_is_checked(data: dict[str, Any], told: str):
    with pytest.raises(ConfigError) as caught:
        parse_run_config({"run": {"name": "r"}, "data": data, "optim": {"steps": 1}})
    assert any(told in line for line in caught.value.lines), caught.value.lines


def test_where_a_mixtures_sets_lie_is_not_what_is_learned():
    def of(*sets: dict[str, Any]) -> RunConfig:
        tree = {"run": {"name": "r"}, "data": {"mixture": list(sets)}, "optim": {"steps": 1}}
        return parse_run_config(tree)

    one = of({"place": "a", "repeat": 2}, {"place": "b"})
    assert fingerprint(one) == fingerprint(of({"place": "x/a", "repeat": 2}, {"place": "b"}))
    assert fingerprint(one) != fingerprint(of({"place": "a", "repeat": 3}, {"place": "b"}))
    assert parse_run_config(yaml.safe_load(dump(one))) == one


def test_a_range_of_workers_has_the_sizes_that_fit(tmp_path: Path):
    tree = changed(scale={"num_workers": [1, 6]}, engine={"micro_batch": 4})
    config = parse_run_config(tree)
    assert config.scale.num_workers == (1, 6)
    assert config.world_sizes == [1, 2, 4]  # of 8 streams, and 32 visits
    assert config.world_size == 4
    assert config.accumulation == 2
    path = tmp_path / "run.yaml"
    path.write_text(dump(config), encoding="utf-8")
    assert load_run_config(path) == config
    alone = config.at_world_size(1)
    assert (alone.world_sizes, alone.accumulation) == ([1], 8)
    assert fingerprint(alone) == fingerprint(config)
    assert not alone.scale.is_elastic
    assert load_run_config(path, ["scale.num_workers=[2, 8]"]).world_sizes == [2, 4, 8]


@pytest.mark.parametrize(
    ("workers", "line"),
    [
        ([3, 8], "scale.num_workers = [3, 8]: its least, 3, must divide data.streams = 8"),
        ([4, 2], "scale.num_workers = [4, 2]: must be [least, most]; swap them"),
        ([0, 2], "scale.num_workers = [0, 2]: must be a number of workers, at least 1, or"),
        ([1, 2, 4], "scale.num_workers = [1, 2, 4]: must be a number of workers, at least 1, or"),
        (0, "scale.num_workers = 0: must be a number of workers, at least 1, or"),
        ("many", "scale.num_workers = 'many': must be a number of workers, at least 1, or"),
    ],
)
def test_a_bad_number_of_workers_is_one_line(workers: object, line: str):
    (found, *more) = lines_of(changed(scale={"num_workers": workers}))
    assert found.startswith(line)
    assert len(more) <= 1  # 3 workers do not fit the batch either


def test_a_range_whose_least_does_not_fit_the_batch():
    scale = {"num_workers": [4, 8]}
    (line,) = lines_of(changed(engine={"micro_batch": 16}, scale=scale))
    assert line.startswith("data.global_batch = 32: must be engine.micro_batch = 16")
    assert "the least of scale.num_workers = 4; choose num_workers in [1, 2]" in line
