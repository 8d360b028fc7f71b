"""Activation checkpointing: a part's inner activations are computed twice instead of kept."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from torch import nn

# Where a part that can be recomputed lies in a GCGModel.
PARTS = {"vision": "vision.trunk", "qformer": "reader.qformer", "llm": "answerer.llm"}


def recompute_activations(model: nn.Module, parts: Collection[str]) -> None:
    """Keep only the inputs of each block of ``parts`` for the backward pass, which runs it again.

    Memory falls from every activation of a block to one tensor; the time of one forward pass of
    the part is added. Losses and gradients stay the same, dropout included. For ``vision``, which
    is frozen unless ``model.vision.train`` is set, there is nothing to keep, and nothing changes.

    Raises:
        ValueError: the part's architecture cannot do it.
    """
    for name in parts:
        if name == "vision" and getattr(model, "vision", None) is None:
            continue  # frames come as features
        module: Any = model.get_submodule(PARTS[name])
        if not module.supports_gradient_checkpointing:
            raise ValueError(
                f"engine.recompute: {name} is a {type(module).__name__}, which cannot recompute "
                f"its activations; leave {name} out"
            )
        # Not re-entrant: works where the inputs carry no gradient, as those of a frozen LLM's
        # first block may not. It stops as soon as it has what the backward pass asks for; told to
        # run a block to its end, DeepSpeed 0.19.8 lets go of a frozen last layer's weights that
        # the backward pass is about to use.
        module.gradient_checkpointing_enable({"use_reentrant": False})
