"""The checkpoints of a model, brought to this machine."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from gcg.config import GCGConfig
from gcg.part_configs import converted
from gcg.presets import llm_in_checkpoint
from gcg.weights.files import OPEN_CLIP
from gcg.weights.hub import fetch
from gcg.weights.instructblip import holds_language

PARTS = ("vision", "text", "reader", "answerer.llm")


@dataclass(frozen=True)
class Sources:
    """Local places: the checkpoint's folder, CLIP's folder or file, a named LLM's folder or file, a
    sentence encoder's folder.

    None where nothing is read from such a source.
    """

    checkpoint: Path | None
    clip: Path | None
    llm: Path | None
    text: Path | None = None


def fetch_sources(config: GCGConfig, parts: Collection[str] = PARTS) -> Sources:
    """Bring what these parts need to this machine; downloads nothing that is here already.

    Call it before a model is built: sizes are then read from the files themselves.

    Raises:
        ModelError: a file is not to be had, and why.
    """
    checkpoint = clip = llm = text = None
    sentences = config.features.text_encoder
    if sentences is not None and "text" in parts:
        parts = set(parts) - {"text"}
        text = fetch("model.features.text_encoder", sentences, needs=("config.json",))
    own_llm = llm_in_checkpoint(config)
    if config.preset == "instructblip":
        assert config.checkpoint is not None
        if converted(config.checkpoint) is not None:
            checkpoint = Path(config.checkpoint).expanduser()
        else:
            checkpoint = fetch(
                "model.checkpoint",
                config.checkpoint,
                needs=("config.json",),
                wanted=wanted_of_checkpoint(config, parts),
            )
            if {"vision", "text"} & set(parts):
                clip = fetch("model.clip_checkpoint", config.clip_checkpoint, OPEN_CLIP)
    if not own_llm and "answerer.llm" in parts:
        assert config.llm.name is not None
        llm = fetch("model.llm.name", config.llm.name)
    return Sources(checkpoint, clip, llm, text)


def wanted_of_checkpoint(
    config: GCGConfig, parts: Collection[str] = PARTS
) -> Callable[[str], bool]:
    """Which tensors of an InstructBLIP checkpoint are read: its LLM's only where that is used."""
    with_llm = llm_in_checkpoint(config) and bool({"reader", "answerer.llm"} & set(parts))
    return lambda key: with_llm or not holds_language(key)
