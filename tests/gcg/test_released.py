"""The whole model in profile `released`: what it reads, what it hands on, what it loses."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from gcg.build import build_model
from gcg.config import GCGConfig
from gcg.model import GCGModel
from tests.gcg.test_model import K, T, config, inputs

OPTIONS = 3


def released(**changes) -> GCGConfig:
    return config(profile="released", **changes)


def batch(open_ended: tuple[int, ...] = ()) -> dict[str, Tensor]:
    """The batch of test_model with options; pairs in ``open_ended`` have none."""
    base = inputs()
    ids, mask = base["question_ids"], base["question_mask"]
    pairs = len(ids)
    number = (torch.arange(pairs)[:, None] + torch.arange(OPTIONS)) % pairs
    option_mask = mask[number]
    option_mask[list(open_ended)] = 0
    index = torch.arange(pairs) % OPTIONS
    index[list(open_ended)] = -1
    return {
        **base,
        "option_text_ids": ids[number],
        "option_text_mask": option_mask,
        "answer_text_ids": ids,
        "answer_text_mask": mask,
        "answer_index": index,
    }


def encode(model: GCGModel, given: dict[str, Tensor]):
    names = ("pixel_values", "question_ids", "question_mask", "option_text_ids", "option_text_mask")
    return model.encode(**{name: given[name] for name in names})


def test_generator_reads_the_pooled_question_and_its_options() -> None:
    model = build_model(released()).eval()
    given = batch(open_ended=(1,))
    found = encode(model, given)
    assert found.texts.shape[1] == 1 + OPTIONS
    assert found.text_mask.tolist()[0] == [1] * (1 + OPTIONS)
    assert found.text_mask.tolist()[1] == [1] + [0] * OPTIONS
    torch.testing.assert_close(found.texts[:, 0], found.question)
    other = dict(given, option_text_ids=given["option_text_ids"].roll(1, 0))
    centers = [
        model.ground(encode(model, b), b["video_index"], b["noise_seeds"], None).centers
        for b in (given, other)
    ]
    assert not torch.allclose(centers[0][0], centers[1][0])
    torch.testing.assert_close(centers[0][1], centers[1][1])


def test_spatial_tokens_follow_the_moments() -> None:
    given = batch()
    lengths = {}
    for profile in ("paper", "released"):
        model = build_model(config(profile=profile)).eval()
        encoded = encode(model, given)
        found = model.ground(encoded, given["video_index"], given["noise_seeds"], None)
        qformer = given["qformer_ids"], given["qformer_mask"]
        soft = model.reader(found.chosen, *qformer, found.every)
        lengths[profile] = soft.shape[1]
        if profile == "released":
            assert found.every is not None
            moved = model.reader(found.chosen, *qformer, found.every.flip(0))
            tokens = lengths["paper"]
            assert torch.equal(moved[:, :tokens], soft[:, :tokens])
            assert not torch.allclose(moved[:, tokens:], soft[:, tokens:])
    num_query_tokens = lengths["paper"] // K
    assert lengths["released"] == lengths["paper"] + num_query_tokens


def test_gradients_reach_generator_and_contrast_head() -> None:
    model = build_model(released())
    output = model(**batch())
    assert output.weights.shape == (5, T)
    (output.loss_reg + output.loss_con).sum().backward()
    for name in ("generator.embed.weight", "contrast.inner.weight", "contrast.outer.weight"):
        gradient = model.get_parameter(name).grad
        assert gradient is not None
        assert gradient.any(), name


def test_the_head_learns_with_the_grounding_rate() -> None:
    model = build_model(released())
    grounding = {id(p) for p in model.grounding_parameters()}
    assert id(model.get_parameter("contrast.inner.weight")) in grounding
    assert not grounding & {id(p) for p in model.other_trained_parameters()}


def test_open_ended_questions_have_text_but_no_options() -> None:
    given = batch()
    for name in ("option_text_ids", "option_text_mask"):
        del given[name]
    output = build_model(released())(**{**given, "answer_index": torch.full((5,), -1)})
    assert output.loss_con.isfinite().all()
    assert (output.loss_con > 0).all()


@pytest.mark.parametrize("target", ["moments", "soft"])
@pytest.mark.parametrize("profile", ["paper", "released"])
def test_both_targets_train_in_both_profiles(profile: str, target: str) -> None:
    similarity = torch.rand(5, T, generator=torch.Generator().manual_seed(4))
    model = build_model(config(profile=profile, loss={"target": target}))
    output = model(**batch(), similarity=similarity)
    output.loss_reg.sum().backward()
    gradient = model.get_parameter("generator.centers.weight").grad
    assert gradient is not None
    assert gradient.any()


def test_plus_trains_without_centres_or_contrast() -> None:
    """Our own profile through the whole model: the answer and the labels both move its scores."""
    similarity = torch.rand(5, T, generator=torch.Generator().manual_seed(4))
    for loss in ("loss_vqa", "loss_reg"):
        model = build_model(config(profile="plus"))
        output = model(**inputs(), similarity=similarity)
        assert output.centers.shape == (5, 0)
        assert not output.loss_con.any()
        getattr(output, loss).sum().backward()
        gradient = model.get_parameter("generator.score.weight").grad
        assert gradient is not None
        assert gradient.any(), loss
