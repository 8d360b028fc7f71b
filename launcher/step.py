"""One optimizer step: the losses of a global batch, averaged over its pairs, whatever the layout.

A model gives one loss per question-video pair. How many pairs a rank or a micro-batch holds
varies, so the mean is taken over the global batch: each micro-batch is weighted by
``W × accumulation / pairs``, which undoes the two means DeepSpeed takes (over ranks and over
micro-batches) and divides by the number of pairs instead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from launcher.config import RunConfig
from launcher.engine import Engine, model_dtype, set_learning_rate
from launcher.errors import RunStoppedError

PARTS = ("loss_vqa", "loss_reg", "loss_con")


class MicroBatch(Protocol):
    """What the step needs of a batch."""

    def model_inputs(self) -> Mapping[str, Tensor | None]: ...


@dataclass(frozen=True)
class StepResult:
    """Means over the global batch, the same on every rank. ``num_pairs``: its size."""

    loss: float
    loss_vqa: float
    loss_reg: float
    loss_con: float
    lr: float
    grad_norm: float
    num_pairs: int


class TrainStep:
    """Runs optimizer steps on an engine.

    Args:
        engine: from :func:`launcher.engine.build_engine`.
        config: gives the weights of the losses, the accumulation and the learning rate.
    """

    def __init__(self, engine: Engine, config: RunConfig) -> None:
        self._engine = engine
        self._config = config
        weights = config.model.loss
        self._weights = {
            "loss_vqa": 1.0,
            "loss_reg": weights.alpha_reg,
            "loss_con": weights.alpha_con,
        }

    def __call__(self, micro: Sequence[MicroBatch], step: int, num_pairs: int) -> StepResult:
        """Make update number ``step`` (from 0).

        Args:
            micro: this rank's micro-batches, ``config.accumulation`` of them.
            num_pairs: question-video pairs in the global batch, over all ranks.

        Raises:
            RunStoppedError: the loss or the gradient is not a finite number; on every rank alike.
        """
        assert len(micro) == self._config.accumulation, (len(micro), self._config.accumulation)
        engine = self._engine
        engine.train()
        lr = set_learning_rate(engine, self._config, step)
        scale = dist.get_world_size() * len(micro) / num_pairs
        sums = torch.zeros(len(PARTS), dtype=torch.float64)
        for number, batch in enumerate(micro, start=1):
            inputs = batch.model_inputs()
            seed_dropout(inputs)
            output = engine(**to_inputs(inputs, engine.device, self._config))
            parts = {name: getattr(output, name).float() for name in PARTS}
            total = sum(self._weights[name] * parts[name].sum() for name in PARTS)
            sums += torch.tensor([parts[name].detach().double().sum() for name in PARTS])
            if number == len(micro):  # the update follows
                self._check_finite(sums, step)
            engine.backward(total * scale)
            engine.step()
        return self._result(sums, step, num_pairs, lr)

    def _check_finite(self, sums: Tensor, step: int) -> None:
        # Every rank must stop at the same place, or the others wait in a collective for ever.
        bad = (~torch.isfinite(sums)).any().to(torch.int64).reshape(1).to(self._engine.device)
        dist.all_reduce(bad, op=dist.ReduceOp.MAX)
        if bad.item():
            raise RunStoppedError(
                f"step {step + 1}: the loss is not a finite number; the last checkpoint is intact: "
                "lower optim.lr or optim.grounding_lr, or use engine.precision=fp32"
            )

    def _result(self, sums: Tensor, step: int, num_pairs: int, lr: float) -> StepResult:
        on_device = sums.to(self._engine.device)
        dist.all_reduce(on_device)
        means = dict(zip(PARTS, (on_device / num_pairs).tolist(), strict=True))
        grad_norm = float(self._engine.get_global_grad_norm() or 0.0)
        if not torch.isfinite(torch.tensor(grad_norm)):
            raise RunStoppedError(
                f"step {step + 1}: the gradient's norm is {grad_norm}; the last checkpoint is "
                "intact: lower optim.lr or optim.grounding_lr, or use engine.precision=fp32"
            )
        loss = sum(self._weights[name] * means[name] for name in PARTS)
        return StepResult(loss=loss, lr=lr, grad_norm=grad_norm, num_pairs=num_pairs, **means)


def seed_dropout(inputs: Mapping[str, Tensor | None]) -> None:
    """Seed the global generator from a micro-batch's first pair, so that dropout follows the
    samples: not the rank, nor how often a run was interrupted."""
    seeds = inputs.get("noise_seeds")
    if seeds is not None:
        torch.manual_seed(int(seeds[0]))


def to_inputs(
    inputs: Mapping[str, Tensor | None], device: torch.device | str, config: RunConfig
) -> dict[str, Any]:
    """A model's keyword arguments on its device, floating-point ones in its precision."""
    dtype = model_dtype(config)
    return {
        name: value.to(device, dtype if value.is_floating_point() else value.dtype)
        if isinstance(value, Tensor)
        else value
        for name, value in inputs.items()
    }
