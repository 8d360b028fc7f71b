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

from gcg.host import HOST_INPUTS
from launcher.config import RunConfig
from launcher.errors import RunStoppedError
from launcher.training.contrast import ContrastExchange
from launcher.training.engine import Engine, model_dtype, set_learning_rate
from launcher.training.fresh import FreshGradients
from launcher.training.guard import Cause, Guard

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
    ``bad`` says why this update was left out, None if it was made or if fp16 only scales its loss
    anew; ``bad_pairs`` are then this rank's pairs to blame, (micro-batch, row): those whose loss
    is not a finite number, or all where every loss is.
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
    bad: Cause | None = None
    bad_pairs: tuple[tuple[int, int], ...] = ()

    @property
    def made(self) -> bool:
        """Whether the weights have changed: no, if the update was left out for any reason."""
        return self.bad is None and math.isfinite(self.grad_norm)


class TrainStep:
    """Runs optimizer steps on an engine.

    Args:
        engine: from :func:`launcher.training.engine.build_engine`.
        config: gives the weights of the losses, the accumulation and the learning rate.
        guard: knows what a spike is.

    Every rank makes one at the same place: ranks that share contrast groups are introduced.
    """

    def __init__(self, engine: Engine, config: RunConfig, guard: Guard) -> None:
        self._engine = engine
        self._config = config
        self._guard = guard
        self._contrast = ContrastExchange(config)
        self._fresh = FreshGradients(engine)
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

        A loss that is not a finite number on any rank makes the gradient none on all of them, and
        then the engine leaves the update out, on every rank alike.

        Raises:
            RunStoppedError: in fp16, :data:`MAX_SKIPPED` updates in a row overflowed; on every rank
                alike.
        """
        assert len(micro) == self._config.accumulation, (len(micro), self._config.accumulation)
        engine = self._engine
        engine.train()
        self._fresh.begin()
        lr = set_learning_rate(engine, self._config, step)
        scale = dist.get_world_size() * len(micro) / num_pairs
        sums = torch.zeros(len(PARTS), dtype=torch.float64, device=engine.device)
        spike = torch.zeros((), dtype=torch.bool, device=engine.device)
        finite: list[Tensor] = []
        moved = (to_inputs(batch.model_inputs(), engine.device, self._config) for batch in micro)
        for number, inputs in enumerate(self._contrast(engine.module, moved), start=1):
            output = engine(**inputs)
            parts = {name: getattr(output, name).float() for name in PARTS}
            each = torch.stack([parts[name].detach().double() for name in PARTS])
            sums += each.sum(dim=1)
            finite.append(torch.isfinite(each).all(dim=0))
            total = sum(self._weights[name] * parts[name].sum() for name in PARTS)
            if number == len(micro):  # the update follows
                spike = self._is_spike(sums, num_pairs)
            # A gradient may be finite where the loss is not: this one never is.
            bad = spike | ~finite[-1].all()
            total = total * torch.where(bad, math.nan, 1.0)
            engine.backward(total * scale)
            self._fresh.after_backward(first=number == 1, last=number == len(micro))
            engine.step()
        return self._result(sums, step, num_pairs, lr, spike, finite)

    def _is_spike(self, sums: Tensor, num_pairs: int) -> Tensor:
        limit = self._guard.spike_limit()
        if math.isinf(limit):  # on every rank alike
            return torch.zeros((), dtype=torch.bool, device=sums.device)
        loss = self._total(self._means(sums, num_pairs))
        return torch.isfinite(loss) & (loss > limit)

    def _means(self, sums: Tensor, num_pairs: int) -> Tensor:
        whole = sums.clone()  # a spike's look must not change them
        dist.all_reduce(whole)
        return whole / num_pairs

    def _total(self, means: Tensor) -> Tensor:
        return sum(
            (w * means[i] for i, w in enumerate(self._weights.values())), means.new_zeros(())
        )

    def _result(
        self,
        sums: Tensor,
        step: int,
        num_pairs: int,
        lr: float,
        spike: Tensor,
        finite: Sequence[Tensor],
    ) -> StepResult:
        means = self._means(sums, num_pairs)
        norm = self._engine.get_global_grad_norm() or 0.0
        read = [*means, self._total(means), spike.double(), torch.as_tensor(norm).to(sums)]
        # Where the host waits for the device: once a step, for all it wants to know.
        *parts, loss, spiked, norm = torch.stack(read).tolist()
        made = self._engine.was_step_applied()
        bad: Cause | None = None
        if not math.isfinite(loss):
            bad = "loss"
        elif spiked:
            bad = "spike"
        elif not made and not self._scaled:
            bad = "gradient"
        if self._scaled:
            self._count_overflows(made, step)
        assert not (made and bad), (step, bad)
        return StepResult(
            loss=loss,
            lr=lr,
            grad_norm=norm if made else math.inf,
            num_pairs=num_pairs,
            loss_scale=float(self._engine.optimizer.loss_scale) if self._scaled else None,
            skipped_steps=self._engine.skipped_steps,
            bad=bad,
            bad_pairs=_to_blame(finite, bad),
            **dict(zip(PARTS, parts, strict=True)),
        )

    def _count_overflows(self, made: bool, step: int) -> None:
        """An update that is left out for an overflow halves the loss scale.

        Such a step has its place in the data and in the learning rate's schedule all the same.
        """
        self._skipped_in_a_row = 0 if made else self._skipped_in_a_row + 1
        if self._skipped_in_a_row == MAX_SKIPPED:
            raise RunStoppedError(
                f"step {step + 1}: {MAX_SKIPPED} updates in a row were skipped, the gradients "
                "overflow fp16 however small the loss scale; the last checkpoint is intact: use "
                "engine.precision=bf16 or fp32, or lower optim.lr or optim.grounding_lr"
            )


def _to_blame(finite: Sequence[Tensor], bad: Cause | None) -> tuple[tuple[int, int], ...]:
    """(micro-batch, row) of the pairs whose loss is no number; of all if that is not the cause."""
    if bad is None:
        return ()
    blamed = (~each if bad == "loss" else torch.ones_like(each) for each in finite)
    return tuple((k, row) for k, each in enumerate(blamed) for row in each.nonzero()[:, 0].tolist())


def to_inputs(
    inputs: Mapping[str, Tensor | None], device: torch.device | str, config: RunConfig
) -> dict[str, Any]:
    """A model's keyword arguments on its device, floating-point ones in its precision.

    What the host reads of them (:mod:`gcg.host`) stays where it is.
    """
    dtype = model_dtype(config)
    return {
        name: value.to(device, dtype if value.is_floating_point() else value.dtype)
        if isinstance(value, Tensor) and name not in HOST_INPUTS
        else value
        for name, value in inputs.items()
    }
