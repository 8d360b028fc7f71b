"""Which weight of a model lies where: by the model's own names, over all checkpoints it needs."""

from __future__ import annotations

import logging
from collections.abc import Collection
from pathlib import Path

import torch

from gcg.config import GCGConfig
from gcg.errors import ModelError
from gcg.part_configs import converted
from gcg.presets import Preset, llm_in_checkpoint, resolve_preset
from gcg.text import SentenceTower
from gcg.weights.files import OPEN_CLIP, read_checkpoint, weight_files
from gcg.weights.instructblip import reader_weights, trunk_weights
from gcg.weights.llm import ALONE, INSIDE, gguf_file, gguf_weights, llm_weights
from gcg.weights.lookup import Lookup
from gcg.weights.open_clip import joint_head_weights, text_weights
from gcg.weights.sources import PARTS, Sources, fetch_sources, wanted_of_checkpoint
from gcg.weights.tensors import Weight, whole

log = logging.getLogger(__name__)

LLM = "answerer.llm."
SHOWN = 8  # of the problems of one checkpoint
SAME_TRUNK = 0.05  # relative difference that half precision cannot explain


def weight_map(config: GCGConfig, parts: Collection[str] = PARTS) -> dict[str, Weight]:
    """Every parameter that a checkpoint has, by the model's own name.

    Names that are not in it start fresh: the generator, the temporal embedding, the projection to
    an LLM that is not the checkpoint's own. An LLM's names are those without adapters; of tied
    parameters the name that ``named_parameters`` gives stands for all. Of the ``tiny`` preset only
    a named LLM's weights are in it: its encoders ship with the package.

    Args:
        config: the model.
        parts: of ``vision``, ``text``, ``reader`` and ``answerer.llm``, those that are wanted; no
            other part's files are looked for.

    Raises:
        ModelError: files are missing, or hold other shapes or names than this model's.
    """
    sources = fetch_sources(config, parts)
    preset = resolve_preset(config)  # now that the files are here, from them
    found: dict[str, Weight] = {}
    problems: list[str] = []
    if sources.text is not None:
        found |= _sentence_encoder(preset, sources.text, problems)
        parts = tuple(part for part in parts if part != "text")
    if sources.checkpoint is not None:
        if converted(config.checkpoint) is not None:
            found |= _converted(config, preset, sources.checkpoint, parts, problems)
        else:
            found |= _public(config, preset, sources, parts, problems)
    if sources.llm is not None:
        found |= _own_folder(preset, sources.llm, problems)
    if problems:
        more = len(problems) - SHOWN
        raise ModelError(problems[:SHOWN] + ([f"... and {more} more"] if more > 0 else []))
    return found


def _public(
    config: GCGConfig,
    preset: Preset,
    sources: Sources,
    parts: Collection[str],
    problems: list[str],
) -> dict[str, Weight]:
    assert sources.checkpoint is not None
    found: dict[str, Weight] = {}
    if {"vision", "reader", "answerer.llm"} & set(parts):
        tensors = read_checkpoint(sources.checkpoint, wanted=wanted_of_checkpoint(config, parts))
        base = Lookup(
            _shown(sources.checkpoint),
            tensors,
            "give the folder of an InstructBLIP checkpoint, whole",
        )
        if "vision" in parts:
            found |= trunk_weights(preset, base)
        if "reader" in parts:
            found |= reader_weights(preset, base)
        if "answerer.llm" in parts and llm_in_checkpoint(config):
            own = llm_weights(preset.llm, base, INSIDE)
            found |= {LLM + name: weight for name, weight in own.items()}
        base.log_unused()
        problems += base.problems
    if sources.clip is not None:
        tensors = read_checkpoint(sources.clip, OPEN_CLIP)
        clip = Lookup(
            _shown(sources.clip, OPEN_CLIP), tensors, "model.clip_checkpoint must be EVA01-g-14's"
        )
        if "vision" in parts:
            found |= joint_head_weights(preset, clip)
            _compare_trunks(found, clip)
        if "text" in parts:
            found |= text_weights(preset, clip)
        clip.log_unused()
        problems += clip.problems
    return found


def _sentence_encoder(preset: Preset, folder: Path, problems: list[str]) -> dict[str, Weight]:
    """``text.encoder.*``, a folder that transformers wrote."""
    with torch.device("meta"):
        wanted = SentenceTower(preset.text)
    source = _lookup(folder, "give the folder of one sentence encoder, whole")
    found: dict[str, Weight] = {}
    for name, parameter in wanted.encoder.named_parameters():
        kind = preset.text.model_type
        weight = source.take([name, f"{kind}.{name}"], tuple(parameter.shape))
        if weight is not None:
            found[f"text.encoder.{name}"] = weight
    source.log_unused()
    problems += source.problems
    return found


def _own_folder(preset: Preset, place: Path, problems: list[str]) -> dict[str, Weight]:
    gguf = gguf_file(place)
    if gguf is not None:
        weights = gguf_weights(preset.llm, gguf)
    else:
        source = _lookup(place, "give the folder of one language model, whole")
        weights = llm_weights(preset.llm, source, ALONE)
        source.log_unused()
        problems += source.problems
    return {LLM + name: weight for name, weight in weights.items()}


def _converted(
    config: GCGConfig,
    preset: Preset,
    folder: Path,
    parts: Collection[str],
    problems: list[str],
) -> dict[str, Weight]:
    """What `gcg convert` wrote has our names already."""
    with_llm = llm_in_checkpoint(config)
    source = _lookup(folder, "give what `gcg convert` wrote, or `gcg export --parts all`")
    found: dict[str, Weight] = {}
    for part in parts:
        if part == LLM[:-1] and not with_llm:
            continue
        own = {k: weight for k, weight in source.tensors.items() if k.startswith(f"{part}.")}
        if not own:
            problems.append(f"{folder}: has no {part}.*; {source.remedy}")
        found |= own
    if not with_llm:  # the projection in there leads to another one
        found = {k: w for k, w in found.items() if not k.startswith("reader.projection.")}
    return found


def _lookup(place: Path, remedy: str) -> Lookup:
    return Lookup(_shown(place), read_checkpoint(place), remedy)


def _shown(place: Path, names: tuple[str, ...] = ()) -> Path:
    """For messages: the file where there is only one."""
    files = weight_files(place, names) if names else weight_files(place)
    return files[0] if len(files) == 1 else place


def _compare_trunks(found: dict[str, Weight], clip: Lookup) -> None:
    """Say so where the trunk is not the one that CLIP's last block was trained on."""
    ours = found.get("vision.trunk.embeddings.class_embedding")
    theirs = clip.find(["visual.trunk.cls_token", "visual.cls_token"])
    if ours is None or theirs is None or ours.shape != theirs.shape:
        return
    one, other = whole(ours).float(), whole(theirs).float()
    difference = float(torch.dist(one, other) / other.norm())
    if difference > SAME_TRUNK:
        log.warning(
            "%s: its image tower is not the one of model.checkpoint (class tokens differ by "
            "%.0f %%), so frames and texts will not match; use EVA01-g-14 with InstructBLIP",
            clip.place,
            100 * difference,
        )
