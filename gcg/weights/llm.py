"""The language model's weights: inside an InstructBLIP checkpoint, in a folder of its own, GGUF."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, PretrainedConfig

from gcg.errors import ModelError
from gcg.weights.lookup import Lookup
from gcg.weights.tensors import InMemory, Weight

# What may stand before an LLM's own names, older spellings last.
ALONE = ("", "model.", "language_model.", "model.language_model.")
INSIDE = ("language_model.", "model.language_model.")


def llm_weights(config: PretrainedConfig, source: Lookup, prefixes: tuple[str, ...]) -> dict:
    """Weights by the names of transformers' class for ``config``; tied ones by the first name.

    ``prefixes``: what the checkpoint puts before these names (``ALONE``, ``INSIDE``).
    """
    found: dict[str, Weight] = {}
    model = on_meta(config)
    vocabulary = {id(part.weight) for part in _word_tables(model)}
    for names, parameter in _tied_groups(model):
        keys = [key for name in names for key in _spellings(name, prefixes)]
        weight = source.take(keys, tuple(parameter.shape), more_rows=id(parameter) in vocabulary)
        if weight is not None:
            found[names[0]] = weight
    return found


def gguf_config(path: Path) -> PretrainedConfig:
    """Sizes of a GGUF file's model.

    Raises:
        ModelError: transformers cannot read it.
    """
    return _gguf(path, lambda: AutoConfig.from_pretrained(path.parent, gguf_file=path.name))


def gguf_weights(config: PretrainedConfig, path: Path) -> dict[str, Weight]:
    """Weights of a GGUF file, dequantised, whole and in memory: float32, 4 bytes a parameter.

    Raises:
        ModelError: transformers cannot read it.
    """
    model = _gguf(
        path,
        lambda: _auto(config).from_pretrained(
            path.parent, gguf_file=path.name, dtype=torch.float32
        ),
    )
    return {name: InMemory(parameter.data) for name, parameter in model.named_parameters()}


def gguf_file(place: Path | None) -> Path | None:
    """The GGUF file that a place is, or holds as its only weights."""
    if place is None or place.is_file():
        return place if place is not None and place.suffix == ".gguf" else None
    if any(place.glob("*.safetensors")) or any(place.glob("*.bin")):
        return None
    files = sorted(place.glob("*.gguf"))
    if len(files) > 1:
        raise ModelError(
            f"model.llm.name = {place}: holds {len(files)} GGUF files; name one of them, such as "
            f"{files[0]}"
        )
    return files[0] if files else None


def on_meta(config: PretrainedConfig) -> Any:
    """The LLM without weights, for its names and shapes.

    Raises:
        ModelError: transformers has no generating class for this configuration.
    """
    auto = _auto(config)
    try:
        with torch.device("meta"):
            return auto.from_config(config)
    except ValueError:
        raise ModelError(
            f"model.llm.name: transformers cannot generate text with a {config.model_type}; "
            "choose an encoder-decoder or a decoder-only language model"
        ) from None


def _gguf(path: Path, read: Callable[[], Any]) -> Any:
    try:
        return read()
    except ImportError as error:
        raise ModelError(f"{path}: {error}; pip install gguf accelerate") from None
    except (ValueError, OSError, RuntimeError, LookupError, TypeError) as error:
        raise ModelError(
            f"{path}: transformers cannot read this GGUF file ({str(error).splitlines()[:1]}); "
            "give the model's folder of safetensors"
        ) from None


def _auto(config: PretrainedConfig) -> Any:
    return AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM


def _word_tables(model: Any) -> list[Any]:
    tables = [model.get_input_embeddings(), model.get_output_embeddings()]
    return [table for table in tables if table is not None]


def _tied_groups(model: nn.Module) -> Iterator[tuple[list[str], nn.Parameter]]:
    """Each parameter with all its names, the one that ``named_parameters`` gives first."""
    groups: dict[int, tuple[list[str], nn.Parameter]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        groups.setdefault(id(parameter), ([], parameter))[0].append(name)
    yield from groups.values()


def _spellings(name: str, prefixes: tuple[str, ...]) -> Iterator[str]:
    """Where a checkpoint may have put one parameter: with or without the class's own ``model.``."""
    for prefix in prefixes:
        yield prefix + name
    if name.startswith("model."):
        for prefix in prefixes:
            yield prefix + name.removeprefix("model.")
    if name == "lm_head.weight":
        yield name  # newer transformers keep the head outside of the language model
