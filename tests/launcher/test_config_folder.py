"""A run file in parts: a folder's ``run.yaml``, and over it its other files."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from launcher.config import load_run_config
from launcher.config.file import read_tree
from launcher.errors import ConfigError

RUN = {
    "run": {"name": "parts"},
    "data": {"train": "nowhere", "streams": 4, "global_batch": 8, "contrast_group": 2},
    "optim": {"steps": 10, "betas": [0.9, 0.99]},
    "engine": {"micro_batch": 2},
    "scale": {"num_workers": 2},
}


def write(folder: Path, **files: object) -> Path:
    for name, tree in files.items():
        text = tree if isinstance(tree, str) else yaml.safe_dump(tree)
        (folder / f"{name}.yaml").write_text(text)
    return folder


def test_parts_are_laid_over_the_run_file(tmp_path: Path):
    folder = write(
        tmp_path,
        run=RUN,
        model={"model": {"llm": {"train": "lora"}}, "engine": {"zero": 3}},
        spot={"scale": {"num_workers": [1, 2]}, "optim": {"betas": [0.8, 0.9]}},
    )
    config = load_run_config(folder, ["optim.steps=20"])
    assert (config.engine.zero, config.engine.micro_batch) == (3, 2)  # joined key by key
    assert config.scale.num_workers == (1, 2)
    assert config.optim.betas == (0.8, 0.9)  # a list is replaced
    assert config.optim.steps == 20  # overrides come last


def test_files_in_the_order_of_their_names(tmp_path: Path):
    # Also one that comes before run.yaml in the alphabet.
    write(tmp_path, run=RUN, a={"optim": {"steps": 1, "lr": 0.1}}, z={"optim": {"steps": 2}})
    assert read_tree(tmp_path)["optim"]["steps"] == 2
    assert read_tree(tmp_path)["optim"]["lr"] == 0.1


def test_other_files_and_folders_are_left_alone(tmp_path: Path):
    write(tmp_path, run=RUN)
    (tmp_path / "notes.txt").write_text("a: [")
    (tmp_path / "..data").mkdir()  # as Kubernetes mounts a ConfigMap
    (tmp_path / "..data" / "x.yaml").write_text("a: [")
    assert read_tree(tmp_path) == RUN


@pytest.mark.parametrize(
    ("text", "told"), [("a: [", "correct the YAML"), ("- a", "holds a list"), ("{b: 1, b: 2}", "b")]
)
def test_a_bad_part_is_named(text: str, told: str, tmp_path: Path):
    write(tmp_path, run=RUN, spot=text)
    with pytest.raises(ConfigError, match=r"spot\.yaml") as error:
        read_tree(tmp_path)
    assert told in str(error.value)


def test_a_folder_without_a_run_file(tmp_path: Path):
    write(tmp_path, spot={"scale": {}})
    with pytest.raises(ConfigError, match="Is a directory; give the path of a run file"):
        read_tree(tmp_path)
