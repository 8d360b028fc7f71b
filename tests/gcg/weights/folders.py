"""Checkpoints laid out like the public ones, made once, to be copied and changed."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from gcg.config import GCGConfig
from gcg.weights.tensors import whole
from tests.gcg.weights.checkpoints import LLM, make_instructblip, make_open_clip

LLMS: tuple[LLM, ...] = ("t5", "llama")


class Folders:
    """Checkpoints, made once, and the models they were saved from."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.eva, self.text = make_open_clip(root / "clip")
        self.blips = {
            # In shards, as the public ones are.
            kind: make_instructblip(root / kind, kind, eva=self.eva, max_shard_size="60KB")
            for kind in LLMS
        }

    def config(self, kind: str = "t5", **changes: Any) -> GCGConfig:
        tree = {
            "preset": "instructblip",
            "checkpoint": str(self.root / kind),
            "clip_checkpoint": str(self.root / "clip"),
        }
        return GCGConfig.model_validate(tree | changes)

    def copy(self, kind: str, to: Path) -> Path:
        """A copy of a checkpoint with all tensors in one file, to be changed."""
        shutil.copytree(self.root / kind, to)
        state: dict[str, Tensor] = {}
        for shard in sorted(to.glob("*.safetensors")):
            state |= load_file(shard)
            shard.unlink()
        for index in to.glob("*.index.json"):
            index.unlink()
        name = "open_clip_model.safetensors" if kind == "clip" else "model.safetensors"
        save_file(state, to / name)
        return to


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    return Folders(tmp_path_factory.mktemp("mapping"))


def change(path: Path, edit: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> None:
    """Rewrite a safetensors file."""
    # Views of one storage would be refused, and the file must not be read while it is written.
    state = {name: value.clone() for name, value in edit(load_file(path)).items()}
    save_file(state, path)


def assert_all_equal(weights: dict[str, Any], prefix: str, module: nn.Module) -> None:
    """The weights under a prefix are exactly a module's parameters."""
    theirs = dict(module.named_parameters())
    ours = {n.removeprefix(prefix): w for n, w in weights.items() if n.startswith(prefix)}
    assert ours.keys() == theirs.keys()
    for name, weight in ours.items():
        assert torch.equal(whole(weight), theirs[name]), name
