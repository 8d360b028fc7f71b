"""Parameter counts against what the public checkpoints are known to have."""

from __future__ import annotations

import pytest

from launcher.planning import describe_model
from launcher.planning.sizes import Census, take_census
from launcher.training.optimizer import parameter_groups

from .runs import LLAMA_70B, VICUNA_7B, VICUNA_13B, XL, XXL, instructblip, run

# Billions of parameters of the InstructBLIP checkpoints, of the vision tower and the Q-Former.
PUBLIC = {XL: 4.023, XXL: 12.310, VICUNA_7B: 7.913, VICUNA_13B: 14.191}
VISION, QFORMER = 0.986, 0.186
# Ours, not the checkpoint's: a temporal embedding (K, D_Q) in the reader.
TEMPORAL = 4 * 768


def sizes(census: Census) -> dict[str, int]:
    return {part.part: part.total for part in census.parts}


@pytest.mark.parametrize("checkpoint", PUBLIC)
def test_the_four_checkpoints(checkpoint: str):
    shape, census = describe_model(instructblip(checkpoint))
    found = sizes(census)
    reader = found["Q-Former + projection"] - TEMPORAL
    whole = found["vision trunk"] + reader + found["LLM"]
    assert round(whole / 1e9, 3) == PUBLIC[checkpoint]
    assert round(found["vision trunk"] / 1e9, 3) == VISION
    projection = (768 + 1) * shape.llm.width
    assert round((reader - projection - 32 * 768) / 1e9, 3) == QFORMER
    # Block 40, norm and projection of EVA-CLIP; its text tower: 12 layers, 49,408 words.
    assert found["joint head"] == 25_250_176 + 2 * 1408 + (1408 + 1) * 1024
    assert round(found["text tower"] / 1e6, 1) == 123.8


def test_only_what_the_method_trains_is_trained():
    _, census = describe_model(instructblip())
    trained = {part.part for part in census.parts if part.trained}
    assert trained == {"generator", "Q-Former + projection"}
    assert all(not part.frozen for part in census.parts if part.part in trained)
    assert census.trained == sum(part.trained for part in census.parts)


def test_a_70b_llm_with_adapters():
    config = instructblip(llm=LLAMA_70B, model={"llm": {"name": LLAMA_70B, "train": "lora"}})
    _, census = describe_model(config)
    llm = next(part for part in census.parts if part.part == "LLM")
    assert llm.frozen == 70_553_706_496
    # Rank 16 on q, k, v, o, gate, up and down of 80 layers.
    sides = 2 * (8192 + 8192) + 2 * (8192 + 1024) + 3 * (8192 + 28672)
    assert llm.trained == 80 * 16 * sides
    assert census.largest_module == 128256 * 8192


def test_four_bit_weights_are_those_of_the_blocks():
    config = instructblip(
        llm=LLAMA_70B, model={"llm": {"name": LLAMA_70B, "quantize": "nf4"}}, engine={"zero": 2}
    )
    _, census = describe_model(config)
    packed = sum(weight.numel for weight in census.weights if weight.quantized)
    # Not: the word embeddings, the head, the norms.
    assert packed == 70_553_706_496 - 2 * 128256 * 8192 - (2 * 80 + 1) * 8192


def test_groups_are_the_optimizer_s():
    from gcg.build import build_skeleton

    config = run(optim={"steps": 10, "projection_warmup_steps": 2})
    model = build_skeleton(config.model)
    census = take_census(model, config.optim)
    groups = {g["name"]: g["params"] for g in parameter_groups(model, config.optim)}
    assert census.groups.keys() == groups.keys()
    for name, weights in census.groups.items():
        assert sum(w.numel for w in weights) == sum(p.numel() for p in groups[name])
