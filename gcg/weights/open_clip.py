"""From open_clip's EVA01-g-14: the image tower's last block and head, and the text tower.

The trunk below that block is InstructBLIP's image tower (docs/method.md), so open_clip's copy of it
is not read.
"""

from __future__ import annotations

import re

import torch

from gcg.presets import Preset
from gcg.text import TextTower
from gcg.vision import JointHead
from gcg.weights.lookup import Lookup
from gcg.weights.tensors import Joined, Rows, Transposed, Weight, Zeros

# Ours on the left; theirs inside a block, with weight and bias each.
_IMAGE_BLOCK = {
    "layer_norm1": "norm1",
    "self_attn.projection": "attn.proj",
    "layer_norm2": "norm2",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}
_TEXT_BLOCK = {
    "self_attn.out_proj": "attn.out_proj",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}


def joint_head_weights(preset: Preset, source: Lookup) -> dict[str, Weight]:
    """``vision.joint_head.*``: the block above the trunk, the final norm, the projection."""
    with torch.device("meta"):
        shapes = _shapes(JointHead(preset.vision, preset.joint_width))
    depth = preset.vision.num_hidden_layers
    blocks = {
        int(n) for key in source.tensors for n in re.findall(r"^visual\..*blocks\.(\d+)\.", key)
    }
    if blocks and max(blocks) != depth:
        source.problems.append(
            f"{source.place}: its image tower has {max(blocks) + 1} blocks; InstructBLIP's has "
            f"{depth}, and must have one less; {source.remedy}"
        )
        return {}
    found = _Taken(source, "vision.joint_head.", shapes)
    for ours, theirs in _IMAGE_BLOCK.items():
        found.pair(f"block.{ours}", _image(f"blocks.{depth}.{theirs}"))
    found.add("block.self_attn.qkv.weight", _image(f"blocks.{depth}.attn.qkv.weight"))
    found.qkv_bias("block.self_attn.qkv.bias", f"blocks.{depth}.attn.")
    found.pair("norm", _image("norm"))
    found.pair("projection", _image("head"))
    return found.weights


def text_weights(preset: Preset, source: Lookup) -> dict[str, Weight]:
    """``text.clip.*``."""
    with torch.device("meta"):
        shapes = _shapes(TextTower(preset.text))
    found = _Taken(source, "text.", shapes)
    body = "clip.text_model."
    found.add(f"{body}embeddings.token_embedding.weight", _text("token_embedding.weight"))
    found.add(f"{body}embeddings.position_embedding.weight", _text("positional_embedding"))
    for i in range(preset.text.num_hidden_layers):
        ours, theirs = f"{body}encoder.layers.{i}.", f"transformer.resblocks.{i}."
        for mine, other in _TEXT_BLOCK.items():
            found.pair(ours + mine, _text(theirs + other))
        for kind in ("weight", "bias"):
            found.thirds(
                [f"{ours}self_attn.{part}_proj.{kind}" for part in "qkv"],
                _text(f"{theirs}attn.in_proj_{kind}"),
            )
    found.pair(f"{body}final_layer_norm", _text("ln_final"))
    found.transposed("clip.text_projection.weight", _text("text_projection"))
    return found.weights


class _Taken:
    """Weights taken so far, under our names with a prefix; shapes come from our modules."""

    def __init__(self, source: Lookup, prefix: str, shapes: dict[str, tuple[int, ...]]) -> None:
        self.weights: dict[str, Weight] = {}
        self._source, self._prefix, self._shapes = source, prefix, shapes

    def add(self, name: str, keys: list[str]) -> None:
        self._put(name, self._source.take(keys, self._shapes[name]))

    def pair(self, name: str, keys: list[str]) -> None:
        for kind in ("weight", "bias"):
            self.add(f"{name}.{kind}", [f"{key}.{kind}" for key in keys])

    def qkv_bias(self, name: str, attention: str) -> None:
        """EVA's keys have no bias: [q_bias, 0, v_bias]."""
        third = (self._shapes[name][0] // 3,)
        query, value = (
            self._source.take(_image(f"{attention}{part}_bias"), third) for part in "qv"
        )
        if query is not None and value is not None:
            self._put(name, Joined((query, Zeros(third, query.dtype), value)))

    def thirds(self, names: list[str], keys: list[str]) -> None:
        """One stacked projection → query, key and value."""
        rows, *rest = self._shapes[names[0]]
        stacked = self._source.take(keys, (3 * rows, *rest))
        for i, name in enumerate(names):
            self._put(name, stacked and Rows(stacked, i * rows, (i + 1) * rows))

    def transposed(self, name: str, keys: list[str]) -> None:
        rows, columns = self._shapes[name]
        matrix = self._source.take(keys, (columns, rows))
        self._put(name, matrix and Transposed(matrix))

    def _put(self, name: str, weight: Weight | None) -> None:
        if weight is not None:
            self.weights[self._prefix + name] = weight


def _shapes(module: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(parameter.shape) for name, parameter in module.named_parameters()}


def _image(name: str) -> list[str]:
    return [f"visual.trunk.{name}", f"visual.{name}"]  # the second in EVA-CLIP's own files


def _text(name: str) -> list[str]:
    return [f"text.{name}", name]  # the second where open_clip kept the towers in one module
