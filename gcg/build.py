"""Build a model from its configuration: every part from its own seed, the encoders from assets."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Collection, Iterator, Mapping
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import nn

from gcg.answering import build_answerer
from gcg.config import GCGConfig
from gcg.first_weights import first_weights, seeded
from gcg.llm import build_llm
from gcg.model import GCGModel
from gcg.presets import resolve_preset
from gcg.profiles import resolve_profile
from gcg.reader import FrameReader
from gcg.selection import GroundingSelector, OracleSelector, Selector, UniformSelector
from gcg.skeleton import materialise, skeleton
from gcg.text import SentenceTower, TextTower, build_text
from gcg.tokens import TokenSet, load_tokens
from gcg.vision import VisionTower
from gcg.weights import Weight, fetch_sources, weight_map
from gcg.weights.sources import PARTS
from gcg.weights.tensors import InMemory

_ENCODERS = ("vision", "text")
_SAMPLE = 256  # values of each weight that an encoder is known by


def build_model(
    config: GCGConfig,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> GCGModel:
    """A whole model: the checkpoint's weights, and fresh ones where it has none.

    Fresh parts draw their first weights from (seed, their name): runs in different modes start
    from the same Q-Former and LLM. Every weight goes straight from its file into its place, cast
    to ``dtype``; there is no second copy of the model at any time.

    Raises:
        ModelError: the checkpoint is of another model.
    """
    fetch_sources(config, used_parts(config))
    model = assemble(config, load_tokens(config), seed, load_quantised=True)
    materialise(model, model_weights(model, config, seed), dtype, device)
    return model


def build_skeleton(config: GCGConfig, tokens: TokenSet | None = None) -> GCGModel:
    """The model with its parameters on the meta device, its buffers real: any size, no weights.

    Without ``tokens`` it can be measured, but not run: it does not know how its LLM is addressed.
    Sizes are those of files that are on this machine, so where the weights are to follow, call
    :func:`gcg.weights.fetch_sources` before.
    """
    return assemble(config, tokens, 0, load_quantised=False)


def assemble(
    config: GCGConfig, tokens: TokenSet | None, seed: int, *, load_quantised: bool
) -> GCGModel:
    """A skeleton; ``load_quantised``: with the weights of an LLM that is quantised as it loads."""
    makers = part_makers(config, seed)
    parts: dict[str, Any] = {}
    for path, make in makers.items():
        if path == "answerer.llm" and config.llm.quantize != "none" and load_quantised:
            parts[path] = make()  # it is quantised on its way onto the GPU: with its weights
        else:
            parts[path] = skeleton(make)
    profile = resolve_profile(config)
    contrast = None
    if config.mode == "grounding":
        contrast = parts.get("contrast") or profile.contrast(resolve_preset(config).joint_width)
    return GCGModel(
        config,
        profile,
        parts["vision"].eval() if "vision" in parts else None,
        parts["text"].eval(),
        parts.get("generator"),
        contrast,
        build_selector(config),
        parts["reader"],
        build_answerer(
            parts["answerer.llm"],
            tokens.prefix_ids if tokens else (),
            tokens.end_ids if tokens else (),
        ),
    )


def model_weights(model: nn.Module, config: GCGConfig, seed: int) -> Iterator[tuple[str, Weight]]:
    """Names and first values of a skeleton's parameters, one after another."""
    untrained = {"generator", "contrast"}
    if config.preset == "tiny":
        untrained.add("reader")
        if config.llm.name is None:
            untrained.add("answerer.llm")
    parts = used_parts(config)
    if config.llm.quantize != "none":  # the LLM has its weights already
        parts = tuple(path for path in parts if path != "answerer.llm")
    loaded = stored_weights(config, parts)
    return first_weights(model, part_makers(config, seed), loaded, seed, untrained)


