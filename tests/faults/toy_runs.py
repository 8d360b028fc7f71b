"""Attempts at a run of the toy model, with real engines, at any world size and ZeRO stage."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

from launcher.checkpoints.fence import begin_attempt
from launcher.checkpoints.keeper import CheckpointKeeper, Position
from launcher.storage.run_folder import RunFolder
from launcher.training.engine import build_engine
from launcher.training.guard import Guard
from launcher.training.rng import seed_everything
from launcher.training.step import TrainStep
from tests.launcher.toy import ToyModel, ToyOutput, toy_config, toy_micro_batches, toy_num_pairs


class GatedModel(ToyModel):
    """With a group of a single number: at several ranks, some hold nothing of it. No dropout."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__(seed)
        self.gate = nn.Parameter(torch.tensor([0.5]))
        self.register_buffer("seen", torch.zeros(1))
        self.dropout.p = 0.0

    def forward(self, features: Tensor, targets: Tensor, extra: Tensor | None = None) -> ToyOutput:
        self.seen += 1
        return super().forward(features * self.gate, targets, extra)

    def projection_parameters(self) -> list[nn.Parameter]:
        return [self.gate]

    def other_trained_parameters(self) -> list[nn.Parameter]:
        return [*super().other_trained_parameters(), self.gate]


class ToyAttempt:
    """One attempt at a toy run, on this rank."""

    def __init__(
        self,
        storage: Path,
        world_size: int,
        zero: int,
        precision: str = "fp32",
        offload: tuple[str, ...] = (),
    ) -> None:
        self.config = toy_config(
            storage,
            engine__zero=zero,
            engine__precision=precision,
            engine__micro_batch=2,
            engine__offload=list(offload),
            scale__num_workers=world_size,
            optim__projection_warmup_steps=1,  # gives the gate a group of its own
            checkpoint__keep=100,
        )
        rank = dist.get_rank()
        self.folder = RunFolder(self.config.folder).of_worker(rank)
        number = [begin_attempt(self.folder) if rank == 0 else 0]
        dist.broadcast_object_list(number, src=0)
        self.number = number[0]
        seed_everything(self.config.run.seed)
        self.engine = build_engine(GatedModel(), self.config)
        self.step = TrainStep(self.engine, self.config, Guard(self.config.safety))
        self.keeper = CheckpointKeeper(
            self.engine, self.config, self.folder, attempt=self.number, data_fingerprint="toy"
        )

    def train(self, begin: int, end: int) -> list[float]:
        """The losses of the updates ``begin`` to ``end``."""
        batch, micro = self.config.data.global_batch, self.config.engine.micro_batch
        rank, world_size = dist.get_rank(), dist.get_world_size()
        return [
            self.step(
                toy_micro_batches(step, rank, world_size, batch, micro),
                step,
                toy_num_pairs(step, batch),
            ).loss
            for step in range(begin, end)
        ]

    def save(self, step: int) -> None:
        self.keeper.save(Position(step, {"epoch": 0, "step": step}))
        self.keeper.wait()

    def contents(self) -> Contents:
        """All that a checkpoint must carry over, whole on every rank."""
        from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

        if self.config.engine.zero != 3:
            # DeepSpeed links the moments after the first group's first step, when the others have
            # none yet, and never again.
            self.engine.optimizer._hp_optimizer_states_linked = False
            self.engine.optimizer._lazy_init_hp_params_optimizer_state()
        found: dict[str, Tensor] = {}
        for name, parameter in self.engine.module.named_parameters():
            if not parameter.requires_grad:
                continue
            full = safe_get_full_fp32_param(parameter)
            assert full is not None
            found[name] = full.detach().clone().view(-1)
            for key in ("exp_avg", "exp_avg_sq"):
                state = safe_get_full_optimizer_state(parameter, key)
                assert state is not None
                found[f"{name}:{key}"] = state.detach().clone().view(-1)
        optimizer = self.engine.optimizer
        adam = optimizer.optimizer
        return Contents(
            found,
            [(g["name"], g["base_lr"], g["weight_decay"]) for g in optimizer.param_groups],
            {float(state["step"]) for state in adam.state.values()},
            self.engine.global_steps,
            float(self.engine.module.seen),
        )


@dataclass
class Contents:
    """Of an engine: masters and moments by name; groups; counts of steps; a buffer's value."""

    tensors: dict[str, Tensor]
    groups: list[tuple[str, float, float]]
    adam_steps: set[float]
    global_steps: int
    seen: float

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Contents):
            return NotImplemented
        return not self.different(other)

    def different(self, other: Contents) -> list[str]:
        """The names of what is not bit for bit the same."""
        names = self.tensors.keys() | other.tensors.keys()
        found = [
            name
            for name in sorted(names)
            if name not in self.tensors
            or name not in other.tensors
            or not torch.equal(self.tensors[name], other.tensors[name])
        ]
        for field in ("groups", "adam_steps", "global_steps", "seen"):
            if getattr(self, field) != getattr(other, field):
                found.append(field)
        return found


def distance(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """The relative difference of all weights taken as one vector, ‖a − b‖ / ‖b‖."""
    assert one.keys() == other.keys()
    names = [name for name in one if ":" not in name]
    gap = sum(float((one[n].double() - other[n].double()).square().sum()) for n in names)
    size = sum(float(other[n].double().square().sum()) for n in names)
    return (gap / size) ** 0.5
