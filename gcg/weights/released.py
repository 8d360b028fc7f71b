"""From a checkpoint of the authors' released code: the grounding module, and the Q-Former."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from gcg.config import GCGConfig
from gcg.errors import ModelError
from gcg.presets import resolve_preset
from gcg.weights.instructblip import reader_weights
from gcg.weights.lookup import Lookup
from gcg.weights.tensors import Weight

Value = TypeVar("Value")

_BLOCK = {
    "attention.q_lin": "query",
    "attention.k_lin": "key",
    "attention.v_lin": "value",
    "attention.out_lin": "out",
    "sa_layer_norm": "attention_norm",
    "ffn.lin1": "ffn_in",
    "ffn.lin2": "ffn_out",
    "output_layer_norm": "ffn_norm",
}
_MODULES = {
    "embedding.1": "generator.embed",
    "modality_embedding.modality_embedding": "generator.kinds",
    "position_v.position_embeddings": "generator.positions",
    "satt_pool_frame.0": "generator.pool.0",
    "satt_pool_frame.2": "generator.pool.2",
    "logit_gauss_c.1": "generator.centers",
    "proj_head.1": "contrast.inner",
    "proj_head.3": "contrast.outer",
}
# What tells the sizes of a grounding module: matrices.
_SIZES = ("generator.embed.weight", "generator.positions.weight", "generator.centers.weight")
_SHOWN = 8
_LAYER = "encoder.layer."
_MARK = "logit_gauss_c.1.weight"


def grounding_prefix(names: Mapping[str, object]) -> str | None:
    """What stands before the grounding module's own names; None where there is no such module."""
    return next((name.removesuffix(_MARK) for name in names if name.endswith(_MARK)), None)


def renamed(tensors: Mapping[str, Value], prefix: str = "") -> dict[str, Value]:
    """The grounding module's tensors under our names, ``generator.*`` and ``contrast.*``.

    Args:
        tensors: a checkpoint's, by its own names; those of other modules are left out.
        prefix: of the module's names (:func:`grounding_prefix`).
    """
    found: dict[str, Value] = {}
    for name, value in tensors.items():
        if not name.startswith(prefix):
            continue
        module, _, kind = name.removeprefix(prefix).rpartition(".")
        if module in _MODULES:
            found[f"{_MODULES[module]}.{kind}"] = value
        elif module.startswith(_LAYER):
            number, _, rest = module.removeprefix(_LAYER).partition(".")
            if rest in _BLOCK:
                found[f"generator.blocks.{number}.{_BLOCK[rest]}.{kind}"] = value
    return found


def misfits(found: Mapping[str, Weight], config: GCGConfig) -> list[str]:
    """A line for each setting of the configuration that the module's sizes contradict, or for each
    tensor that they are read from and that is not there, or is none."""
    lines = [
        f"{name}: {_what(found.get(name))}, but must be a matrix; give the whole checkpoint"
        for name in _SIZES
        if name not in found or len(found[name].shape) != 2
    ]
    if lines:
        return lines
    grounding, preset = config.grounding, resolve_preset(config)
    layers = {name.split(".")[2] for name in found if name.startswith("generator.blocks.")}
    width, joint = found["generator.embed.weight"].shape
    rules = (
        ("model.num_frames", config.num_frames, found["generator.positions.weight"].shape[0]),
        ("model.num_moments", config.num_moments, found["generator.centers.weight"].shape[0]),
        ("model.grounding.width", grounding.width or preset.joint_width // 4, width),
        ("model.grounding.num_layers", grounding.num_layers, len(layers)),
    )
    lines = [
        f"{name} = {ours}: the checkpoint's grounding module has {theirs}; set it to that"
        for name, ours, theirs in rules
        if ours != theirs
    ]
    if joint != preset.joint_width:
        lines.append(
            f"model.clip_checkpoint: its joint space has width {preset.joint_width}, the "
            f"checkpoint's grounding module reads {joint}; give the CLIP model it was trained with"
        )
    if config.profile != "released":
        lines.append(f"model.profile = {config.profile}: must be released, as this checkpoint is")
    if grounding.question_similarity:
        lines.append(
            "model.grounding.question_similarity = true: the checkpoint has no such input; use "
            "false"
        )
    return lines


def _what(weight: Weight | None) -> str:
    return "is not in the checkpoint" if weight is None else f"has the shape {weight.shape}"


def reader_of(tensors: dict[str, Weight], config: GCGConfig) -> dict[str, Weight]:
    """The trained Q-Former, query tokens and projection, where the checkpoint has them by the
    names of transformers' InstructBLIP; else nothing: the public ones stay.

    Raises:
        ModelError: it has a part of them only, or of other sizes.
    """
    preset = resolve_preset(config)
    ends = [name for name in tensors if name.endswith("query_tokens")]
    if not ends or config.preset == "tiny":
        return {}
    prefix = ends[0].removesuffix("query_tokens")
    own = {n.removeprefix(prefix): w for n, w in tensors.items() if n.startswith(prefix)}
    source = Lookup(Path(prefix or "checkpoint"), own, "give the whole checkpoint")
    found = reader_weights(preset, source)
    if not any(name.startswith("reader.qformer.") for name in found):
        return {}
    if source.problems:
        raise ModelError(source.problems[:_SHOWN])
    return found
