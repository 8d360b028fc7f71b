"""No old gradient is used again: where a weight gets one in some micro-batches only, such as an
expert that no token chose, and after an update that was left out.

DeepSpeed 0.19.8 adds a step's gradients up in buffers that stay, and overwrites a weight's with its
first gradient of the step. Seen on a toy model: a weight without a gradient in a step is updated
with an old one again (ZeRO-3; any stage whose optimizer is offloaded); one that first gets its
gradient in a later micro-batch has it added to an old one (ZeRO-3, offloaded ZeRO-2 in fp32); one
without a gradient in the last micro-batch loses those before (any offloaded optimizer but ZeRO-1).
Nothing is said. Where every weight gets a gradient each time, nothing is done here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from launcher.training.engine import Engine


class FreshGradients:
    """Sets what DeepSpeed keeps of old gradients to zero.

    Args:
        engine: from :func:`launcher.training.engine.build_engine`.
    """

    def __init__(self, engine: Engine) -> None:
        self._optimizer = engine.optimizer
        self._sharded = engine.zero_optimization_partition_weights()
        self._offloaded = engine.zero_use_cpu_optimizer()

    def begin(self) -> None:
        """Call before a step's first backward pass.

        After an update that was left out, an offloaded ZeRO-2 keeps its sums, the number that is
        none among them, and would leave out every later one.
        """
        if self._offloaded and not self._sharded:
            sums = self._optimizer.averaged_gradients
            sums.update(dict.fromkeys(sums))

    def after_backward(self, *, first: bool, last: bool) -> None:
        """Call between each backward pass and its ``engine.step()``.

        Args:
            first: it was the step's first micro-batch.
            last: it was the step's last, and the update follows.
        """
        if first:
            self._forget_sums()
        if last and self._offloaded:
            self._bring_missed()
            self._forget_copies()

    def _forget_sums(self) -> None:
        """Of the weights that the first micro-batch did not reach."""
        optimizer = self._optimizer
        if self._sharded:
            reached = optimizer._offload_boundary_param_ids
            sums = optimizer._DeepSpeedZeroOptimizer_Stage3__param_id_to_grad_partition
        elif self._offloaded:
            reached = optimizer._offload_accumulated_param_ids
            sums = optimizer.accumulated_grads_in_cpu
        else:
            return
        for key, total in sums.items():
            if key not in reached:
                total.zero_()

    def _bring_missed(self) -> None:
        """Copy the sums of weights that the last micro-batch did not reach to the optimizer."""
        optimizer = self._optimizer
        brought = optimizer.norm_for_param_grads
        if self._sharded:
            reached = optimizer._offload_boundary_param_ids
            reached -= {p.ds_id for _, p in self._own() if optimizer.get_param_id(p) in brought}
        else:
            reached = optimizer._offload_accumulated_param_ids
            reached -= brought.keys()
        if reached:
            optimizer.finalize_gradient_accumulation_boundary()

    def _forget_copies(self) -> None:
        """What the optimizer would use again of weights that no micro-batch reached."""
        optimizer = self._optimizer
        for group, parameter in self._own():
            key = optimizer.get_param_id(parameter)
            if key not in optimizer.norm_for_param_grads and key in optimizer.grad_position:
                start, count = optimizer.grad_position[key][-2:]
                self._copies(group).narrow(0, start, count).zero_()

    def _own(self) -> Iterator[tuple[int, Any]]:
        """The weights of which this rank updates a part, with the number of their group."""
        optimizer = self._optimizer
        groups = optimizer.fp16_groups if self._sharded else optimizer.params_in_partition
        return ((number, parameter) for number, group in enumerate(groups) for parameter in group)

    def _copies(self, group: int) -> Tensor:
        optimizer = self._optimizer
        flat = (
            optimizer.fp32_partitioned_groups_flat
            if self._sharded
            else optimizer.single_partition_of_fp32_groups
        )
        return flat[group].grad
