"""Packed and labelled real clips for the tests that train."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gcg.config import GCGConfig
from launcher.config import RunConfig, parse_run_config

from .browsing import browser

__all__ = ["browser"]

MODEL: dict[str, Any] = {
    "num_frames": 8,
    "num_moments": 2,
    "llm": {"train": True},
    "grounding": {"noise_samples": 20},
}

MakeConfig = Callable[..., RunConfig]


@pytest.fixture(scope="session")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``train``, ``val`` and ``test`` shards of the sample corpus in ``raw``, with labels."""
    from dataloaders.manifest import read_manifest
    from dataloaders.moments.corpus import make_corpus
    from dataloaders.shards import pack
    from launcher.labelling.label import label_data

    root = tmp_path_factory.mktemp("corpus")
    manifests = make_corpus(root / "raw", num_videos=20, questions_per_video=6)
    for split in ("train", "val", "test"):
        out = root / split
        rows = list(read_manifest(manifests[split]))
        pack(rows, out, root=manifests[split].parent, shard_bytes=200_000)
        label_data(out, GCGConfig(**MODEL))
    return root


@pytest.fixture(scope="session")
def extracted(packed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Features of ``packed``: ``train`` and ``val`` in fp32, ``half`` the training ones in fp16."""
    from launcher.extract import extract

    from .feature_runs import clips_config

    root = tmp_path_factory.mktemp("features")
    config = clips_config(packed, root)
    for split in ("train", "val"):
        extract(config, split, root / split, dtype="fp32")
    extract(config, "train", root / "half")
    return root


def run_tree(packed: Path, storage: Path, **sections: dict[str, Any]) -> dict[str, Any]:
    """A short run of the packed clips; changes are given as ``section={...}``."""
    tree: dict[str, dict[str, Any]] = {
        "run": {"name": "test", "storage": str(storage)},
        "data": {
            "train": str(packed / "train"),
            "val": str(packed / "val"),
            "streams": 2,
            "global_batch": 4,
            "contrast_group": 2,
            "decode_threads": 1,
        },
        "model": copy.deepcopy(MODEL),
        "optim": {"steps": 4, "lr": 1e-3, "grounding_lr": 1e-3, "warmup_steps": 1},
        "engine": {"micro_batch": 2},
        "checkpoint": {"every": 2},
        "eval": {"max_videos": 2},
        "log": {"every": 1, "tensorboard": False},
    }
    for name, section in sections.items():
        tree[name] = {**tree.get(name, {}), **section}
    return tree


@pytest.fixture
def make_config(packed: Path, tmp_path: Path) -> MakeConfig:
    """Run files for the packed clips; changes are given as ``section={...}``."""

    def make(**sections: dict[str, Any]) -> RunConfig:
        return parse_run_config(run_tree(packed, tmp_path / "runs", **sections))

    return make
