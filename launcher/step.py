"""One optimizer step: the losses of a global batch, averaged over its pairs, whatever the layout.

A model gives one loss per question-video pair. How many pairs a rank or a micro-batch holds
varies, so the mean is taken over the global batch: each micro-batch is weighted by
``W × accumulation / pairs``, which undoes the two means DeepSpeed takes (over ranks and over
micro-batches) and divides by the number of pairs instead.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from launcher.config import RunConfig
from launcher.contrast import ContrastExchange
from launcher.engine import Engine, model_dtype, set_learning_rate
from launcher.errors import RunStoppedError

PARTS = ("loss_vqa", "loss_reg", "loss_con")
# More than it takes from the largest first loss scale, 2^18, down to 1.
MAX_SKIPPED = 20


class MicroBatch(Protocol):
    """What the step needs of a batch."""

    def model_inputs(self) -> Mapping[str, Tensor | None]: ...


@dataclass(frozen=True)
class StepResult:
    """Means over the global batch, the same on every rank. ``num_pairs``: its size.

    ``loss_scale`` is None but for fp16, ``skipped_steps`` counts the updates that the whole run
    left out because a gradient was too large for fp16; the norm of such a gradient is infinite.
    """

    loss: float
    loss_vqa: float
    loss_reg: float
    loss_con: float
    lr: float
    grad_norm: float
    num_pairs: int
    loss_scale: float | None = None
    skipped_steps: int = 0


class TrainStep:
    """Runs optimizer steps on an engine.

    Args:
        engine: from :func:`launcher.engine.build_engine`.
        config: gives the weights of the losses, the accumulation and the learning rate.

    Every rank makes one at the same place: ranks that share contrast groups are introduced.
    """

    def __init__(self, engine: Engine, config: RunConfig) -> None:
        self._engine = engine
        self._config = config
        self._contrast = ContrastExchange(config)
        self._scaled = config.engine.precision == "fp16"
        self._skipped_in_a_row = 0
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
            RunStoppedError: the loss or the gradient is not a finite number, in fp16
                :data:`MAX_SKIPPED` times in a row; on every rank alike.
        """
        assert len(micro) == self._config.accumulation, (len(micro), self._config.accumulation)
        engine = self._engine
        engine.train()
        lr = set_learning_rate(engine, self._config, step)
        scale = dist.get_world_size() * len(micro) / num_pairs
        sums = torch.zeros(len(PARTS), dtype=torch.float64)
        moved = (to_inputs(batch.model_inputs(), engine.device, self._config) for batch in micro)
        for number, inputs in enumerate(self._contrast(engine.module, moved), start=1):
            output = engine(**inputs)
            parts = {name: getattr(output, name).float() for name in PARTS}
            total = sum(self._weights[name] * parts[name].sum() for name in PARTS)
            sums += torch.tensor([parts[name].detach().double().sum() for name in PARTS])
            if number == len(micro):  # the update follows
                self._check_finite(sums, step)
            engine.backward(total * scale)
            engine.step()
        return self._result(sums, step, num_pairs, lr)

    def _check_finite(self, sums: Tensor, step: int) -> None:
        if self._scaled:  # the gradient will not be finite either, and the update be skipped
            return
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
        loss_scale = grad_norm = None
        if self._scaled:
            loss_scale = float(self._engine.optimizer.loss_scale)
            if self._skipped(step):
                grad_norm = math.inf
        if grad_norm is None:
            grad_norm = float(self._engine.get_global_grad_norm() or 0.0)
            if not math.isfinite(grad_norm):
                raise RunStoppedError(
                    f"step {step + 1}: the gradient's norm is {grad_norm}; the last checkpoint is "
                    "intact: lower optim.lr or optim.grounding_lr, or use engine.precision=fp32"
                )
        loss = sum(self._weights[name] * means[name] for name in PARTS)
        return StepResult(
            loss=loss,
            lr=lr,
            grad_norm=grad_norm,
            num_pairs=num_pairs,
            loss_scale=loss_scale,
            skipped_steps=self._engine.skipped_steps,
            **means,
        )

    def _skipped(self, step: int) -> bool:
        """Whether the update was left out for an overflow, which halves the loss scale.

        Such a step has its place in the data and in the learning rate's schedule all the same.
        """
        if self._engine.was_step_applied():
            self._skipped_in_a_row = 0
            return False
        self._skipped_in_a_row += 1
        if self._skipped_in_a_row == MAX_SKIPPED:
            raise RunStoppedError(
                f"step {step + 1}: {MAX_SKIPPED} updates in a row were skipped, the gradients "
                "overflow fp16 however small the loss scale; the last checkpoint is intact: use "
                "engine.precision=bf16 or fp32, or lower optim.lr or optim.grounding_lr"
            )
        return True


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
