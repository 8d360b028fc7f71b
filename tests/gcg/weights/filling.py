"""Modules of ours with the weights that a checkpoint has for them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from gcg.weights import Weight
from gcg.weights.tensors import whole


def filled(module: nn.Module, weights: Mapping[str, Weight], prefix: str) -> nn.Module:
    """A module with all its parameters from the weights under ``prefix``, in eval mode."""
    state = {
        name.removeprefix(prefix): whole(weight).float()
        for name, weight in weights.items()
        if name.startswith(prefix)
    }
    parameters = dict(module.named_parameters())
    assert state.keys() == parameters.keys(), state.keys() ^ parameters.keys()
    with torch.no_grad():
        for name, value in state.items():
            assert parameters[name].shape == value.shape, name
            parameters[name].copy_(value)
    return module.eval()
