"""Checkpoints by hub name: what is downloaded, what comes from the cache, what is said offline."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub.utils._http import reset_sessions

from gcg.config import GCGConfig
from gcg.errors import ModelError
from gcg.presets import resolve_preset
from gcg.tokens import load_tokenizers, pretrained_tokenizer
from gcg.weights import fetch_sources, weight_map
from gcg.weights.files import read_index
from gcg.weights.tensors import whole
from tests.gcg.weights.checkpoints import make_instructblip, make_llm, make_open_clip
from tests.gcg.weights.hub_server import Hub, cut_off, reach, serving


@pytest.fixture(scope="module")
def repositories(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("hub")
    make_instructblip(root / "us" / "blip", "llama", max_shard_size="60KB")
    make_instructblip(root / "us" / "pickled", "t5", safe=False)
    make_open_clip(root / "us" / "clip")
    make_open_clip(root / "us" / "clip-pickled", file="open_clip_pytorch_model.bin")
    make_llm(root / "us" / "llm", "qwen2")
    (root / "us" / "llm" / "pytorch_model.bin").write_bytes(b"the same weights again")
    (root / "us" / "bare").mkdir()
    (root / "us" / "bare" / "config.json").write_text('{"model_type": "llama"}')
    return root


@pytest.fixture
def hub(repositories: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serving(repositories) as server:
        reach(server, monkeypatch, tmp_path / "cache")
        pretrained_tokenizer.cache_clear()
        yield server
    monkeypatch.undo()
    pretrained_tokenizer.cache_clear()
    reset_sessions()


def config(checkpoint: str = "us/blip", clip: str = "us/clip", **changes: Any) -> GCGConfig:
    tree = {"preset": "instructblip", "checkpoint": checkpoint, "clip_checkpoint": clip}
    return GCGConfig.model_validate(tree | changes)


def test_a_model_by_name_is_the_model_of_the_folder(hub: Hub, repositories: Path) -> None:
    weights = weight_map(config())
    local = config(str(repositories / "us/blip"), str(repositories / "us/clip"))
    expected = weight_map(local)
    assert weights.keys() == expected.keys()
    for name in weights:
        assert torch.equal(whole(weights[name]), whole(expected[name])), name
    assert resolve_preset(config()).joint_width == resolve_preset(local).joint_width


def test_nothing_is_fetched_twice_and_nothing_asked_once_it_is_here(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch_sources(config(llm={"name": "us/llm"}))
    assert len(hub.sent) == len(set(hub.sent))
    sent = list(hub.sent)
    cut_off(monkeypatch)
    sources = fetch_sources(config(llm={"name": "us/llm"}))
    assert sources.llm is not None
    assert all(load_tokenizers(config(llm={"name": "us/llm"})).values())
    assert hub.sent == sent


def test_shards_without_anything_needed_stay_on_the_hub(hub: Hub) -> None:
    """With another LLM, the checkpoint's own is most of the bytes."""
    fetch_sources(config(llm={"name": "us/llm"}))
    index = read_index(hub.root / "us/blip/model.safetensors.index.json")
    everything = {f"us/blip/{shard}" for shard in index.values()}
    needed = {f"us/blip/{shard}" for key, shard in index.items() if "language_" not in key}
    assert everything & set(hub.sent) == needed < everything
    assert "us/llm/model.safetensors" in hub.sent
    assert "us/llm/pytorch_model.bin" not in hub.sent
    hub.sent.clear()
    fetch_sources(config())  # now its own LLM: the rest, and only the rest
    assert set(hub.sent) == everything - needed


def test_pickles_where_there_is_nothing_else(hub: Hub) -> None:
    weights = weight_map(config("us/pickled", "us/clip-pickled"))
    assert "text.clip.text_projection.weight" in weights
    assert "answerer.llm.shared.weight" in weights


def test_sizes_need_the_configuration_alone(hub: Hub) -> None:
    assert resolve_preset(config(llm={"name": "us/llm"})).llm.model_type == "qwen2"
    assert not [name for name in hub.sent if name.endswith((".safetensors", ".bin"))]


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"checkpoint": "us/absent"}, ["model.checkpoint = us/absent: no such repository"]),
        ({"clip": "us/absent"}, ["model.clip_checkpoint = us/absent: no such repository"]),
        ({"llm": {"name": "us/bare"}}, ["model.llm.name = us/bare: model.safetensors or", "hub"]),
    ],
)
def test_what_the_hub_does_not_have(hub: Hub, changes: dict[str, Any], parts: list[str]) -> None:
    with pytest.raises(ModelError) as caught:
        weight_map(config(**changes))
    (line,) = caught.value.lines
    assert all(part in line for part in parts), line


def test_half_a_cache_without_a_network(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """The configuration is cached, the weights are not: said in one line, with what to do."""
    resolve_preset(config())
    cut_off(monkeypatch)
    with pytest.raises(ModelError) as caught:
        fetch_sources(config())
    (line,) = caught.value.lines
    assert line.startswith("model.checkpoint = us/blip: ")
    assert "HF_HUB_OFFLINE is set" in line
    assert "run `hf download us/blip` on a machine with a network" in line
    assert "HF_HOME" in line
