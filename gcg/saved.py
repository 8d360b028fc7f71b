"""What lies in the folder of a saved model, apart from its weights.

::

    config.json                 how the model was configured, and which weights are here
    gcg_model.json              sizes of its parts (preset instructblip; also `gcg convert`)
    tokenizer.json, ...         the LLM's tokenizer; qformer_tokenizer/, clip_tokenizer/
    llm/, text_encoder/         configuration and tokenizer of a part with a name of its own
    model.safetensors           weights under the model's names; large ones in shards
    adapter/                    LoRA as peft writes it: loads on the plain language model
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError
from transformers import PretrainedConfig

from gcg.config import GCGConfig
from gcg.errors import ModelError
from gcg.part_configs import CONVERTED, CONVERTED_FORMAT, converted
from gcg.presets import Preset, resolve_preset
from gcg.tokens import load_tokenizers, sentence_tokenizer
from gcg.weights.hub import fetch, local_place

CONFIG, ADAPTER, LLM, TEXT_ENCODER = "config.json", "adapter", "llm", "text_encoder"
FORMAT = 1
Parts = Literal["trained", "all", "merged"]


@dataclass(frozen=True)
class SavedModel:
    """A folder that :mod:`gcg.saving` wrote.

    ``config``: of the run, with the places its public checkpoints had; ``parts``: ``trained``, or
    ``all`` and ``merged``, which need no other place.
    """

    folder: Path
    config: GCGConfig
    parts: Parts

    @property
    def local(self) -> GCGConfig:
        """The configuration with all sizes and tokenizers read from the folder."""
        config, folder = self.config, self.folder
        if (folder / CONVERTED).is_file():
            config = config.model_copy(update={"checkpoint": str(folder)})
        if (folder / LLM / CONFIG).is_file() and config.llm.quantize == "none":
            llm = config.llm.model_copy(update={"name": str(folder / LLM)})
            config = config.model_copy(update={"llm": llm})
        if (folder / TEXT_ENCODER / CONFIG).is_file():
            place = str(folder / TEXT_ENCODER)
            features = config.features.model_copy(update={"text_encoder": place})
            config = config.model_copy(update={"features": features})
        return config


def read_saved(place: str | Path) -> SavedModel:
    """The description of a saved model, a folder or a hub name.

    Raises:
        ModelError: it is none, is damaged, or was written by another version.
    """
    name = str(place)
    folder = local_place("model", name) or fetch("model", name, needs=(CONFIG,))
    path = folder / CONFIG
    if not path.is_file():
        raise ModelError(
            f"{place}: holds no {CONFIG}, so it is no exported model; give what `gcg export RUN "
            "--to DIR` wrote"
        )
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
        if tree.get("model_type") != "gcg":
            raise ModelError(
                f"{path}: model_type {tree.get('model_type')!r}: must be gcg; give what `gcg "
                "export` wrote"
            )
        if tree["format"] != FORMAT:
            raise ModelError(
                f"{path}: format {tree['format']}, but this version reads {FORMAT}; export again"
            )
        parts = tree["parts"]
        if parts not in ("trained", "all", "merged"):
            raise ValueError(f"parts {parts!r}")
        return SavedModel(folder, GCGConfig.model_validate(tree["gcg"]), parts)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, ModelError):
            raise
        raise ModelError(f"{path}: cannot be read ({_reason(error)}); export again") from None


def write_saved(config: GCGConfig, parts: Parts, more: Mapping[str, Any], folder: Path) -> None:
    """Everything but the weights, into an empty folder.

    Args:
        config: the run's; its files must be on this machine.
        parts: which weights there will be.
        more: further entries of ``config.json``, for readers.
        folder: is there.
    """
    preset, shown = resolve_preset(config), placed(config, parts)
    if config.preset == "instructblip":
        write_parts(config, preset, folder, shown)
    elif config.llm.name is not None:
        (folder / LLM).mkdir()
        preset.llm.save_pretrained(folder / LLM)
    for name, tokenizer in load_tokenizers(config).items():
        named = not name and config.preset == "tiny" and config.llm.name is not None
        tokenizer.save_pretrained(folder / (LLM if named else name))
    if config.features.text_encoder is not None:
        (folder / TEXT_ENCODER).mkdir()
        preset.text.save_pretrained(folder / TEXT_ENCODER)
        tokenizer = sentence_tokenizer(config.features.text_encoder)
        tokenizer.save_pretrained(folder / TEXT_ENCODER)
    tree = {
        "model_type": "gcg",
        "architectures": ["GCGModel"],
        "format": FORMAT,
        "parts": parts,
        **more,
        "gcg": shown.model_dump(mode="json"),
    }
    _write(folder / CONFIG, tree)


def write_parts(
    config: GCGConfig, preset: Preset, folder: Path, shown: GCGConfig | None = None
) -> None:
    """The sizes of a model's parts, so that no public checkpoint is needed for them.

    ``shown``: with the names that they are to be known by; None: those of ``config``.
    """
    shown = shown or config
    before = converted(config.checkpoint) or {"made_from": {}}
    _write(
        folder / CONVERTED,
        {
            "format": CONVERTED_FORMAT,
            "made_from": {
                "checkpoint": shown.checkpoint,
                "clip_checkpoint": shown.clip_checkpoint,
                "llm": shown.llm.name or before["made_from"].get("llm"),
            },
            "own_llm": preset.own_llm,
            "joint_width": preset.joint_width,
            "num_query_tokens": preset.num_query_tokens,
            "vision": _tree(preset.vision),
            "text": _tree(preset.text),
            "qformer": _tree(preset.qformer),
            "llm": _tree(preset.llm),
        },
    )


def placed(config: GCGConfig, parts: Parts) -> GCGConfig:
    """With absolute places, so that the folder may be read from anywhere on this machine; of what
    is in the folder itself with bare names, for nobody else has these places."""

    def place_of(name: str | None) -> str | None:
        try:
            place = None if name is None else local_place("model", name)
        except ModelError:  # a folder that is not there any more
            return name
        if place is None:
            return name
        return str(place.absolute()) if parts == "trained" else place.name

    features = {"text_encoder": place_of(config.features.text_encoder)}
    return config.model_copy(
        update={
            "checkpoint": place_of(config.checkpoint),
            "clip_checkpoint": place_of(config.clip_checkpoint),
            "llm": config.llm.model_copy(update={"name": place_of(config.llm.name)}),
            "features": config.features.model_copy(update=features),
        }
    )


def _tree(config: PretrainedConfig) -> dict[str, Any]:
    return json.loads(config.to_json_string(use_diff=False))


def _write(path: Path, tree: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(tree, indent=2) + "\n", encoding="utf-8")


def _reason(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"gcg.{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return f"{type(error).__name__}: {error}"
