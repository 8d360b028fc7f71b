"""Every parameter's first value: from the checkpoint where it has one, else drawn from the seed.

Values come one parameter at a time, so that neither a whole model nor a large part of one is ever
needed in memory, whoever keeps which share of it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn

from gcg.errors import ModelError
from gcg.llm import adapter_value, is_adapter, plain_name
from gcg.weights.tensors import InMemory, Weight

Made = TypeVar("Made")
Makers = Mapping[str, Callable[[], nn.Module]]


def first_weights(
    model: nn.Module,
    makers: Makers,
    loaded: Mapping[str, Weight],
    seed: int,
    untrained: Collection[str],
) -> Iterator[tuple[str, Weight]]:
    """Name and values of each parameter, and of each buffer that the checkpoint has.

    A part none of whose parameters the checkpoint has is made whole, from (seed, its name), as it
    would be on its own. In a part that the checkpoint fills, each module left over is drawn by
    itself, from (seed, the module's name).

    Args:
        model: a skeleton.
        makers: makes the part at a dotted path of the model; together they make all of it.
        loaded: values by the model's names, without what adapters add to them.
        untrained: the paths whose parts may be made whole.

    Raises:
        ModelError: weights that must come from the checkpoint are not in it.
    """
    fresh: dict[str, list[str]] = {path: [] for path in makers}
    full = set(makers)
    aliases = _aliases(model)
    for name, parameter in model.named_parameters():
        if not parameter.is_meta:  # it has its weights already: quantised ones are loaded at once
            continue
        path = _part_of(name, makers)
        known = [alias for alias in aliases[name] if plain_name(alias) in loaded]
        if known:
            full.discard(path)
            yield known[0], loaded[plain_name(known[0])]
        else:
            fresh[path].append(name)
    for name, _ in model.named_buffers():
        if name in loaded:
            yield name, loaded[name]
    for path, names in fresh.items():
        if not names:
            continue
        if path in full:
            if path not in untrained:
                raise ModelError(f"{names[0]}: the checkpoint has no weights of {path}")
            yield from _whole_part(path, makers[path], seed)
        else:
            yield from _left_over(model, path, names, seed)


def seeded(name: str, seed: int, make: Callable[[], Made]) -> Made:
    """What ``make`` returns with torch's CPU generator seeded by (seed, name)."""
    digest = hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=7).digest()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int.from_bytes(digest, "big"))
        return make()


def _whole_part(
    path: str, make: Callable[[], nn.Module], seed: int
) -> Iterator[tuple[str, Weight]]:
    part = seeded(path.rpartition(".")[2], seed, make)
    for name, parameter in part.named_parameters():
        yield f"{path}.{name}", InMemory(parameter)


def _left_over(
    model: nn.Module, path: str, names: list[str], seed: int
) -> Iterator[tuple[str, Weight]]:
    owners: dict[str, list[str]] = {}
    for name in names:
        if is_adapter(name):
            shape = tuple(model.get_parameter(name).shape)
            yield name, InMemory(adapter_value(name.removeprefix(f"{path}."), shape, seed))
        else:
            owner, _, own = name.rpartition(".")
            owners.setdefault(owner, []).append(own)
    for owner, own in owners.items():
        module = model.get_submodule(owner)
        drawn = seeded(owner, seed, lambda made=module: _draw(made))
        missing = [name for name in own if name not in drawn]
        if missing:
            raise ModelError(
                f"{owner}.{missing[0]}: the checkpoint has no such weights, and a "
                f"{type(module).__name__} is not trained from nothing; is it of another model?"
            )
        for name in own:
            yield f"{owner}.{name}", InMemory(drawn[name])


def _draw(module: nn.Module) -> dict[str, Tensor]:
    """First values of one small module that no checkpoint has; none for an unknown kind."""
    if isinstance(module, nn.Embedding):
        weight = torch.empty(module.num_embeddings, module.embedding_dim)
        return {"weight": nn.init.normal_(weight, std=0.02)}
    if isinstance(module, nn.Linear):
        made = nn.Linear(module.in_features, module.out_features, bias=module.bias is not None)
        return dict(made.named_parameters())
    return {}


def _aliases(model: nn.Module) -> dict[str, list[str]]:
    """All names of each parameter, tied ones have several, by the first of them."""
    first: dict[int, str] = {}
    found: dict[str, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        found.setdefault(first.setdefault(id(parameter), name), []).append(name)
    return found


def _part_of(name: str, makers: Makers) -> str:
    return next(path for path in makers if name.startswith(f"{path}."))
