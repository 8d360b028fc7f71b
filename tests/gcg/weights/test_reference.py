"""Image to soft-prompt tokens against Hugging Face's InstructBLIP: every weight in its place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from gcg.config import GCGConfig
from gcg.presets import resolve_preset
from gcg.reader import FrameReader
from gcg.vision import VisionTower, frames_through
from gcg.weights import weight_map
from gcg.weights.tensors import InMemory
from tests.gcg.weights.checkpoints import make_instructblip, make_open_clip
from tests.gcg.weights.filling import filled
from tests.gcg.weights.small_tokenizers import LLM


@pytest.mark.parametrize("kind", ["t5", "llama"])
@torch.no_grad()
def test_a_single_frame_becomes_instructblips_soft_prompt(kind: LLM, tmp_path: Path) -> None:
    eva, _ = make_open_clip(tmp_path / "clip")
    blip: Any = make_instructblip(tmp_path / "blip", kind, eva=eva).eval()
    config = GCGConfig(
        preset="instructblip",
        checkpoint=str(tmp_path / "blip"),
        clip_checkpoint=str(tmp_path / "clip"),
    )
    preset, weights = resolve_preset(config), weight_map(config, parts=("vision", "reader"))
    tower = VisionTower(preset.vision, preset.joint_width)
    vision = filled(tower, weights, "vision.")
    reader = FrameReader(preset.qformer, preset.num_query_tokens, 1, preset.llm_width)
    temporal = nn.Embedding(1, preset.qformer.hidden_size)
    nn.init.zeros_(temporal.weight)  # ours, added to what InstructBLIP has
    weights["reader.temporal.weight"] = InMemory(temporal.weight)
    filled(reader, weights, "reader.")

    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(2, 1, 3, 28, 28, generator=generator)
    ids = torch.randint(4, 300, (2, 6), generator=generator)
    mask = torch.ones_like(ids)
    mask[1, 4:] = 0
    tokens, _ = frames_through(vision, pixels)  # type: ignore[arg-type]
    soft = reader(tokens, ids, mask)
    theirs = blip.get_image_features(
        pixels[:, 0], qformer_input_ids=ids, qformer_attention_mask=mask, return_dict=True
    )[0]
    assert soft.shape == (2, preset.num_query_tokens, preset.llm_width)
    # The same modules in the same order: what differs is the trunk's batch, by roundings.
    torch.testing.assert_close(soft, theirs, rtol=1e-5, atol=1e-6)
    assert soft.std() > 0.05
