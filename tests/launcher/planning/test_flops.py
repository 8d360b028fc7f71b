"""FLOPs by formula against torch's own counter on the small preset, forwards and backwards."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.flop_counter import (
    FlopCounterMode,
    sdpa_backward_flop_count,
    sdpa_flop_count,
)

from gcg.build import build_model
from gcg.config import GCGConfig
from gcg.presets import resolve_preset
from gcg.recompute import recompute_activations
from launcher.planning.flops import Flops, pair_flops
from launcher.planning.shapes import MicroBatch, model_shape

from .measure import full_micro_batch

VISITS, QUESTIONS, TOKENS = 2, 3, 20
PAIRS = VISITS * QUESTIONS
# torch counts the fused attention of GPUs alone; this is the CPU's.
ON_CPU: Any = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: (
        lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v)
    ),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: (
        lambda grad, q, k, v, *_, **__: sdpa_backward_flop_count(grad, q, k, v)
    ),
}
# What the formulas leave out: products of the contrastive loss, of pooling, of position tables.
TOLERANCE = 0.02


def tiny(**changes: Any) -> GCGConfig:
    tree = {"num_frames": 8, "num_moments": 2, "grounding": {"noise_samples": 20}}
    return GCGConfig.model_validate({**tree, **changes})


def counted(config: GCGConfig, recompute: tuple[str, ...]) -> tuple[dict[str, float], float]:
    """FLOPs of a pair that torch counts: forwards by module, backwards in all."""
    model = build_model(config)
    recompute_activations(model, recompute)
    model.train()
    inputs = full_micro_batch(config, VISITS, QUESTIONS, TOKENS)
    forward, backward = (FlopCounterMode(display=False, custom_mapping=ON_CPU) for _ in range(2))
    with forward:
        output = model(**inputs)
        loss = (output.loss_vqa + output.loss_reg + output.loss_con).sum()
    with backward:
        loss.backward()
    by_module = {
        name.partition(".")[2]: sum(counts.values()) / PAIRS
        for name, counts in forward.get_flop_counts().items()
    }
    return by_module, backward.get_total_flops() / PAIRS


def planned(config: GCGConfig, recompute: tuple[str, ...]) -> dict[str, Flops]:
    model = model_shape(config, resolve_preset(config))
    batch = MicroBatch(VISITS, PAIRS, TOKENS, TOKENS, TOKENS, VISITS * 8)
    return {part.part: part for part in pair_flops(model, batch, QUESTIONS, recompute)}


@pytest.mark.parametrize("train", ["frozen", "full", "lora"])
@pytest.mark.parametrize("recompute", [(), ("qformer", "llm")])
def test_every_part_as_torch_counts(train: str, recompute: tuple[str, ...]):
    config = tiny(llm={"train": train})
    forward, backward = counted(config, recompute)
    expected = planned(config, recompute)

    modules = {
        "joint head": "vision.joint_head",
        "text tower": "text",
        "generator": "generator",
        "LLM": "answerer.llm",
    }
    for part, module in modules.items():
        assert forward[module] == pytest.approx(expected[part].forward, rel=TOLERANCE), part
    trunk = forward["vision.trunk.embeddings"] + forward["vision.trunk.encoder"]
    assert trunk == pytest.approx(expected["vision trunk"].forward, rel=TOLERANCE)
    choice = 2 * 2 * 8 * 37 * 128  # S·E is planned with the Q-Former
    reader = expected["Q-Former + projection"].forward - choice
    assert forward["reader"] == pytest.approx(reader, rel=TOLERANCE)
    again = sum(part.backward + part.recompute for part in expected.values())
    # Planned, but not done: gradients of the frozen words that a decoder's first self-attention
    # reads, one of six attentions here; and a recomputed block's last layer, where it is frozen.
    spared = 0.04 if train != "full" else 0.0
    assert backward == pytest.approx(again, rel=TOLERANCE + spared)
    assert bool(sum(part.recompute for part in expected.values())) == bool(recompute)


def test_a_trained_image_encoder():
    config = tiny(vision={"train": True})
    frozen, trained = planned(tiny(), ()), planned(config, ())
    assert trained["vision trunk"].backward == pytest.approx(2 * trained["vision trunk"].forward)
    assert frozen["vision trunk"].backward == 0
    again = planned(config, ("vision",))["vision trunk"].recompute
    assert 0.8 < again / trained["vision trunk"].forward < 1
    assert planned(tiny(), ("vision",))["vision trunk"].recompute == 0


def test_a_decoder_only_llm_costs_two_flops_a_weight_and_token():
    """Kaplan et al.: at short lengths, attention hardly counts."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from launcher.planning.flops import _pile
    from launcher.planning.shapes import llm_shape

    config = LlamaConfig(
        hidden_size=512, intermediate_size=1376, num_hidden_layers=4, num_attention_heads=8,
        num_key_value_heads=2, vocab_size=64,
    )  # fmt: skip
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    weights = sum(p.numel() for p in model.model.layers.parameters() if p.dim() == 2)
    assert _pile(llm_shape(config).blocks, 1).products == 2 * weights
