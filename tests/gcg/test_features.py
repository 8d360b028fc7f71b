"""A model that reads features: what it is made of, what it refuses, and other text encoders."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModel, BertConfig, BertModel, PreTrainedTokenizerFast

from gcg.build import build_encoders, build_model, encoder_fingerprint
from gcg.config import GCGConfig
from gcg.errors import ModelError
from gcg.model import GCGModel
from gcg.presets import frame_shape, tiny
from gcg.processor import GCGProcessor
from gcg.saving import plan_saving, save_pretrained
from gcg.tokens import clip_tokens, pretrained_tokenizer, tiny_tokenizer

from .test_model import K, T, inputs

WIDTH = 24


@pytest.fixture(scope="module")
def sentences(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT with random weights, as transformers writes it, [CLS] head included."""
    folder = tmp_path_factory.mktemp("bert")
    torch.manual_seed(0)
    BertModel(
        BertConfig(
            vocab_size=512,
            hidden_size=WIDTH,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=48,
            max_position_embeddings=40,
        )
    ).save_pretrained(folder)
    tokenizer: PreTrainedTokenizerFast = tiny_tokenizer()
    tokenizer.save_pretrained(folder)
    return folder


def config(**changes: Any) -> GCGConfig:
    tree = {
        "input": "features",
        "num_frames": T,
        "num_moments": K,
        "grounding": {"dropout": 0.0, "noise_samples": 20, "width": 16},
        "llm": {"train": True},
    }
    return GCGConfig.model_validate({**tree, **changes})


def foreign(folder: Path, **features: Any) -> GCGConfig:
    own = {"tokens": 1, "width": WIDTH, "text_encoder": str(folder)}
    return config(features={**own, **features})


def batch(tokens: int, width: int, joint: int) -> dict[str, Tensor | None]:
    generator = torch.Generator().manual_seed(1)
    frames = {
        "pixel_values": None,
        "frame_tokens": torch.randn(3, T, tokens, width, generator=generator).half(),
        "frame_embeddings": torch.randn(3, T, joint, generator=generator).half(),
    }
    return {**inputs(), **frames}


@pytest.mark.parametrize("profile", ["paper", "released", "plus"])
def test_one_vector_a_frame_trains_in_every_profile(sentences: Path, profile: str):
    model = build_model(foreign(sentences).model_copy(update={"profile": profile}))
    given = batch(1, WIDTH, WIDTH)
    if profile == "released":
        words = inputs()["question_ids"]
        options = {"option_text_ids": words[:, None], "option_text_mask": (words != 0)[:, None] * 1}
        answers = {"answer_text_ids": words, "answer_text_mask": (words != 0) * 1}
        given |= {**options, **answers, "answer_index": torch.zeros(5, dtype=torch.int64)}
        given["similarity"] = torch.rand(5, T)
    if profile == "plus":
        given["similarity"] = torch.rand(5, T)
    output = model(**given)
    (output.loss_vqa + output.loss_reg + output.loss_con).sum().backward()
    assert output.selected.shape == (5, K)
    gradients = [p.grad for p in model.grounding_parameters()]
    assert any(g is not None and g.any() for g in gradients)
    assert not any(p.requires_grad for p in model.text.parameters())


def test_the_text_encoder_is_the_checkpoint_s(sentences: Path):
    """Mean of the tokens; the same numbers as transformers' own class gives."""
    _, text = build_encoders(foreign(sentences))
    ids = torch.tensor([[1, 7, 9, 3], [1, 8, 3, 0]])
    mask = (ids != 0).long()
    tokens, pooled = text(ids, mask)
    reference = AutoModel.from_pretrained(sentences).eval()
    with torch.no_grad():
        theirs = reference(input_ids=ids, attention_mask=mask).last_hidden_state
    assert torch.equal(tokens, theirs)
    expected = torch.stack([theirs[0].mean(0), theirs[1, :3].mean(0)])
    torch.testing.assert_close(pooled, expected)
    assert clip_tokens(foreign(sentences)).max_length == 40


