"""Configurations of a model's parts by their names: from a folder on this machine, else from the
catalogue, and only then from the hub."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from transformers import AutoConfig, CLIPTextConfig, InstructBlipConfig, PretrainedConfig

from gcg import catalogue
from gcg.errors import ModelError

# What `gcg convert` calls the file that describes its folder.
CONVERTED = "gcg_model.json"
CONVERTED_FORMAT = 1


def converted(checkpoint: str | None) -> dict[str, Any] | None:
    """What `gcg convert` wrote of a folder; None for any other checkpoint.

    Raises:
        ModelError: the description is damaged, or of another version.
    """
    if checkpoint is None or not (path := Path(checkpoint).expanduser() / CONVERTED).is_file():
        return None
    tree = _json(path)
    if tree.get("format") != CONVERTED_FORMAT:
        raise ModelError(
            f"{path}: format {tree.get('format')}, but this version reads {CONVERTED_FORMAT}; "
            "run `gcg convert` again"
        )
    return tree


def instructblip_config(name: str) -> InstructBlipConfig:
    """The configuration of ``model.checkpoint``.

    Raises:
        ModelError: it is not to be had, or is of another kind of model.
    """
    from gcg.weights.hub import fetch_file, known_file

    setting = "model.checkpoint"
    path = known_file(setting, name, "config.json")
    if path is None and name in catalogue.INSTRUCTBLIP:
        return InstructBlipConfig(
            qformer_config={"vocab_size": catalogue.QFORMER_VOCABULARY},
            text_config=catalogue.INSTRUCTBLIP[name],
            num_query_tokens=catalogue.NUM_QUERY_TOKENS,
        )
    path = path or fetch_file(setting, name, "config.json")
    tree = _json(path)
    if tree.get("model_type") not in ("instructblip", "instructblipvideo"):
        raise ModelError(
            f"{setting} = {name}: {path.name} says model_type {tree.get('model_type')}; must be "
            "an InstructBLIP, such as Salesforce/instructblip-flan-t5-xl, or what `gcg convert` "
            "wrote"
        )
    return InstructBlipConfig.from_dict(tree)


def clip_sizes(clip_checkpoint: str) -> dict[str, Any]:
    """open_clip's ``model_cfg``; EVA01-g-14's where no file says anything else."""
    from gcg.weights.hub import known_file

    path = known_file("model.clip_checkpoint", clip_checkpoint, "open_clip_config.json")
    if path is None:
        return catalogue.EVA01_G_14
    sizes = _json(path).get("model_cfg", {})
    if not {"embed_dim", "text_cfg"} <= set(sizes):
        raise ModelError(f"{path}: has no model_cfg with embed_dim and text_cfg, as open_clip's do")
    return sizes


def clip_text_config(sizes: Mapping[str, Any]) -> CLIPTextConfig:
    """The text tower of what :func:`clip_sizes` describes.

    Raises:
        ModelError: it is not CLIP's plain one.
    """
    text = sizes["text_cfg"]
    odd = set(text) - {"context_length", "vocab_size", "width", "heads", "layers"}
    if odd or sizes.get("quick_gelu"):
        raise ModelError(
            f"model.clip_checkpoint: a text tower with {', '.join(sorted(odd)) or 'quick_gelu'} is "
            "not CLIP's plain one; use EVA01-g-14"
        )
    vocabulary = text["vocab_size"]
    return CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=text["width"],
        intermediate_size=4 * text["width"],
        projection_dim=sizes["embed_dim"],
        num_hidden_layers=text["layers"],
        num_attention_heads=text["heads"],
        max_position_embeddings=text["context_length"],
        hidden_act="gelu",
        layer_norm_eps=1e-5,
        # The end mark has the highest id; open_clip finds it by arg max. It pads with 0, which
        # makes no difference to what stands before.
        bos_token_id=vocabulary - 2,
        eos_token_id=vocabulary - 1,
        pad_token_id=0,
    )


def sentence_config(name: str) -> PretrainedConfig:
    """The configuration of a BERT-like sentence encoder.

    Raises:
        ModelError: it is not to be had, or of a kind that transformers does not know.
    """
    from gcg.weights.hub import fetch_file

    setting = "model.features.text_encoder"
    path = fetch_file(setting, name, "config.json")
    try:
        return AutoConfig.from_pretrained(path, trust_remote_code=False)
    except (KeyError, ValueError, OSError):
        kind = _json(path).get("model_type")
        raise ModelError(
            f"{setting} = {name}: transformers knows no model_type {kind}; choose a BERT-like "
            "sentence encoder"
        ) from None


def llm_config(name: str) -> PretrainedConfig:
    """The configuration of ``model.llm.name``, a GGUF file included.

    Raises:
        ModelError: it is not to be had, or of a kind that transformers does not know.
    """
    from gcg.weights.hub import fetch_file, known_file, local_place
    from gcg.weights.llm import gguf_file

    setting = "model.llm.name"
    gguf = gguf_file(local_place(setting, name))
    if gguf is not None:
        return copy.deepcopy(_gguf_config(gguf.resolve(), gguf.stat().st_mtime_ns))
    path = known_file(setting, name, "config.json")
    if path is None and name in catalogue.LLMS:
        return AutoConfig.for_model(**catalogue.LLMS[name])
    path = path or fetch_file(setting, name, "config.json")
    kind = _json(path).get("model_type")
    try:
        return AutoConfig.from_pretrained(path, trust_remote_code=False).get_text_config()
    except (KeyError, ValueError, OSError):
        raise ModelError(
            f"{setting} = {name}: transformers knows no model_type {kind}; choose another LLM"
        ) from None


@lru_cache(maxsize=4)  # the file's vocabulary is parsed in Python: seconds
def _gguf_config(path: Path, changed: int) -> PretrainedConfig:
    from gcg.weights.llm import gguf_config

    return gguf_config(path)


def _json(path: Path) -> dict[str, Any]:
    try:
        tree = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: cannot be read as JSON ({error}); fetch it again") from None
    if not isinstance(tree, dict):
        raise ModelError(f"{path}: holds no JSON object; fetch it again")
    return tree
