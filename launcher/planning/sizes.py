"""What a model is made of: its parameters part by part, counted on the meta device."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import nn

from launcher.config import OptimSection
from launcher.training.optimizer import parameter_groups

# Parts in the order a sample meets them, and where their parameters lie in a GCGModel.
PARTS: dict[str, tuple[str, ...]] = {
    "vision trunk": ("vision.trunk.",),
    "joint head": ("vision.joint_head.",),
    "text tower": ("text.",),
    "generator": ("generator.", "contrast."),
    "Q-Former + projection": ("reader.",),
    "LLM": ("answerer.",),
}


@dataclass(frozen=True)
class Weight:
    """One parameter: ``numel`` elements. ``group`` names its AdamW group where it is trained.
    ``table``: rows are looked up in it, and it is in no product, so no gradient passes through."""

    part: str
    numel: int
    group: str | None
    quantized: bool = False
    table: bool = False

    @property
    def trained(self) -> bool:
        return self.group is not None


@dataclass(frozen=True)
class PartSize:
    """Elements of a part that stay as they are, and that learn."""

    part: str
    frozen: int
    trained: int

    @property
    def total(self) -> int:
        return self.frozen + self.trained


@dataclass(frozen=True)
class Census:
    """All parameters of a model. ``largest_module``: elements of the module with the most own ones,
    which ZeRO-3 gathers at once."""

    weights: tuple[Weight, ...]
    largest_module: int

    @property
    def parts(self) -> list[PartSize]:
        """Sizes by part; the parts that a model does not have are left out."""
        found = []
        for part in PARTS:
            own = [weight for weight in self.weights if weight.part == part]
            if own:
                trained = total(weight for weight in own if weight.trained)
                found.append(PartSize(part, total(own) - trained, trained))
        return found

    @cached_property
    def total(self) -> int:
        return total(self.weights)

    @cached_property
    def trained(self) -> int:
        return total(weight for weight in self.weights if weight.trained)

    @cached_property
    def groups(self) -> dict[str, tuple[Weight, ...]]:
        """The weights of each AdamW group, which the optimizer steps one after another."""
        names = dict.fromkeys(weight.group for weight in self.weights if weight.group is not None)
        return {
            name: tuple(weight for weight in self.weights if weight.group == name) for name in names
        }


def total(weights: Iterable[Weight]) -> int:
    """Elements of some weights."""
    return sum(weight.numel for weight in weights)


def take_census(model: Any, optim: OptimSection, quantized: bool = False) -> Census:
    """Count a model's parameters; tied ones once, as the optimizer sees them.

    Args:
        model: a ``GCGModel``, usually a skeleton; ``requires_grad`` says what learns.
        optim: names the AdamW groups.
        quantized: whether the LLM's linear layers, but for its head, will have 4-bit weights.
    """
    packed = _block_linears(model) if quantized else set()
    groups = {
        id(parameter): group["name"]
        for group in parameter_groups(model, optim)
        for parameter in group["params"]
    }
    tables = _tables(model)
    weights = [
        Weight(
            _part_of(name),
            parameter.numel(),
            groups.get(id(parameter)),
            id(parameter) in packed,
            id(parameter) in tables,
        )
        for name, parameter in model.named_parameters()
    ]
    own = (sum(p.numel() for p in module.parameters(recurse=False)) for module in model.modules())
    return Census(tuple(weights), max(own))


def _part_of(name: str) -> str:
    for part, prefixes in PARTS.items():
        if name.startswith(prefixes):
            return part
    raise AssertionError(f"{name}: belongs to no part of the model")


def _tables(model: nn.Module) -> set[int]:
    """Embeddings' weights, but for those that another module owns, too (a tied output head)."""
    kinds: dict[int, set[bool]] = {}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            kinds.setdefault(id(parameter), set()).add(isinstance(module, nn.Embedding))
    return {found for found, embeds in kinds.items() if embeds == {True}}


def _block_linears(model: nn.Module) -> set[int]:
    from gcg.llm import block_linears

    llm = model.get_submodule("answerer.llm")
    return {
        id(weight)
        for name in block_linears(llm)
        for weight in llm.get_submodule(name).parameters(recurse=False)
        if weight.dim() == 2
    }
