"""What is wrong with a run's model, seen without a worker: sizes, tokenizers, files of weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from gcg.build import build_skeleton, used_parts
from gcg.config import GCGConfig
from gcg.errors import ModelError
from gcg.tokens import load_tokens
from gcg.weights import fetch_sources, weight_map
from gcg.weights.hub import local_place
from gcg.weights.llm import gguf_file


def model_problems(model: GCGConfig) -> Iterator[str]:
    """Lines on what keeps the model from being built, each from the setting on.

    It is built without weights, in a second or two. Where its checkpoints are files of this
    machine, their tensors' names and shapes are compared and their tokenizers loaded, too. What
    comes from the hub is left to the workers, which may have it in a cache of their own.
    """
    checks: tuple[Callable[[GCGConfig], object], ...] = (build_skeleton, _open_files)
    for check in checks:
        try:
            check(model)
        except ModelError as error:
            yield from (from_setting(line, model) for line in error.lines)
            return  # the next check would say it again
        except ValueError as error:
            yield from_setting(" ".join(str(error).split()), model)
            return


def model_problems_here(model: GCGConfig) -> Iterator[str]:
    """As :func:`model_problems` where all that the model names lies on this machine, or it names
    nothing; else nothing is said: the workers may have what is not here."""
    if all(Path(name).expanduser().exists() for name in named_checkpoints(model).values()):
        yield from model_problems(model)


def named_checkpoints(model: GCGConfig) -> dict[str, str]:
    """The settings that name a checkpoint, where one is read."""
    used = {
        "model.llm.name": model.llm.name,
        "model.features.text_encoder": model.features.text_encoder,
    }
    if model.preset == "instructblip":
        used |= {
            "model.clip_checkpoint": model.clip_checkpoint,
            "model.checkpoint": model.checkpoint,
        }
    return {setting: name for setting, name in used.items() if name is not None}


def _open_files(model: GCGConfig) -> None:
    named = named_checkpoints(model).items()
    if any(local_place(setting, name) is None for setting, name in named):
        return
    load_tokens(model)
    # A GGUF file was read whole for its sizes: it is there, and of one piece.
    if gguf_file(fetch_sources(model, ("answerer.llm",)).llm) is None:
        weight_map(model, used_parts(model))


def from_setting(line: str, model: GCGConfig) -> str:
    """A line on the model, with the setting it is about in front if it began with a file."""
    if line.startswith("model."):
        return line
    for setting, name in named_checkpoints(model).items():
        if str(Path(name).expanduser()) in line:
            return f"{setting} = {name}: {line}"
    return f"model.preset = {model.preset}: {line}"
