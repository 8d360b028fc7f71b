"""A trained model into a folder that :meth:`gcg.model.GCGModel.from_pretrained` reads.

Frozen weights are copied from their files a part at a time; only what was trained is in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gcg.adapters import FILE, fold, write_adapter
from gcg.build import build_skeleton, model_weights, used_parts
from gcg.config import GCGConfig
from gcg.errors import ModelError
from gcg.llm import is_adapter, plain_name
from gcg.model import GCGModel
from gcg.presets import llm_in_checkpoint
from gcg.saved import ADAPTER, Parts, placed, write_saved
from gcg.weights import Weight, fetch_sources
from gcg.weights.tensors import InMemory
from gcg.weights.writer import SHARD_BYTES, stored_bytes, write_shards

_SHOWN = 3


@dataclass(frozen=True)
class Saving:
    """What there is to write: ``weights`` by the model's names without adapters, ``adapters`` by
    its names with them. ``dtype`` None keeps each weight's own."""

    config: GCGConfig
    parts: Parts
    weights: dict[str, Weight]
    adapters: dict[str, Tensor]
    dtype: torch.dtype | None

    @property
    def num_bytes(self) -> int:
        """Of all weights, once written."""
        there = sum(stored_bytes(weight, self.dtype) for weight in self.weights.values())
        return there + sum(each.numel() * each.itemsize for each in self.adapters.values())


def plan_saving(
    config: GCGConfig,
    trained: Mapping[str, Tensor],
    parts: Parts = "trained",
    *,
    seed: int = 0,
    dtype: torch.dtype | None = None,
) -> Saving:
    """Gather the weights of a model; writes nothing.

    Args:
        config: of the model. One that was trained on features of its own encoders is saved with
            these, and reads video.
        trained: the trained parameters, by the model's names; of tied ones any one name.
        parts: ``trained``: what no public checkpoint has; ``all``: the frozen parts, too;
            ``merged``: the same with LoRA adapters folded into the language model's weights.
        seed: the run's: a language model of preset ``tiny`` that stays frozen was drawn from it.
        dtype: of floating-point weights in the file; None keeps each one's. Adapters keep theirs.

    Raises:
        ModelError: the weights are of another model, or a frozen part is not to be had.
    """
    config = config.served()
    if parts != "trained" and config.llm.quantize != "none":
        raise ModelError(
            f"model.llm.quantize = {config.llm.quantize}: the language model's weights are in no "
            "file as they were used; export its trained parts alone (--parts trained)"
        )
    if parts != "trained":
        fetch_sources(config, used_parts(config))
    model = build_skeleton(config)
    found = _by_first_name(model, trained)
    adapters = {name: value for name, value in found.items() if is_adapter(name)}
    own: dict[str, Weight] = {
        plain_name(name): InMemory(value.detach().cpu())
        for name, value in found.items()
        if not is_adapter(name)
    }
    first = _first_names(model)
    weights: dict[str, Weight] = {}
    if parts != "trained" or (config.preset == "tiny" and llm_in_checkpoint(config)):
        for name, weight in model_weights(model, config, seed):
            name = plain_name(first.get(name, name))
            public = parts == "trained" and not name.startswith("answerer.llm.")
            if not public and not is_adapter(name):
                weights[name] = weight
    weights |= own
    if parts == "merged":
        if adapters:
            weights = fold(weights, adapters, config.llm.lora.alpha / config.llm.lora.rank)
            llm = config.llm.model_copy(update={"train": "frozen"})
            config = config.model_copy(update={"llm": llm})
        adapters = {}
    return Saving(config, parts, weights, adapters, dtype)


def saving_of(model: GCGModel) -> Saving:
    """All weights of a model in memory, as they are now, with nothing read from elsewhere.

    Raises:
        ModelError: they are quantised.
    """
    if model.config.llm.quantize != "none":
        raise ModelError(
            f"model.llm.quantize = {model.config.llm.quantize}: such weights are not saved; save "
            "the run's with `gcg export --parts trained`"
        )
    values = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    kept = {n: v.detach().cpu() for n, v in values.items() if n in model.state_dict()}
    adapters = {name: value for name, value in kept.items() if is_adapter(name)}
    weights: dict[str, Weight] = {
        plain_name(name): InMemory(value) for name, value in kept.items() if name not in adapters
    }
    return Saving(model.config, "all", weights, adapters, None)


def save_pretrained(
    saving: Saving,
    folder: Path,
    *,
    more: Mapping[str, Any] | None = None,
    shard_bytes: int = SHARD_BYTES,
    on_bytes: Callable[[int], object] = lambda count: None,
) -> list[Path]:
    """Write a model into an empty folder; return its weight files.

    ``more``: further entries of ``config.json``; ``on_bytes`` is told of progress.
    """
    write_saved(saving.config, saving.parts, more or {}, folder)
    files = write_shards(
        saving.weights, folder, dtype=saving.dtype, shard_bytes=shard_bytes, on_bytes=on_bytes
    )
    if saving.adapters:
        shown = placed(saving.config, saving.parts)
        base = shown.llm.name or shown.checkpoint or shown.preset
        write_adapter(saving.config, saving.adapters, folder / ADAPTER, base)
        files.append(folder / ADAPTER / FILE)
        on_bytes(sum(each.numel() * each.itemsize for each in saving.adapters.values()))
    return files


def _by_first_name(model: nn.Module, trained: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights by the names that ``named_parameters`` gives, checked against the model's."""
    first = _first_names(model)
    targets: dict[str, Tensor] = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    found: dict[str, Tensor] = {}
    odd = []
    for name, value in trained.items():
        target = targets.get(first.get(name, name))
        if target is None or tuple(target.shape) != tuple(value.shape):
            odd.append(name)
        else:
            found[first.get(name, name)] = value
    wanted = [name for name, p in model.named_parameters() if p.requires_grad]
    missing = [name for name in wanted if name not in found]
    if odd or missing:
        raise ModelError(
            f"the trained weights do not fit the model's configuration (missing "
            f"{missing[:_SHOWN]}, of another shape or unknown {odd[:_SHOWN]}); was one of them "
            "changed by hand?"
        )
    # In the model's order: the same weights make the same file, wherever they were read from.
    return {name: found[name] for name in targets if name in found}


def _first_names(model: nn.Module) -> dict[str, str]:
    """Every name of a parameter, to the first of them."""
    seen: dict[int, str] = {}
    named = model.named_parameters(remove_duplicate=False)
    return {name: seen.setdefault(id(parameter), name) for name, parameter in named}
