"""Asking a model: what it says, in which modes, and what does not fit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from gcg.errors import ModelError
from gcg.model import GCGModel
from gcg.processor import GCGProcessor
from gcg.saving import plan_saving
from gcg.tokens import load_tokens

from .saved_models import OPTIONS, config_of, frames, no_network, public, saved, trained_model

__all__ = ["no_network", "public"]  # the fixtures


def test_a_written_answer_comes_with_its_certainty(public: Path) -> None:
    """The geometric mean of the chosen tokens' probabilities, against a step by step count."""
    for kind in ("tiny", "own-llm-lora"):
        config = config_of(public, kind)
        model, _ = trained_model(config)
        processor = GCGProcessor(config)
        inputs = processor(frames(), ["what moves", "a longer question about what stays"])
        found = model.answer(inputs, max_new_tokens=4, certainty=True)
        assert found.option_scores is None
        assert found.tokens is not None
        assert found.certainty is not None
        (one, other) = processor.predictions(found)
        assert one.probabilities is None
        assert min(one.confidence, other.confidence) > 0
        assert max(one.confidence, other.confidence) <= 1
        alone = model.answer(processor(frames(), "what moves"), max_new_tokens=4, certainty=True)
        assert processor.predictions(alone)[0].confidence == pytest.approx(one.confidence, 1e-4)


def test_other_modes_of_one_model(public: Path) -> None:
    config = config_of(public, "tiny")
    model, _ = trained_model(config)
    processor = GCGProcessor(config)
    inputs = processor(frames(), "what moves", OPTIONS, answers=[OPTIONS[0]])
    uniform = model.in_mode("uniform").answer(inputs)
    assert uniform.selected.tolist() == [[1, 3]]
    assert uniform.weights.eq(1).all()
    oracle = model.in_mode("oracle").answer(inputs)
    assert oracle.weights.max() == 1
    assert not oracle.weights.eq(1).all()
    before = model.answer(inputs)
    assert torch.equal(before.weights, model.in_mode("grounding").answer(inputs).weights)
    with pytest.raises(ModelError, match=r"trained in mode uniform.*choose uniform or oracle"):
        trained_model(config_of(public, "uniform"))[0].in_mode("grounding")
    with pytest.raises(ValueError, match=r"mode = oracle"):
        model.in_mode("oracle").answer(processor(frames(), "what moves", OPTIONS))


def test_the_processor_says_what_does_not_fit(public: Path) -> None:
    processor = GCGProcessor(config_of(public, "tiny"))
    assert processor.frame_indices(40) == [5, 15, 25, 35]
    for given, rule in (
        ((frames(5), "q"), r"frames: 5: this model reads 4"),
        ((frames().astype(np.float32), "q"), r"must be uint8 \(T, H, W, 3\)"),
        ((torch.zeros(4, 3, 8, 8), "q"), r"pixel values must be \(T, 3, 96, 96\)"),
        (([np.zeros((8, 8), np.uint8)] * 4, "q"), r"frames\[0\]: \(8, 8\)"),
        ((frames(), []), r"questions: none given"),
        ((frames(), " "), r"question: is empty"),
        ((frames(), ["a", "b"], [["x", "y"]]), r"options: 1 lists for 2 questions"),
        ((frames(), "a", ["x"]), r"two texts or more"),
    ):
        with pytest.raises(ModelError, match=rule):
            processor(*given)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ModelError, match=r"answers: 2 for 1 questions"):
        processor(frames(), "a", answers=["x", "y"])
    with pytest.raises(ModelError, match=r"neither may be empty; mode oracle looks for"):
        processor(frames(), "a", answers=["?!"])
    with pytest.raises(ModelError, match="at least one frame"):
        processor.frame_indices(0)


def test_answers_in_words_need_what_was_asked(public: Path) -> None:
    config = config_of(public, "tiny")
    model, _ = trained_model(config)
    processor = GCGProcessor(config)
    found = model.answer(processor(frames(), "what moves", OPTIONS))
    (said,) = processor.predictions(found, [OPTIONS], [8.0])
    assert said.answer in OPTIONS
    assert said.centers == found.centers[0].tolist()
    assert len(said.centers) == config.num_moments
    for given, rule in (
        ({}, r"options: none for question 0, which the model was not asked to answer in words"),
        ({"options": [OPTIONS, None]}, r"options: 2 for 1 questions"),
        ({"options": [OPTIONS], "duration": []}, r"duration: 0 for 1 questions"),
    ):
        with pytest.raises(ModelError, match=rule):
            processor.predictions(found, **given)


