"""Weights under the model's own names, from small checkpoints laid out like the public ones."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from gcg.config import GCGConfig
from gcg.errors import ModelError
from gcg.presets import resolve_preset
from gcg.reader import FrameReader
from gcg.weights import weight_map
from gcg.weights.llm import on_meta
from gcg.weights.tensors import InMemory, StoredTensor, whole
from tests.gcg.weights.checkpoints import LLM, Sizes, llm_config, make_llm, make_open_clip
from tests.gcg.weights.folders import LLMS, Folders, assert_all_equal, change, folders
from tests.gcg.weights.gguf_writer import write_gguf

__all__ = ["folders"]  # fixtures


@pytest.mark.parametrize("kind", LLMS)
def test_everything_of_an_instructblip(folders: Folders, kind: str) -> None:
    config, blip = folders.config(kind), folders.blips[kind]  # type: ignore[index]
    weights = weight_map(config)
    assert_all_equal(weights, "vision.trunk.", blip.vision_model)
    assert_all_equal(weights, "reader.qformer.", blip.qformer)
    assert_all_equal(weights, "reader.projection.", blip.language_projection)
    assert torch.equal(whole(weights["reader.query_tokens"]), blip.query_tokens)
    assert_all_equal(weights, "answerer.llm.", blip.language_model)
    # What is left is ours and starts fresh: the temporal embedding.
    preset = resolve_preset(config)
    reader = FrameReader(preset.qformer, preset.num_query_tokens, 4, preset.llm_width)
    names = {f"reader.{name}" for name, _ in reader.named_parameters()}
    assert names - set(weights) == {"reader.temporal.weight"}


@pytest.mark.parametrize("llm", ["t5", "llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("tied", [False, True])
def test_an_llm_of_its_own(folders: Folders, llm: LLM, tied: bool, tmp_path: Path) -> None:
    model = make_llm(tmp_path / "llm", llm, tied=tied, max_shard_size="60KB")
    weights = weight_map(folders.config(llm={"name": str(tmp_path / "llm")}))
    assert_all_equal(weights, "answerer.llm.", model)
    # The checkpoint's projection was trained for another LLM.
    assert not any(name.startswith("reader.projection") for name in weights)
    assert "reader.query_tokens" in weights


def test_the_tiny_preset_takes_an_llm_too(tmp_path: Path) -> None:
    model = make_llm(tmp_path, "llama")
    weights = weight_map(GCGConfig.model_validate({"llm": {"name": str(tmp_path)}}))
    assert_all_equal(weights, "answerer.llm.", model)
    assert all(name.startswith("answerer.llm.") for name in weights)


def test_only_the_parts_asked_for(folders: Folders, tmp_path: Path) -> None:
    """The encoders alone need no shard of the LLM."""
    root = shutil.copytree(folders.root / "t5", tmp_path / "t5")
    index = json.loads((root / "model.safetensors.index.json").read_text())["weight_map"]
    needed = {shard for key, shard in index.items() if "language" not in key}
    for shard in set(index.values()) - needed:
        (root / shard).unlink()
    config = folders.config(checkpoint=str(root))
    weights = weight_map(config, parts=("vision", "text"))
    assert {name.split(".")[0] for name in weights} == {"vision", "text"}
    named = folders.config(checkpoint=str(root), llm={"name": str(folders.root / "llama-alone")})
    make_llm(folders.root / "llama-alone")
    assert "reader.query_tokens" in weight_map(named)
    with pytest.raises(ModelError, match="is missing, though the index names it"):
        weight_map(config)


@pytest.mark.parametrize(
    ("kind", "rename"),
    [
        ("t5", lambda key: f"model.{key}"),
        ("llama", lambda key: f"model.{key}"),
        # As newer classes of transformers save a language model inside of another.
        (
            "llama",
            lambda key: (
                key.removeprefix("language_model.")
                if "lm_head" in key
                else "model." + key.replace("language_model.model.", "language_model.")
            ),
        ),
    ],
)
def test_other_spellings(
    folders: Folders, kind: str, rename: Callable[[str], str], tmp_path: Path
) -> None:
    root = folders.copy(kind, tmp_path / "blip")
    change(root / "model.safetensors", lambda state: {rename(k): v for k, v in state.items()})
    weights = weight_map(folders.config(checkpoint=str(root)))
    expected = weight_map(folders.config(kind))
    assert weights.keys() == expected.keys()
    for name, weight in weights.items():
        assert torch.equal(whole(weight), whole(expected[name])), name


@pytest.mark.parametrize("kept", ["encoder.embed_tokens.weight", "decoder.embed_tokens.weight"])
def test_a_tied_table_under_any_of_its_names(kept: str, folders: Folders, tmp_path: Path) -> None:
    model = make_llm(tmp_path, "t5")

    def edit(state: dict[str, Tensor]) -> dict[str, Tensor]:
        state[kept] = state.pop("shared.weight")
        return state

    change(tmp_path / "model.safetensors", edit)
    weights = weight_map(folders.config(llm={"name": str(tmp_path)}))
    assert_all_equal(weights, "answerer.llm.", model)


def test_an_older_eva_clip_file(folders: Folders, tmp_path: Path) -> None:
    """Without `trunk.` and `text.` in its names; the file is named, not its folder."""
    root = folders.copy("clip", tmp_path / "clip")

    def edit(state: dict[str, Tensor]) -> dict[str, Tensor]:
        return {k.replace(".trunk", "").removeprefix("text."): v for k, v in state.items()}

    change(root / "open_clip_model.safetensors", edit)
    file = root / "open_clip_model.safetensors"
    weights = weight_map(folders.config(clip_checkpoint=str(file)), parts=("vision", "text"))
    expected = weight_map(folders.config(), parts=("vision", "text"))
    assert weights.keys() == expected.keys()
    assert all(torch.equal(whole(weights[n]), whole(w)) for n, w in expected.items())


def test_a_longer_vocabulary_is_cut(folders: Folders, tmp_path: Path) -> None:
    """Revisions differ in rows of padding that no token uses."""
    root = folders.copy("llama", tmp_path / "blip")
    tables = ("language_model.lm_head.weight", "language_model.model.embed_tokens.weight")

    def edit(state: dict[str, Tensor]) -> dict[str, Tensor]:
        for name in tables:
            state[name] = torch.cat([state[name], torch.full((64, 32), 9.0)])
        return state

    change(root / "model.safetensors", edit)
    weights = weight_map(folders.config(checkpoint=str(root)))
    assert_all_equal(weights, "answerer.llm.", folders.blips["llama"].language_model)


@pytest.mark.parametrize(
    ("kind", "file", "key", "part"),
    [
        ("t5", "model", "qformer.encoder.layer.1.output.dense.bias", "reader"),
        ("t5", "model", "vision_model.post_layernorm.weight", "vision"),
        ("t5", "model", "query_tokens", "reader"),
        ("llama", "model", "language_model.model.norm.weight", "answerer.llm"),
        ("llama", "model", "language_projection.bias", "reader"),
        ("clip", "open_clip_model", "visual.trunk.blocks.3.attn.v_bias", "vision"),
        ("clip", "open_clip_model", "text.transformer.resblocks.0.attn.in_proj_bias", "text"),
        ("clip", "open_clip_model", "text.text_projection", "text"),
    ],
)
def test_a_missing_or_misshapen_tensor_is_one_line(
    folders: Folders, kind: str, file: str, key: str, part: str, tmp_path: Path
) -> None:
    root = folders.copy(kind, tmp_path / "copy")
    path = root / f"{file}.safetensors"
    place = "clip_checkpoint" if kind == "clip" else "checkpoint"
    config = folders.config(**{place: str(root)})

    def halve(state: dict[str, Tensor]) -> dict[str, Tensor]:
        value = state[key]
        state[key] = value[: len(value) // 2] if len(value) > 1 else value[:, :1]
        return state

    shape = list(load_file(path)[key].shape)
    change(path, halve)
    (line,) = problems(config, part)
    assert line.startswith(f"{path}: {key} has shape ")
    assert f"the model needs {shape}; " in line
    change(path, lambda state: {k: v for k, v in state.items() if k != key})
    (line,) = problems(config, part)
    assert line.startswith(f"{path}: has no {key}; ")


def problems(config: GCGConfig, part: str) -> list[str]:
    with pytest.raises(ModelError) as caught:
        weight_map(config, parts=(part,))
    return caught.value.lines


def test_a_checkpoint_of_another_depth(folders: Folders, tmp_path: Path) -> None:
    make_open_clip(tmp_path, Sizes(vision_layers=4))
    (line,) = problems(folders.config(clip_checkpoint=str(tmp_path)), "vision")
    assert "has 5 blocks; InstructBLIP's has 3, and must have one less" in line


def test_many_problems_are_counted(folders: Folders, tmp_path: Path) -> None:
    root = folders.copy("t5", tmp_path / "blip")
    change(
        root / "model.safetensors",
        lambda state: {k: v for k, v in state.items() if not k.startswith("qformer.")},
    )
    *first, last = problems(folders.config(checkpoint=str(root)), "reader")
    assert len(first) == 8
    assert last.startswith("... and ")


def test_a_clip_of_another_trunk_is_said(
    folders: Folders, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        weight_map(folders.config(), parts=("vision",))
        assert not caplog.records
        make_open_clip(tmp_path, seed=9)
        weight_map(folders.config(clip_checkpoint=str(tmp_path)), parts=("vision",))
    (record,) = caplog.records
    assert "is not the one of model.checkpoint" in record.getMessage()


def test_weights_come_as_they_are_stored(folders: Folders, tmp_path: Path) -> None:
    """Half precision stays half: it is the reader who casts."""
    make_llm(tmp_path, "llama", dtype=torch.bfloat16)
    weights = weight_map(folders.config(llm={"name": str(tmp_path)}))
    kept = weights["answerer.llm.model.norm.weight"]
    assert isinstance(kept, StoredTensor)
    assert kept.dtype == torch.bfloat16


def test_a_gguf_file(folders: Folders, tmp_path: Path) -> None:
    """Its tensors have other names, and its queries and keys another order."""
    gguf = pytest.importorskip("gguf")
    config = llm_config("llama", Sizes())
    torch.manual_seed(0)
    model = type(on_meta(config))(config)
    write_gguf(gguf, tmp_path / "small.gguf", model)
    weights = weight_map(folders.config(llm={"name": str(tmp_path / "small.gguf")}))
    assert_all_equal(weights, "answerer.llm.", model)
    assert isinstance(weights["answerer.llm.model.norm.weight"], InMemory)
    # A folder that holds nothing else means the same.
    assert resolve_preset(folders.config(llm={"name": str(tmp_path)})).llm.model_type == "llama"
    (tmp_path / "damaged.gguf").write_bytes(b"GGUF")
    with pytest.raises(ModelError, match="holds 2 GGUF files; name one of them"):
        weight_map(folders.config(llm={"name": str(tmp_path)}))
    with pytest.raises(ModelError, match=r"damaged\.gguf: transformers cannot read"):
        weight_map(folders.config(llm={"name": str(tmp_path / "damaged.gguf")}))