def test_an_encoder_is_known_by_what_encodes_the_texts(sentences: Path):
    assert encoder_fingerprint(config()) == encoder_fingerprint(GCGConfig())
    assert encoder_fingerprint(foreign(sentences)).startswith("sentence-")


def test_sizes_of_a_frame():
    own = tiny()
    tokens = (own.image_size // own.vision.patch_size) ** 2 + 1
    assert frame_shape(GCGConfig()) == frame_shape(config()) == (tokens, 128, 128)


def test_only_widths_that_meet_are_built(sentences: Path):
    assert frame_shape(foreign(sentences)) == (1, WIDTH, WIDTH)
    with pytest.raises(ModelError, match="embedding_width = 128"):
        build_model(foreign(sentences, embedding_width=128))
    with pytest.raises(ModelError, match="text_encoder"):
        build_model(config(features={"width": WIDTH}))
    with pytest.raises(ModelError, match="no such file or folder"):
        build_model(foreign(Path("/nowhere/at/all")))
    # Wider frames, compared with texts in the preset's own joint space.
    wide = config(features={"tokens": 5, "width": 64, "embedding_width": 128})
    output = build_model(wide)(**batch(5, 64, 128))
    assert output.loss_vqa.isfinite().all()


def test_a_saved_one_brings_its_text_encoder(sentences: Path, tmp_path: Path):
    own = Path(shutil.copytree(sentences, tmp_path / "bert"))
    model = build_model(foreign(own), seed=1)
    state = {n: p.detach() for n, p in model.named_parameters() if p.requires_grad}
    for parts in ("all", "trained"):
        out = tmp_path / ("out" if parts == "all" else parts)
        out.mkdir()
        save_pretrained(plan_saving(foreign(own), state, parts), out)
    shutil.rmtree(own)
    pretrained_tokenizer.cache_clear()
    with pytest.raises(ModelError, match=r"model\.features\.text_encoder = .*no such file"):
        GCGModel.from_pretrained(tmp_path / "trained")
    lent = GCGModel.from_pretrained(tmp_path / "trained", text_encoder=str(sentences))
    assert all(torch.equal(v, lent.state_dict()[k]) for k, v in model.state_dict().items())
    again = GCGModel.from_pretrained(tmp_path / "out")
    assert again.vision is None
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in model.state_dict().items())
    processor = GCGProcessor.from_pretrained(tmp_path / "out")
    assert processor.tokens.clip.rows(["a circle"]) == clip_tokens(foreign(sentences)).rows(
        ["a circle"]
    )


def test_one_that_read_its_own_encoders_features_reads_clips_when_saved(tmp_path: Path):
    model = build_model(config(), seed=1)
    state = {n: p.detach() for n, p in model.named_parameters() if p.requires_grad}
    (tmp_path / "out").mkdir()
    save_pretrained(plan_saving(config(), state, "trained"), tmp_path / "out")
    again = GCGModel.from_pretrained(tmp_path / "out")
    assert again.config.input == "video"
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in model.state_dict().items())
    clips, _ = build_encoders(config().reading_video())
    assert clips is not None
    assert again.vision is not None
    for name, value in clips.state_dict().items():
        assert torch.equal(value, again.vision.state_dict()[name]), name


def test_weights_of_another_encoder_are_refused(sentences: Path, tmp_path: Path):
    for file in sentences.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    text = (tmp_path / "config.json").read_text()
    (tmp_path / "config.json").write_text(
        text.replace('"intermediate_size": 48', '"intermediate_size": 96')
    )
    with pytest.raises(ModelError, match="the model needs"):
        build_model(foreign(tmp_path))


def test_features_and_clips_are_not_taken_for_each_other():
    with pytest.raises(ValueError, match="the batch has clips"):
        build_model(config())(**inputs())
    video = config(input="video")
    with pytest.raises(ValueError, match="the batch has features"):
        build_model(video)(**batch(37, 128, 128))


def test_settings_that_contradict_each_other_are_refused():
    with pytest.raises(ValueError, match="image encoder that stays"):
        config(vision={"train": True})
    with pytest.raises(ValueError, match="reads no features; set input=features"):
        config(input="video", features={"tokens": 1})
