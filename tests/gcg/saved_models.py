"""Small models of every kind, trained a little as it were, and what they say about clips."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub.utils._http import reset_sessions
from torch import Tensor

from gcg.build import build_model
from gcg.config import GCGConfig
from gcg.model import GCGModel
from gcg.processor import GCGProcessor
from gcg.saved import Parts
from gcg.saving import plan_saving, save_pretrained
from gcg.tokens import pretrained_tokenizer
from tests.gcg.weights.checkpoints import make_instructblip, make_llm, make_open_clip
from tests.gcg.weights.hub_server import cut_off

OPTIONS = ["a red circle", "a blue square", "it moves left"]


@pytest.fixture(scope="module")
def public(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small checkpoints in the public layouts."""
    root = tmp_path_factory.mktemp("public")
    eva, _ = make_open_clip(root / "clip")
    make_instructblip(root / "t5", "t5", eva=eva)
    make_llm(root / "llm", "qwen2")
    return root


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    cut_off(monkeypatch, tmp_path / "hub")
    pretrained_tokenizer.cache_clear()
    yield
    monkeypatch.undo()
    reset_sessions()


def config_of(public: Path, kind: str) -> GCGConfig:
    tree: dict[str, Any] = {"num_frames": 4, "num_moments": 2}
    blip = {
        "preset": "instructblip",
        "checkpoint": str(public / "t5"),
        "clip_checkpoint": str(public / "clip"),
    }
    kinds: dict[str, dict[str, Any]] = {
        "tiny": {},
        "tiny-full": {"llm": {"train": "full"}},
        "tiny-lora": {"llm": {"train": "lora"}},
        "uniform": {"mode": "uniform"},
        "released": {"profile": "released", "llm": {"train": "full"}},
        "plus": {"profile": "plus"},
        "own-llm-lora": {"llm": {"name": str(public / "llm"), "train": "lora"}},
        "blip": blip,
        "blip-lora": {**blip, "profile": "released", "llm": {"train": "lora"}},
        "blip-own-llm": {**blip, "llm": {"name": str(public / "llm")}},
    }
    return GCGConfig.model_validate(tree | kinds[kind])


def trained_model(config: GCGConfig) -> tuple[GCGModel, dict[str, Tensor]]:
    """A model whose trained weights are no longer what they began as, and these."""
    model = build_model(config, seed=3)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
    state = {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}
    return model.eval(), state


def saved(
    config: GCGConfig,
    state: dict[str, Tensor],
    folder: Path,
    parts: Parts,
    shard_bytes: int = 400_000,
) -> Path:
    folder.mkdir(parents=True)
    save_pretrained(plan_saving(config, state, parts, seed=3), folder, shard_bytes=shard_bytes)
    return folder


def frames(count: int = 4) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (count, 60, 90, 3), dtype=np.uint8)


def says(model: GCGModel, processor: GCGProcessor) -> tuple[Tensor, Tensor, Tensor]:
    found = model.answer(
        processor(frames(), ["what moves", "who stays"], [OPTIONS, OPTIONS[:2]]),
        max_new_tokens=3,
    )
    assert found.option_scores is not None
    assert found.tokens is not None
    return found.weights, found.option_scores, found.tokens
