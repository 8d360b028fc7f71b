"""Runs on clips and on their features, side by side."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from dataloaders.batch import Batch
from dataloaders.loader import Loader
from gcg.build import build_model
from launcher.config import RunConfig, parse_run_config
from launcher.training.build import build_parts
from launcher.training.data import build_loader

from .conftest import run_tree

FP32: dict[str, Any] = {"engine": {"micro_batch": 2, "precision": "fp32"}}


def clips_config(packed: Path, storage: Path, **sections: dict[str, Any]) -> RunConfig:
    return parse_run_config(run_tree(packed, storage, **{**FP32, **sections}))


def features_config(
    packed: Path, extracted: Path, storage: Path, train: str = "train", **sections: dict[str, Any]
) -> RunConfig:
    tree = run_tree(packed, storage, **{**FP32, **sections})
    tree["data"] |= {"train": str(extracted / train), "val": str(extracted / "val")}
    tree["model"] = {**tree["model"], "input": "features"}
    return parse_run_config(tree)


def loader_of(config: RunConfig, folder: Path) -> tuple[Any, Loader]:
    parts = build_parts(config.model, build_model(config.model, config.run.seed))
    _, loader = build_loader(config, parts, 0, 1, folder / "quarantine.jsonl")
    return parts.model, loader


def micro_batches(config: RunConfig, folder: Path, steps: int) -> tuple[Any, list[Batch]]:
    model, loader = loader_of(config, folder)
    with loader:
        return model, [batch for _ in range(steps) for batch in next(loader).micro]


def assert_same_but_frames(one: Batch, other: Batch) -> None:
    for name, value in one.model_inputs().items():
        if name not in ("pixel_values", "frame_tokens", "frame_embeddings"):
            theirs = getattr(other, name)
            if value is None:
                assert theirs is None, name
            else:
                assert torch.equal(value, theirs), name
    assert torch.equal(one.meta.times, other.meta.times)
    metas = [replace(batch.meta, times=None) for batch in (one, other)]  # type: ignore[arg-type]
    assert metas[0] == metas[1]
