"""Sizes of the public checkpoints, without their weights: all is built on the meta device."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from huggingface_hub.utils._http import reset_sessions
from torch import nn
from transformers import InstructBlipVisionModel

from gcg.catalogue import INSTRUCTBLIP, LLMS
from gcg.config import GCGConfig
from gcg.errors import ModelError
from gcg.presets import Preset, resolve_preset
from gcg.reader import FrameReader
from gcg.text import TextTower
from gcg.vision import VisionTower
from gcg.weights.llm import on_meta
from tests.gcg.weights.checkpoints import make_instructblip, make_llm, make_open_clip
from tests.gcg.weights.hub_server import cut_off

# Billions, as ../shared/README.md has them of Hugging Face's own classes.
BILLIONS = {
    "Salesforce/instructblip-flan-t5-xl": 4.023,
    "Salesforce/instructblip-flan-t5-xxl": 12.310,
    "Salesforce/instructblip-vicuna-7b": 7.913,
    "Salesforce/instructblip-vicuna-13b": 14.191,
}
# Published on the models' pages (of T5: the checkpoint's, lm_head and embedding apart).
PUBLISHED = {
    "google/flan-t5-small": 76_961_152,
    "google/flan-t5-base": 247_577_856,
    "google/flan-t5-large": 783_150_080,
    "google/flan-t5-xl": 2_849_757_184,
    "google/flan-t5-xxl": 11_135_332_352,
    "lmsys/vicuna-7b-v1.5": 6_738_415_616,
    "lmsys/vicuna-13b-v1.3": 13_015_864_320,
    "meta-llama/Llama-3.1-8B": 8_030_261_248,
    "meta-llama/Llama-3.3-70B-Instruct": 70_553_706_496,
    "meta-llama/Llama-3.2-1B": 1_235_814_400,
    "meta-llama/Llama-3.2-3B-Instruct": 3_212_749_824,
    "Qwen/Qwen2.5-0.5B": 494_032_768,
    "Qwen/Qwen2.5-1.5B": 1_543_714_304,
    "Qwen/Qwen2.5-3B": 3_085_938_688,
    "Qwen/Qwen2.5-7B-Instruct": 7_615_616_512,
    "Qwen/Qwen2.5-14B": 14_770_033_664,
    "Qwen/Qwen2.5-32B": 32_763_876_352,
    "Qwen/Qwen2.5-72B-Instruct": 72_706_203_648,
    "Qwen/Qwen3-0.6B": 596_049_920,
    "Qwen/Qwen3-1.7B": 1_720_574_976,
    "Qwen/Qwen3-4B": 4_022_468_096,
    "Qwen/Qwen3-8B": 8_190_735_360,
    "Qwen/Qwen3-14B": 14_768_307_200,
    "Qwen/Qwen3-32B": 32_762_123_264,
    "HuggingFaceTB/SmolLM2-135M-Instruct": 134_515_008,
    "HuggingFaceTB/SmolLM2-360M": 361_821_120,
    "HuggingFaceTB/SmolLM2-1.7B": 1_711_376_384,
}


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """An empty cache and no hub, whatever the machine has."""
    cut_off(monkeypatch, tmp_path / "hub")
    yield
    monkeypatch.undo()
    reset_sessions()


def config(**changes: Any) -> GCGConfig:
    return GCGConfig.model_validate({"preset": "instructblip", **changes})


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("name", BILLIONS)
def test_parameter_counts_of_the_four_instructblip_models(name: str) -> None:
    preset = resolve_preset(config(checkpoint=name))
    with torch.device("meta"):
        vision = InstructBlipVisionModel(preset.vision)
        reader = FrameReader(preset.qformer, preset.num_query_tokens, 4, preset.llm_width)
        total = count(vision) + count(reader) - count(reader.temporal) + count(on_meta(preset.llm))
    assert round(count(vision) / 1e6) == 986
    assert round(count(reader.qformer) / 1e6) == 186
    assert round(total / 1e9, 3) == BILLIONS[name]


def test_what_is_added_to_them_is_clips() -> None:
    """Block 40, norm, head and text tower: 27 M and 124 M parameters more."""
    preset = resolve_preset(config(checkpoint="Salesforce/instructblip-flan-t5-xl"))
    with torch.device("meta"):
        head = VisionTower(preset.vision, preset.joint_width).joint_head
        text = TextTower(preset.text)
    width, ffn = 1408, 6144
    block = 4 * width * width + 4 * width + 2 * width * ffn + ffn + width + 4 * width
    assert count(head) == block + 2 * width + width * 1024 + 1024
    text_block = 4 * 768 * 768 + 4 * 768 + 2 * 768 * 3072 + 3072 + 768 + 4 * 768
    assert count(text) == 12 * text_block + (49408 + 77 + 2 + 1024) * 768
    assert (round(count(head) / 1e6), round(count(text) / 1e6)) == (27, 124)
    assert preset.text.hidden_act == "gelu"  # open_clip's, not OpenAI's quick one
    assert preset.joint_width == preset.text.projection_dim == 1024


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_catalogue_sizes_give_the_published_counts(name: str) -> None:
    preset = resolve_preset(GCGConfig.model_validate({"llm": {"name": name}}))
    assert not preset.own_llm
    assert count(on_meta(preset.llm)) == PUBLISHED[name]


def test_every_name_of_the_catalogue_resolves_without_a_network() -> None:
    for name in LLMS:
        llm = resolve_preset(GCGConfig.model_validate({"llm": {"name": name}})).llm
        assert llm.vocab_size == LLMS[name]["vocab_size"], name
        assert isinstance(llm.eos_token_id, int), name
    for name in INSTRUCTBLIP:
        preset = resolve_preset(config(checkpoint=name))
        assert (preset.image_size, preset.num_query_tokens) == (224, 32)
        assert preset.vision.layer_norm_eps == 1e-6
        assert preset.own_llm


def test_another_llm_in_place_of_the_checkpoints() -> None:
    name = "meta-llama/Llama-3.3-70B-Instruct"
    preset = resolve_preset(
        config(checkpoint="Salesforce/instructblip-vicuna-7b", llm={"name": name})
    )
    assert (preset.llm_width, preset.own_llm) == (8192, False)
    assert preset.vision.hidden_size == 1408


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("presets")
    make_instructblip(root / "blip", "llama")
    make_open_clip(root / "clip")
    make_llm(root / "llm", "qwen3")
    return root


def of_folders(root: Path) -> Preset:
    return resolve_preset(config(checkpoint=str(root / "blip"), clip_checkpoint=str(root / "clip")))


def test_a_folder_says_its_own_sizes(folders: Path) -> None:
    preset = of_folders(folders)
    assert (preset.image_size, preset.llm_width, preset.joint_width) == (28, 32, 48)
    assert preset.llm.model_type == "llama"
    assert preset.text.vocab_size == preset.text.eos_token_id + 1  # type: ignore[operator]
    named = resolve_preset(GCGConfig.model_validate({"llm": {"name": str(folders / "llm")}}))
    assert named.llm.model_type == "qwen3"


def test_a_cached_repository_comes_before_the_catalogue(tmp_path: Path, folders: Path) -> None:
    """Its weights will be read: a later revision may have other sizes."""
    repository = tmp_path / "hub" / "models--Salesforce--instructblip-vicuna-7b"
    snapshot = repository / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    (snapshot / "config.json").write_bytes((folders / "blip" / "config.json").read_bytes())
    assert resolve_preset(config(checkpoint="Salesforce/instructblip-vicuna-7b")).llm_width == 32


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"checkpoint": "some/unknown-model"}, ["model.checkpoint", "offline", "HF_HOME"]),
        ({"checkpoint": "no such folder"}, ["model.checkpoint", "no such file or folder"]),
        (
            {"checkpoint": "Salesforce/instructblip-vicuna-7b", "llm": {"name": "some/llm"}},
            ["model.llm.name = some/llm", "hf download some/llm"],
        ),
    ],
)
def test_what_cannot_be_had_is_one_line(changes: dict[str, Any], parts: list[str]) -> None:
    with pytest.raises(ModelError) as caught:
        resolve_preset(config(**changes))
    (line,) = caught.value.lines
    for part in parts:
        assert part.lower() in line.lower(), line


@pytest.mark.parametrize(
    ("tree", "part"),
    [
        ({"model_type": "blip-2"}, "model_type blip-2"),
        ("nonsense", "JSON"),
    ],
)
def test_a_folder_of_another_kind_is_refused(tmp_path: Path, tree: Any, part: str) -> None:
    (tmp_path / "config.json").write_text(tree if isinstance(tree, str) else json.dumps(tree))
    with pytest.raises(ModelError, match=part):
        resolve_preset(config(checkpoint=str(tmp_path)))


def test_a_clip_of_another_make_is_refused(tmp_path: Path, folders: Path) -> None:
    tree = json.loads((folders / "clip" / "open_clip_config.json").read_text())
    tree["model_cfg"]["text_cfg"]["hf_model_name"] = "roberta-base"
    (tmp_path / "open_clip_config.json").write_text(json.dumps(tree))
    with pytest.raises(ModelError, match="hf_model_name"):
        resolve_preset(config(checkpoint=str(folders / "blip"), clip_checkpoint=str(tmp_path)))


def test_no_network_is_asked_where_the_catalogue_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub is a closed port here: an attempt to ask it would fail at once."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    reset_sessions()
    assert resolve_preset(config(checkpoint="Salesforce/instructblip-vicuna-13b")).llm_width == 5120
    with pytest.raises(ModelError) as caught:
        resolve_preset(config(checkpoint="some/model"))
    (line,) = caught.value.lines
    assert line.startswith("model.checkpoint = some/model: not in the cache ")
    assert "the hub cannot be reached (ConnectionError)" in line
