"""Activation checkpointing changes what is kept, not what is computed."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor

from gcg.build import build_model
from gcg.config import GCGConfig
from gcg.recompute import PARTS, recompute_activations

FRAMES, LENGTH = 4, 5
# A block of each part: it runs a second time in the backward pass, if the part is recomputed.
BLOCKS = {
    "vision": ["vision.trunk.encoder.layers.0"],
    "qformer": ["reader.qformer.encoder.layer.0"],
    "llm": ["answerer.llm.encoder.block.0", "answerer.llm.decoder.block.1"],
}


def batch() -> dict[str, Tensor]:
    """Two videos with two questions each."""
    generator = torch.Generator().manual_seed(0)

    def words(length: int = LENGTH) -> Tensor:
        return torch.randint(4, 500, (4, length), generator=generator)

    mask = torch.ones(4, LENGTH, dtype=torch.long)
    return {
        "pixel_values": torch.randn(2, FRAMES, 3, 96, 96, generator=generator),
        "video_index": torch.tensor([0, 0, 1, 1]),
        "question_ids": words(),
        "question_mask": mask,
        "qformer_ids": words(),
        "qformer_mask": mask,
        "prompt_ids": words(),
        "prompt_mask": mask,
        "answer_ids": words(3),
        "noise_seeds": torch.arange(4),
        "contrast_group": torch.zeros(2, dtype=torch.long),
        "positions": torch.arange(2),
        "description_ids": words(),
        "description_mask": mask,
        "moments": torch.tensor([[0, 3], [1, 2], [0, 2], [2, 3]]),
    }


def losses_and_gradients(
    config: GCGConfig, parts: tuple[str, ...]
) -> tuple[Tensor, dict[str, Tensor], Counter[str]]:
    model = build_model(config, 0)
    recompute_activations(model, parts)
    model.train()  # after it, as an engine does: what is frozen of the LLM must take part, too
    runs: Counter[str] = Counter()
    for name in (name for names in BLOCKS.values() for name in names):

        def count(module: Any, inputs: Any, name: str = name) -> None:
            runs[name] += 1

        model.get_submodule(name).register_forward_pre_hook(count)
    output = model(**batch())
    losses = torch.stack([output.loss_vqa, output.loss_reg, output.loss_con])
    losses.sum().backward()
    gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    return losses.detach(), gradients, runs


@pytest.mark.parametrize("train", ["frozen", "lora", "full"])
def test_losses_and_gradients_stay_the_same(train: str):
    config = GCGConfig(
        num_frames=FRAMES,
        num_moments=2,
        vision={"train": train == "full"},  # type: ignore[arg-type]
        grounding={"noise_samples": 10},  # type: ignore[arg-type]
        llm={"train": train},  # type: ignore[arg-type]
    )
    losses, gradients, once = losses_and_gradients(config, ())
    assert set(once.values()) == {1}
    parts = tuple(PARTS)
    again, same, runs = losses_and_gradients(config, parts)
    # The recomputation runs the same operations on the same numbers: equal, not nearly so.
    assert torch.equal(losses, again)
    assert gradients.keys() == same.keys()
    assert all(torch.equal(gradients[name], same[name]) for name in gradients)
    learns = {part: train == "full" or part != "vision" for part in parts}
    for part in parts:
        assert {runs[name] for name in BLOCKS[part]} == {2 if learns[part] else 1}, part
    # Dropout is drawn again in the recomputation; it must fall on the same elements.
    assert any(module.p > 0 for module in _dropouts(config))


def _dropouts(config: GCGConfig) -> list[Any]:
    from gcg.dropout import SampleDropout

    return [m for m in build_model(config).modules() if isinstance(m, SampleDropout)]


def test_a_part_that_cannot_is_named():
    model: Any = build_model(GCGConfig())
    model.answerer.llm.supports_gradient_checkpointing = False
    with pytest.raises(ValueError, match=r"engine\.recompute: llm is a T5ForConditionalGeneration"):
        recompute_activations(model, ("llm",))
