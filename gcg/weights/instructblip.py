"""From an InstructBLIP checkpoint: the image trunk, the Q-Former, its projection to the LLM."""

from __future__ import annotations

import torch
from transformers import InstructBlipQFormerModel, InstructBlipVisionModel

from gcg.presets import Preset
from gcg.weights.lookup import Lookup
from gcg.weights.tensors import Weight


def trunk_weights(preset: Preset, source: Lookup) -> dict[str, Weight]:
    """``vision.trunk.*``."""
    with torch.device("meta"):
        trunk = InstructBlipVisionModel(preset.vision)
    return _renamed(trunk, source, "vision.trunk.", "vision_model.")


def reader_weights(preset: Preset, source: Lookup) -> dict[str, Weight]:
    """``reader.*`` without the temporal embedding, which is ours and starts fresh.

    The projection belongs to the checkpoint's own LLM; for any other it starts fresh, too.
    """
    with torch.device("meta"):
        qformer = InstructBlipQFormerModel(preset.qformer)
    found = _renamed(qformer, source, "reader.qformer.", "qformer.")
    width = preset.qformer.hidden_size
    more: dict[str, tuple[int, ...]] = {"query_tokens": (1, preset.num_query_tokens, width)}
    if preset.own_llm:
        more["projection.weight"] = (preset.llm_width, width)
        more["projection.bias"] = (preset.llm_width,)
    for name, shape in more.items():
        weight = source.take(_spellings(name.replace("projection", "language_projection")), shape)
        if weight is not None:
            found[f"reader.{name}"] = weight
    return found


def holds_language(key: str) -> bool:
    """Whether a tensor of an InstructBLIP checkpoint belongs to its LLM."""
    return "language_" in key or key == "lm_head.weight"


def _renamed(module: torch.nn.Module, source: Lookup, ours: str, theirs: str) -> dict[str, Weight]:
    found: dict[str, Weight] = {}
    for name, parameter in module.named_parameters():
        words = name == "embeddings.word_embeddings.weight"
        weight = source.take(_spellings(theirs + name), tuple(parameter.shape), more_rows=words)
        if weight is not None:
            found[ours + name] = weight
    return found


def _spellings(key: str) -> list[str]:
    return [key, f"model.{key}"]
