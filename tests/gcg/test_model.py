from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from gcg.build import build_encoders, build_model, encoder_fingerprint, load_tokenizer
from gcg.config import GCGConfig
from gcg.model import GCGModel, Grounding

T, K = 8, 2


def config(mode: str = "grounding", **changes: Any) -> GCGConfig:
    tree = {
        "mode": mode,
        "num_frames": T,
        "num_moments": K,
        "grounding": {"dropout": 0.0, "noise_samples": 20},
        "loss": {"num_intra": 2, "num_inter": 3},
        "llm": {"train": True},
    }
    return GCGConfig.model_validate({**tree, **changes})


def inputs(pairs_per_video: tuple[int, ...] = (2, 1, 2), seed: int = 0) -> dict[str, Tensor]:
    """A batch of real words over random frames."""
    generator = torch.Generator().manual_seed(seed)
    num_videos, num_pairs = len(pairs_per_video), sum(pairs_per_video)
    tokenizer = load_tokenizer(config())
    tokenizer.enable_padding(pad_id=0, pad_token="<pad>")
    asked = tokenizer.encode_batch(
        ["What does the red circle do?", "Which object moves left?", "the green star"] * 2
    )[:num_pairs]
    ids = torch.tensor([row.ids for row in asked])
    mask = torch.tensor([row.attention_mask for row in asked])
    index = torch.repeat_interleave(torch.arange(num_videos), torch.tensor(pairs_per_video))
    moments = torch.rand(num_pairs, T, generator=generator).topk(K).indices.sort().values
    return {
        "pixel_values": torch.randn(num_videos, T, 3, 96, 96, generator=generator),
        "video_index": index,
        "question_ids": ids,
        "question_mask": mask,
        "qformer_ids": ids,
        "qformer_mask": mask,
        "prompt_ids": ids,
        "prompt_mask": mask,
        "noise_seeds": torch.arange(10, 10 + num_pairs),
        "contrast_group": torch.zeros(num_videos, dtype=torch.int64),
        "positions": torch.arange(num_videos),
        "answer_ids": ids.masked_fill(mask == 0, -100),
        "description_ids": ids,
        "description_mask": mask,
        "moments": moments,
    }


def ground(model: GCGModel, batch: dict[str, Tensor]) -> Grounding:
    encoded = model.encode(batch["pixel_values"], batch["question_ids"], batch["question_mask"])
    return model.ground(encoded, batch["video_index"], batch["noise_seeds"], batch["moments"])


def subset(batch: dict[str, Tensor], pairs: list[int]) -> dict[str, Tensor]:
    """The same videos with only some of the pairs."""
    of_videos = ("pixel_values", "contrast_group", "positions")
    return {name: x if name in of_videos else x[pairs] for name, x in batch.items()}


@pytest.mark.parametrize("mode", ["grounding", "uniform", "oracle"])
def test_forward_shapes_and_which_losses_a_mode_has(mode: str) -> None:
    model = build_model(config(mode))
    output = model(**inputs())
    assert output.loss_vqa.shape == (5,)
    assert output.weights.shape == (5, T)
    assert output.selected.shape == (5, K)
    assert bool(output.loss_reg.any()) == (mode == "grounding")
    assert bool(output.loss_con.any()) == (mode == "grounding")
    assert bool(model.grounding_parameters()) == (mode == "grounding")


def test_gradients_reach_all_that_learns_and_nothing_else() -> None:
    model = build_model(config())
    output = model(**inputs())
    (output.loss_vqa + output.loss_reg + output.loss_con).sum().backward()
    trained = {*model.grounding_parameters(), *model.other_trained_parameters()}
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == (parameter in trained), name
        if parameter not in trained:
            assert parameter.grad is None, name
    without = [
        name
        for name, p in model.named_parameters()
        if p.requires_grad and (p.grad is None or not p.grad.any())
    ]
    # A softmax ignores what is added to all its inputs; and of the last Q-Former layer only the
    # queries are read, so its feed-forward half for text tokens learns nothing.
    idle = ("key.bias", "pool.2.bias", "layer.1.intermediate.", "layer.1.output.")
    assert not [name for name in without if not any(part in name for part in idle)]


