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

    def projection_parameters(self) -> list[nn.Parameter]: ...


def parameter_groups(model: Trainable, optim: OptimSection) -> list[dict[str, Any]]:
    """AdamW groups {grounding, projection, rest} × {decayed, not decayed}; empty ones left out.

    Vectors and scalars (biases, norms, gates) are not decayed. ``base_lr`` is the learning rate
    that the schedule scales. The projection has groups of its own only where it has a stage of its
    own.
    """
    rest = model.other_trained_parameters()
    projection = model.projection_parameters() if optim.projection_warmup_steps else []
    apart = {id(parameter) for parameter in projection}
    groups = []
    for name, parameters, lr in (
        ("grounding", model.grounding_parameters(), optim.grounding_lr),
        ("projection", projection, optim.lr),
        ("rest", [parameter for parameter in rest if id(parameter) not in apart], optim.lr),
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


def learning_rate_share(step: int, optim: OptimSection, group: str = "projection") -> float:
    """The share of a group's base learning rate for the update after ``step`` updates were made.

    Linear from 1/warmup to 1, then half a cosine from 1 towards ``min_lr_share``. For all but the
    projection this begins ``projection_warmup_steps`` later, and is 0 until then: AdamW leaves the
    parameters as they are, while its moments already follow their gradients. It depends on the step
    alone, so there is no scheduler state to save.
    """
    begin = 0 if group.startswith("projection") else optim.projection_warmup_steps
    if step < begin:
        return 0.0
    if step < begin + optim.warmup_steps:
        return (step - begin + 1) / optim.warmup_steps
    begin += optim.warmup_steps
    progress = min(1.0, (step - begin) / (optim.steps - begin))
    return optim.min_lr_share + (1 - optim.min_lr_share) * 0.5 * (1 + math.cos(math.pi * progress))
