"""Build a model from its configuration: every part from its own seed, the encoders from assets."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from importlib.resources import as_file, files
from pathlib import Path
from typing import TypeVar

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import nn
from transformers import T5ForConditionalGeneration

from gcg.answering import Answerer, FrameReader
from gcg.config import GCGConfig
from gcg.generator import GaussianGenerator
from gcg.model import GCGModel
from gcg.presets import PRESETS
from gcg.selection import GroundingSelector, OracleSelector, Selector, UniformSelector
from gcg.text import TextTower
from gcg.vision import VisionTower

Part = TypeVar("Part", bound=nn.Module)


def build_model(config: GCGConfig, seed: int = 0) -> GCGModel:
    """A model with fresh trained parts and the preset's frozen encoders.

    Each part draws its first weights from (seed, its name): runs in different modes start from the
    same Q-Former and LLM.
    """
    preset = PRESETS[config.preset]()
    vision, text = build_encoders(config)
    generator = None
    if config.mode == "grounding":
        generator = _seeded(
            "generator",
            seed,
            lambda: GaussianGenerator(
                config.grounding, preset.joint_width, config.num_frames, config.num_moments
            ),
        )
    reader = _seeded(
        "reader",
        seed,
        lambda: FrameReader(
            preset.qformer, preset.num_query_tokens, config.num_moments, preset.llm.d_model
        ),
    )
    llm = _seeded("llm", seed, lambda: T5ForConditionalGeneration(preset.llm))
    return GCGModel(config, vision, text, generator, build_selector(config), reader, Answerer(llm))


def build_encoders(config: GCGConfig) -> tuple[VisionTower, TextTower]:
    """The frozen image and text towers with their trained weights, in float32, eval mode."""
    preset = PRESETS[config.preset]()
    vision = _seeded("vision", 0, lambda: VisionTower(preset.vision, preset.joint_width))
    text = _seeded("text", 0, lambda: TextTower(preset.text))
    towers = nn.ModuleDict({"vision": vision, "text": text})
    with as_file(_asset(f"{config.preset}_encoder.safetensors")) as path:
        state = {name: value.float() for name, value in load_file(path).items()}
    missing, unexpected = towers.load_state_dict(state, strict=False)
    assert not unexpected, unexpected
    assert all("position_ids" in name for name in missing), missing
    return vision.eval(), text.eval()


def build_selector(config: GCGConfig) -> Selector:
    """The object that chooses frames in this mode."""
    if config.mode == "uniform":
        return UniformSelector(config.num_moments)
    if config.mode == "oracle":
        return OracleSelector(config.num_moments)
    noise = config.grounding
    return GroundingSelector(config.num_moments, noise.noise_samples, noise.noise_scale)


def load_tokenizer(config: GCGConfig) -> Tokenizer:
    """The preset's tokenizer (one for CLIP text, Q-Former and LLM in ``tiny``)."""
    with as_file(_asset(f"{config.preset}_tokenizer.json")) as path:
        return Tokenizer.from_file(str(path))


def encoder_fingerprint(config: GCGConfig) -> str:
    """Names the frozen image-text encoder: pseudo-labels hold only for the one that made them."""
    digest = hashlib.sha256()
    for name in (f"{config.preset}_encoder.safetensors", f"{config.preset}_tokenizer.json"):
        digest.update(_asset(name).read_bytes())
    return f"{config.preset}-{digest.hexdigest()[:16]}"


def _asset(name: str) -> Path:
    return files("gcg.assets") / name  # type: ignore[return-value]


def _seeded(name: str, seed: int, make: Callable[[], Part]) -> Part:
    digest = hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=7).digest()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int.from_bytes(digest, "big"))
        return make()