def test_pixel_values_of_any_float_type_are_taken(public: Path) -> None:
    processor = GCGProcessor(config_of(public, "tiny"))
    pixels = processor(frames(), "q")["pixel_values"]
    assert pixels is not None
    again = processor(pixels[0].double(), "q")["pixel_values"]
    assert again is not None
    assert again.dtype == torch.float32
    assert torch.equal(again, pixels)


def test_what_is_no_saved_model_is_one_line(public: Path, tmp_path: Path) -> None:
    config = config_of(public, "tiny-lora")
    _, state = trained_model(config)
    good = saved(config, state, tmp_path / "good", "trained", shard_bytes=10**9)

    def broken(name: str) -> Path:
        return Path(shutil.copytree(good, tmp_path / name))

    def edit(folder: Path, **changes: Any) -> Path:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))
        return folder

    (tmp_path / "empty").mkdir()
    (broken("text") / "config.json").write_text("{")
    (broken("less") / "adapter" / "adapter_model.safetensors").unlink()
    wrong = broken("more") / "model.safetensors"
    weights = load_file(wrong)
    save_file(weights | {"generator.odd": torch.zeros(1)}, wrong)
    name = next(iter(sorted(weights)))
    short = broken("short") / "model.safetensors"
    save_file({k: v for k, v in weights.items() if k != name}, short)
    for folder, rule in (
        (tmp_path / "empty", "holds no config.json, so it is no exported model"),
        (tmp_path / "none", "no such file or folder"),
        (tmp_path / "text", "config.json: cannot be read"),
        (edit(broken("kind"), model_type="t5"), "model_type 't5': must be gcg"),
        (edit(broken("format"), format=9), "format 9, but this version reads 1"),
        (edit(broken("tree"), gcg={"num_frames": 0}), "gcg.num_frames"),
        (tmp_path / "less", "adapter_model.safetensors"),
        (tmp_path / "more", "generator.odd is no weight of the model"),
        (tmp_path / "short", f"has no {name}; the copy is incomplete"),
    ):
        with pytest.raises(ModelError, match=rule) as error:
            GCGModel.from_pretrained(folder)
        assert len(error.value.lines) == 1


def test_weights_of_another_model_are_not_saved(public: Path) -> None:
    config = config_of(public, "tiny")
    _, state = trained_model(config)
    name = sorted(state)[0]
    for wrong in (
        {k: v for k, v in state.items() if k != name},
        state | {"generator.odd": torch.zeros(1)},
        state | {name: torch.zeros(1)},
    ):
        with pytest.raises(ModelError, match=r"do not fit the model's configuration"):
            plan_saving(config, wrong)
    four_bit = config.model_copy(
        update={"llm": config.llm.model_copy(update={"quantize": "nf4", "train": "lora"})}
    )
    with pytest.raises(ModelError, match=r"export its trained parts alone"):
        plan_saving(four_bit, state, "all")


def test_pixels_are_those_of_training() -> None:
    from dataloaders.transform import preprocess
    from gcg.pixels import pixel_values

    for height, width in ((60, 90), (91, 40), (96, 96), (97, 301)):
        given = np.random.default_rng(1).integers(0, 255, (2, height, width, 3), dtype=np.uint8)
        want = preprocess(given, 96)
        assert torch.equal(pixel_values(given, 96), want)
        assert torch.equal(pixel_values(list(given), 96), want)


def test_tokens_are_those_of_training(public: Path, tmp_path: Path) -> None:
    for kind in ("own-llm-lora", "blip"):
        config = config_of(public, kind)
        _, state = trained_model(config)
        folder = saved(config, state, tmp_path / kind, "trained")
        ours, theirs = GCGProcessor.from_pretrained(folder).tokens, load_tokens(config)
        for role in ("clip", "qformer", "prompt", "answer"):
            assert getattr(ours, role).rows(OPTIONS) == getattr(theirs, role).rows(OPTIONS), role
        assert (ours.prefix_ids, ours.end_ids) == (theirs.prefix_ids, theirs.end_ids)