def test_the_answer_loss_alone_moves_the_generator() -> None:
    """Through the perturbed selection: grounding is learned from answers, too."""
    model = build_model(config())
    model(**inputs()).loss_vqa.sum().backward()
    gradient = model.get_parameter("generator.centers.weight").grad
    assert gradient is not None
    assert gradient.abs().sum() > 0


def test_a_frozen_llm_is_left_alone() -> None:
    model = build_model(config(llm={"train": False}))
    assert not any(p.requires_grad for p in model.answerer.parameters())
    assert all(p.requires_grad for p in model.reader.parameters())


def test_a_pair_does_not_depend_on_the_other_questions_beside_it() -> None:
    model = build_model(config()).eval()
    model.training = True  # soft selection, while every dropout below stays off
    batch = inputs()
    whole, part = model(**batch), model(**subset(batch, [3, 1]))
    for name in ("loss_vqa", "loss_reg", "loss_con", "weights"):
        # Matrix products of another size round differently.
        torch.testing.assert_close(
            getattr(whole, name)[[3, 1]], getattr(part, name), atol=1e-4, rtol=1e-4
        )


def test_evaluation_is_deterministic_and_uses_hard_frames() -> None:
    model, batch = build_model(config()).eval(), inputs()
    first, second = (ground(model, batch) for _ in range(2))
    assert torch.equal(first.chosen, second.chosen)
    assert set(first.selection.indicator.unique().tolist()) == {0.0, 1.0}


def test_training_without_labels_is_refused() -> None:
    batch = {**inputs(), "moments": None}
    with pytest.raises(ValueError, match="gcg label"):
        build_model(config())(**batch)


def test_option_scores_are_the_negative_answer_losses() -> None:
    model, batch = build_model(config("uniform")).eval(), inputs()
    found = ground(model, batch)
    qformer, prompt = ((batch[f"{n}_ids"], batch[f"{n}_mask"]) for n in ("qformer", "prompt"))
    right = batch["answer_ids"]
    absent = torch.full_like(right, -100)
    scores = model.score_options(found, qformer, prompt, torch.stack([right, absent], dim=1))
    soft = model.reader(found.chosen, *qformer)
    losses = model.answerer.loss(soft, *prompt, right) * (right != -100).sum(1)
    torch.testing.assert_close(scores[:, 0], -losses, atol=1e-4, rtol=1e-4)
    assert (scores[:, 1] == -torch.inf).all()


def test_generation_is_greedy_and_repeatable() -> None:
    model, batch = build_model(config("uniform")).eval(), inputs()
    found = ground(model, batch)
    qformer, prompt = ((batch[f"{n}_ids"], batch[f"{n}_mask"]) for n in ("qformer", "prompt"))
    first, second = (model.generate(found, qformer, prompt, 5) for _ in range(2))
    assert torch.equal(first, second)
    assert first.shape[0] == 5


def test_modes_start_from_the_same_answerer() -> None:
    one, other = (build_model(config(mode), seed=3) for mode in ("grounding", "uniform"))
    states = one.state_dict()
    for name, value in other.state_dict().items():
        assert torch.equal(states[name], value), name
    third = build_model(config("uniform"), seed=4)
    assert not torch.equal(third.reader.query_tokens, other.reader.query_tokens)


def test_building_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    build_model(config())
    assert torch.equal(before, torch.get_rng_state())


def test_shipped_encoder_is_small_and_named_by_its_content() -> None:
    from gcg.build import _asset

    assert _asset("tiny_encoder.safetensors").stat().st_size < 3_000_000
    assert encoder_fingerprint(config()).startswith("tiny-")
    vision, text = build_encoders(config())
    assert vision is not None
    assert not vision.training
    assert not text.training


def test_moments_beyond_frames_are_refused() -> None:
    with pytest.raises(ValueError, match="K <= T"):
        GCGConfig(num_frames=4, num_moments=5)


def test_a_width_the_heads_do_not_divide_is_refused() -> None:
    with pytest.raises(ValueError, match="num_heads"):
        build_model(config(grounding={"width": 30}))