def part_makers(config: GCGConfig, seed: int = 0) -> dict[str, Callable[[], nn.Module]]:
    """What makes the module at each path of a model; ``seed`` is for an LLM's adapters."""
    preset, profile = resolve_preset(config), resolve_profile(config)
    makers: dict[str, Callable[[], nn.Module]] = {}
    if config.input == "video":
        makers["vision"] = lambda: VisionTower(preset.vision, preset.joint_width)
    makers |= {
        "text": lambda: build_text(preset.text),
        "reader": lambda: FrameReader(
            preset.qformer, preset.num_query_tokens, config.num_moments, preset.llm_width
        ),
        "answerer.llm": lambda: build_llm(config, preset.llm, seed),
    }
    if config.mode == "grounding":
        makers["generator"] = lambda: profile.generator(preset.joint_width)
        contrast = seeded("contrast", seed, lambda: profile.contrast(preset.joint_width))
        if isinstance(contrast, nn.Module):  # not every profile's loss has weights
            makers["contrast"] = lambda: cast(nn.Module, profile.contrast(preset.joint_width))
    return makers


def build_encoders(
    config: GCGConfig, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> tuple[VisionTower | None, TextTower | SentenceTower]:
    """The frozen image and text towers with their trained weights, in eval mode; no image tower
    where frames come as features."""
    encoders = [path for path in used_parts(config) if path in _ENCODERS]
    fetch_sources(config, encoders)
    makers = {path: make for path, make in part_makers(config).items() if path in encoders}
    towers = nn.ModuleDict({path: skeleton(make) for path, make in makers.items()})
    values = first_weights(towers, makers, stored_weights(config, encoders), 0, untrained=())
    materialise(towers.requires_grad_(False), values, dtype, device)
    built = dict(towers.eval().named_children())
    vision, text = built.get("vision"), built["text"]
    assert vision is None or isinstance(vision, VisionTower)
    assert isinstance(text, (TextTower, SentenceTower))
    return vision, text


def used_parts(config: GCGConfig) -> tuple[str, ...]:
    """The parts of a model whose weights come from checkpoints."""
    return tuple(path for path in PARTS if path != "vision" or config.input == "video")


def build_selector(config: GCGConfig) -> Selector:
    """The object that chooses frames in this mode."""
    if config.mode == "uniform":
        return UniformSelector(config.num_moments)
    if config.mode == "oracle":
        return OracleSelector(config.num_moments)
    noise = config.grounding
    return GroundingSelector(
        config.num_moments,
        noise.noise_samples,
        noise.noise_scale,
        diagonal=resolve_profile(config).diagonal_gradient,
    )


def load_tokenizer(config: GCGConfig) -> Tokenizer:
    """The preset's tokenizer (one for CLIP text, Q-Former and LLM in ``tiny``)."""
    with as_file(_asset(f"{config.preset}_tokenizer.json")) as path:
        return Tokenizer.from_file(str(path))


def encoder_fingerprint(config: GCGConfig) -> str:
    """Names the frozen image-text encoder: pseudo-labels hold only for the one that made them.

    Of a checkpoint, the first values of every encoder weight are hashed: reading all takes minutes.
    Features that `gcg extract` made go under the name of what made them.
    """
    digest = hashlib.sha256()
    if config.features.text_encoder is not None:
        _digest(digest, weight_map(config, ("text",)))
        return f"sentence-{digest.hexdigest()[:16]}"
    config = config.reading_video()
    if config.preset == "tiny":
        for name in ("tiny_encoder.safetensors", "tiny_tokenizer.json"):
            digest.update(_asset(name).read_bytes())
    else:
        _digest(digest, stored_weights(config, _ENCODERS))
    return f"{config.preset}-{digest.hexdigest()[:16]}"


def _digest(digest: Any, weights: Mapping[str, Weight]) -> None:
    for name, values in sorted(weights.items()):
        size = min(_SAMPLE, math.prod(values.shape))
        digest.update(f"{name} {tuple(values.shape)}".encode())
        digest.update(values.flat(0, size).float().numpy().tobytes())


def stored_weights(config: GCGConfig, parts: Collection[str]) -> dict[str, Weight]:
    """What files have of a model's weights, by the model's names."""
    loaded: dict[str, Weight] = {}
    if config.preset == "tiny":
        with as_file(_asset("tiny_encoder.safetensors")) as path:
            loaded |= {name: InMemory(value) for name, value in load_file(path).items()}
    return loaded | weight_map(config, parts)


def _asset(name: str) -> Path:
    return files("gcg.assets") / name  # type: ignore[return-value]
