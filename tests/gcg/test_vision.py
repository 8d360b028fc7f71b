"""The shared trunk against the libraries that EVA-CLIP's public weights were made for.

Weights take the whole way: timm's and open_clip's modules → a checkpoint in a file → weight_map.
"""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import InstructBlipVisionModel

from gcg.config import GCGConfig
from gcg.presets import Preset, resolve_preset
from gcg.text import TextTower
from gcg.vision import VisionTower, frames_through
from gcg.weights import weight_map
from tests.gcg.weights.checkpoints import make_instructblip, make_open_clip
from tests.gcg.weights.filling import filled

# Both sides compute in float32 with the same operations in another order (fused attention, one
# stacked projection or three): outputs of size 1 agree to a few roundings of 6e-8 a layer.
RTOL, ATOL = 1e-5, 2e-6


def assert_close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=RTOL, atol=ATOL)


class Made:
    """Checkpoints on disk, the modules that they were saved from, and ours with their weights."""

    def __init__(self, folder: Path, file: str) -> None:
        self.eva, self.clip_text = make_open_clip(folder / "clip", file=file)
        self.blip = make_instructblip(folder / "blip", eva=self.eva).eval()
        self.config = GCGConfig(
            preset="instructblip",
            checkpoint=str(folder / "blip"),
            clip_checkpoint=str(folder / "clip"),
        )
        self.preset: Preset = resolve_preset(self.config)
        weights = weight_map(self.config, parts=("vision", "text"))
        tower = VisionTower(self.preset.vision, self.preset.joint_width)
        self.vision = filled(tower, weights, "vision.")
        self.text = filled(TextTower(self.preset.text), weights, "text.")


@pytest.fixture(
    scope="module", params=["open_clip_model.safetensors", "open_clip_pytorch_model.bin"]
)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Made(tmp_path_factory.mktemp("vision"), request.param)


def pixels(seed: int = 0, videos: int = 2, frames: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(videos, frames, 3, 28, 28, generator=generator)


@torch.no_grad()
def test_trunk_and_joint_head_are_the_whole_eva_clip_tower(made: Made) -> None:
    frames = pixels().flatten(0, 1)
    tokens, joint = made.vision(frames)
    assert_close(joint, made.eva(frames))
    assert joint.abs().mean() > 0.05  # and not because all is zero
    # ... while the trunk's own output is InstructBLIP's.
    theirs = made.blip.vision_model(pixel_values=frames).last_hidden_state
    assert_close(tokens, theirs)


@torch.no_grad()
def test_the_joint_head_reads_what_is_not_normed(made: Made) -> None:
    """On the normed tokens the same head gives something else: the test above can fail."""
    frames = pixels().flatten(0, 1)
    tokens, joint = made.vision(frames)
    assert not torch.allclose(made.vision.joint_head(tokens), joint, atol=0.05)  # type: ignore[operator]


@torch.no_grad()
def test_text_tower_is_open_clips(made: Made) -> None:
    end = made.preset.text.eos_token_id
    assert isinstance(end, int)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(1, end - 1, (3, 12), generator=generator)
    mask = torch.ones_like(ids)
    for row, length in enumerate((12, 7, 4)):
        ids[row, length - 1], ids[row, length:], mask[row, length:] = end, 0, 0
    tokens, pooled = made.text(ids, mask)
    full = torch.zeros(3, 77, dtype=ids.dtype)  # open_clip takes 77 tokens, always
    full[:, :12] = ids
    their_pooled, their_tokens = made.clip_text(full)
    assert_close(pooled, their_pooled)
    projected = their_tokens[:, :12] @ made.clip_text.text_projection
    assert_close(tokens[mask == 1], projected[mask == 1])
    assert pooled.abs().mean() > 0.05


def test_frames_a_pass_at_a_time_are_the_same_frames(made: Made) -> None:
    both = [
        frames_through(made.vision, pixels(), frames_per_pass=count)  # type: ignore[arg-type]
        for count in (None, 4, 1)
    ]
    for tokens, joint in both:
        assert tokens.shape == (2, 3, 17, 32)
        assert joint.shape == (2, 3, made.preset.joint_width)
        assert not tokens.requires_grad
        # Matrix products of another size round differently.
        assert_close(tokens, both[0][0])
        assert_close(joint, both[0][1])


@pytest.mark.parametrize("frames_per_pass", [None, 4])
def test_a_trained_trunk_gets_gradients(made: Made, frames_per_pass: int | None) -> None:
    gradients = []
    for checkpointing in (False, True):
        tower: Any = VisionTower(made.preset.vision, made.preset.joint_width)
        tower.load_state_dict(made.vision.state_dict())
        tower.train()
        if checkpointing:
            tower.trunk.gradient_checkpointing_enable({"use_reentrant": False})
        tokens, joint = frames_through(tower, pixels(), frames_per_pass=frames_per_pass, train=True)
        (tokens.square().mean() + joint.square().mean()).backward()
        gradients.append({name: p.grad for name, p in tower.named_parameters()})
    for name, gradient in gradients[0].items():
        assert gradient is not None, name
        torch.testing.assert_close(gradient, gradients[1][name])  # recomputed, not approximated


def test_a_frozen_pass_keeps_no_gradient_even_where_parameters_learn(made: Made) -> None:
    tokens, joint = frames_through(made.vision, pixels())  # type: ignore[arg-type]
    assert not tokens.requires_grad
    assert not joint.requires_grad


def test_hidden_states_of_all_layers_are_not_kept(made: Made) -> None:
    """39 of them would be four times what the pass gives back."""
    tower: Any = made.vision
    trunk = tower.trunk
    assert isinstance(trunk, InstructBlipVisionModel)
    outputs: list[weakref.ref[Tensor]] = []

    def remember(module: nn.Module, args: Any, output: Tensor) -> None:
        outputs.append(weakref.ref(output))

    hooks = [layer.register_forward_hook(remember) for layer in trunk.encoder.layers]
    alive: list[int] = []
    last = tower.joint_head.block.register_forward_hook(
        lambda *_: alive.append(sum(ref() is not None for ref in outputs))
    )
    try:
        frames_through(tower, pixels())
    finally:
        for hook in (*hooks, last):
            hook.remove()
    assert len(outputs) == 3
    assert alive == [1]
