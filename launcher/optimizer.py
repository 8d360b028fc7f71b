"""Who learns how fast: AdamW parameter groups, and the learning rate as a function of the step."""

from __future__ import annotations

import math
from typing import Any, Protocol

from torch import nn

from launcher.config import OptimSection


class Trainable(Protocol):
    """What the optimizer needs of a model."""

    def grounding_parameters(self) -> list[nn.Parameter]: ...

    def other_trained_parameters(self) -> list[nn.Parameter]: ...


def parameter_groups(model: Trainable, optim: OptimSection) -> list[dict[str, Any]]:
    """AdamW groups {grounding, rest} × {decayed, not decayed}; empty ones are left out.

    Vectors and scalars (biases, norms, gates) are not decayed. ``base_lr`` is the learning rate
    that the schedule scales.
    """
    groups = []
    for name, parameters, lr in (
        ("grounding", model.grounding_parameters(), optim.grounding_lr),
        ("rest", model.other_trained_parameters(), optim.lr),
    ):
        learning = [parameter for parameter in parameters if parameter.requires_grad]
        for suffix, decay, chosen in (
            ("decayed", optim.weight_decay, [p for p in learning if num_dims(p) >= 2]),
            ("plain", 0.0, [p for p in learning if num_dims(p) < 2]),
        ):
            if chosen:
                groups.append(
                    {
                        "name": f"{name}.{suffix}",
                        "params": chosen,
                        "lr": lr,
                        "base_lr": lr,
                        "weight_decay": decay,
                    }
                )
    if not groups:
        raise ValueError("the model has no parameter to train")
    return groups


def num_dims(parameter: nn.Parameter) -> int:
    """Of the whole parameter: under ZeRO-3 the local tensor is a flat shard of it."""
    return len(getattr(parameter, "ds_shape", parameter.shape))


def learning_rate_share(step: int, optim: OptimSection) -> float:
    """The share of the base learning rate for the update after ``step`` updates were made.

    Linear from 1/warmup to 1, then half a cosine from 1 towards ``min_lr_share``. It depends on
    the step alone, so there is no scheduler state to save.
    """
    if step < optim.warmup_steps:
        return (step + 1) / optim.warmup_steps
    progress = min(1.0, (step - optim.warmup_steps) / (optim.steps - optim.warmup_steps))
    return optim.min_lr_share + (1 - optim.min_lr_share) * 0.5 * (1 + math.cos(math.pi * progress))
