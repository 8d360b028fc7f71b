"""A small real model with the interface of GCG's, and batches for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from launcher.config import RunConfig, parse_run_config


@dataclass(frozen=True)
class ToyOutput:
    loss_vqa: Tensor
    loss_reg: Tensor
    loss_con: Tensor


class ToyModel(nn.Module):
    """A frozen encoder, a grounding part and a head with dropout; one loss triple a pair."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.encoder = nn.Linear(6, 8).requires_grad_(False)
        self.grounding = nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8))
        self.head = nn.Linear(8, 5)
        self.unused = nn.Linear(3, 3)  # a part that a mode does not reach
        self.dropout = nn.Dropout(0.1)

    def forward(self, features: Tensor, targets: Tensor, extra: Tensor | None = None) -> ToyOutput:
        """Features (P, 6), targets (P,) int64."""
        hidden = self.grounding(torch.tanh(self.encoder(features)))
        logits = self.head(self.dropout(hidden)).float()
        loss = nn.functional.cross_entropy(logits, targets, reduction="none")
        spread = hidden.float().pow(2).mean(dim=1)
        return ToyOutput(loss, 0.1 * spread, 0.01 * (spread - 1).abs())

    def grounding_parameters(self) -> list[nn.Parameter]:
        return list(self.grounding.parameters())

    def projection_parameters(self) -> list[nn.Parameter]:
        return list(self.head.parameters())

    def other_trained_parameters(self) -> list[nn.Parameter]:
        return [*self.head.parameters(), *self.unused.parameters()]


@dataclass(frozen=True)
class ToyBatch:
    features: Tensor
    targets: Tensor

    def model_inputs(self) -> Mapping[str, Tensor | None]:
        return {"features": self.features, "targets": self.targets, "extra": None}


def toy_pairs(step: int, visit: int) -> tuple[Tensor, Tensor]:
    """The pairs of one visit: one to three, by its number alone."""
    generator = torch.Generator().manual_seed(1000 * step + visit)
    count = 1 + visit % 3
    features = torch.randn(count, 6, generator=generator)
    return features, torch.randint(0, 5, (count,), generator=generator)


def toy_micro_batches(
    step: int, rank: int, world_size: int, global_batch: int, micro_batch: int
) -> list[ToyBatch]:
    """A rank's part of a global batch: visits rank, rank + W, …, ``micro_batch`` at a time."""
    own = [toy_pairs(step, visit) for visit in range(rank, global_batch, world_size)]
    batches = []
    for start in range(0, len(own), micro_batch):
        features, targets = zip(*own[start : start + micro_batch], strict=True)
        batches.append(ToyBatch(torch.cat(features), torch.cat(targets)))
    return batches


def toy_num_pairs(step: int, global_batch: int) -> int:
    return sum(len(toy_pairs(step, visit)[1]) for visit in range(global_batch))


def toy_config(storage: Path, **changes: Any) -> RunConfig:
    """A run of the toy model; ``changes`` are dotted with ``__``: ``engine__zero=3``."""
    tree: dict[str, Any] = {
        "run": {"name": "toy", "storage": str(storage)},
        "data": {"train": "nowhere", "global_batch": 8, "streams": 4, "contrast_group": 1},
        "optim": {
            "steps": 12,
            "lr": 1e-2,
            "grounding_lr": 3e-2,
            "weight_decay": 0.1,
            "warmup_steps": 2,
        },
        "engine": {"zero": 2, "precision": "bf16", "micro_batch": 2},
        "scale": {"num_workers": 2},
        "checkpoint": {"every": 3, "keep": 2},
        "log": {"every": 1},
    }
    for path, value in changes.items():
        section, key = path.split("__")
        tree.setdefault(section, {})[key] = value
    return parse_run_config(tree)
