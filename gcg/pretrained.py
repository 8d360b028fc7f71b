"""A saved model back into memory: its own weights, and the frozen ones from where they lie."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch

from gcg.adapters import FILE, read_adapter
from gcg.build import assemble, stored_weights, used_parts
from gcg.config import GCGConfig
from gcg.errors import ModelError
from gcg.llm import plain_name
from gcg.model import GCGModel
from gcg.saved import ADAPTER, SavedModel, read_saved
from gcg.skeleton import materialise
from gcg.tokens import load_tokens
from gcg.weights import Weight
from gcg.weights.files import read_checkpoint
from gcg.weights.hub import fetch

Names = Mapping[str, list[str]]


def load_pretrained(
    place: str | Path,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    moved: Mapping[str, str | None] | None = None,
) -> GCGModel:
    """See :meth:`gcg.serving.Served.from_pretrained`; ``moved``: new places of frozen parts."""
    saved = read_saved(place)
    config = saved.local
    stored = _stored(saved, str(place))
    model = assemble(config, load_tokens(config), 0, load_quantised=True)
    names = _names(model)
    unknown = sorted(set(stored) - {alias for aliases in names.values() for alias in aliases})
    if unknown:
        raise ModelError(
            f"{place}: its weights do not fit its config.json ({unknown[0]} is no weight of "
            "the model); was one of them changed by hand? export again"
        )
    public = _public(saved, names, stored, moved or {})
    materialise(model, _values(model, names, stored, public, str(place)), dtype, device)
    return model.eval()


def _stored(saved: SavedModel, name: str) -> dict[str, Weight]:
    found = read_checkpoint(saved.folder)
    if saved.config.llm.train == "lora":
        folder = saved.folder / ADAPTER
        if not (folder / FILE).is_file():  # on the hub it is no file that comes by itself
            folder = fetch("model", name, kinds=(f"{ADAPTER}/{FILE}",)) / ADAPTER
        if not (folder / FILE).is_file():
            raise ModelError(f"{folder / FILE}: is missing; export again, or copy it here")
        found |= read_adapter(folder)
    return found


def _names(model: GCGModel) -> dict[str, list[str]]:
    """All names in a file of each parameter and buffer, by its first name in the model."""
    first: dict[int, str] = {}
    found: dict[str, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        found.setdefault(first.setdefault(id(parameter), name), []).append(plain_name(name))
    return found | {name: [name] for name, _ in model.named_buffers()}


def _public(
    saved: SavedModel, names: Names, stored: Mapping[str, Weight], moved: Mapping[str, str | None]
) -> dict[str, Weight]:
    """What the folder lacks, from the public checkpoints; nothing is looked for in vain."""
    lacking = [a[0] for a in names.values() if not any(alias in stored for alias in a)]
    parts = [p for p in used_parts(saved.config) if any(n.startswith(f"{p}.") for n in lacking)]
    if saved.config.llm.quantize != "none":
        parts = [part for part in parts if part != "answerer.llm"]  # comes with its weights
    if saved.parts != "trained" or not parts:
        return {}
    return stored_weights(_moved(saved.config, moved), parts)


def _moved(config: GCGConfig, places: Mapping[str, str | None]) -> GCGConfig:
    """The configuration with the places that were given instead of its own."""
    changes: dict[str, object] = {
        name: places[name]
        for name in ("checkpoint", "clip_checkpoint")
        if places.get(name) is not None
    }
    if places.get("llm") is not None:
        changes["llm"] = config.llm.model_copy(update={"name": places["llm"]})
    if places.get("text_encoder") is not None:
        features = {"text_encoder": places["text_encoder"]}
        changes["features"] = config.features.model_copy(update=features)
    return config.model_copy(update=changes)


def _values(
    model: GCGModel,
    names: Names,
    stored: Mapping[str, Weight],
    public: Mapping[str, Weight],
    place: str,
) -> Iterator[tuple[str, Weight]]:
    waiting = {name for name, parameter in model.named_parameters() if parameter.is_meta}
    for name, aliases in names.items():
        known = [alias for alias in aliases if alias in stored]
        lent = [alias for alias in aliases if alias in public]
        if known:
            yield name, stored[known[0]]
        elif lent:
            yield name, public[lent[0]]
        elif name in waiting:
            raise ModelError(
                f"{place}: has no {aliases[0]}; the copy is incomplete, or of another version: "
                "export again"
            )
