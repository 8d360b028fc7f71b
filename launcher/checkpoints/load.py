"""Reading a converted checkpoint into an engine of any world size and ZeRO stage.

DeepSpeed 0.19.8 has a reader of its own, ``load_universal``. It is not used, for what was measured
(docs/reliability.md): at stage 3 it gives every parameter group the first group's learning rate and
weight decay; at stages 1 and 2 a rank that holds nothing of a group fails and leaves the others
waiting; and it reads a stage's conversion at that stage alone.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from launcher.checkpoints.convert import STATE, STATES
from launcher.checkpoints.safe_load import load
from launcher.errors import CheckpointError
from launcher.training.engine import Engine

MASTER, *MOMENTS = STATES


def load_universal(engine: Engine, folder: Path) -> None:
    """Set weights, optimizer state, loss scale, buffers and counters. Every rank calls it.

    Args:
        folder: from :func:`launcher.checkpoints.universal.find_universal`.

    Raises:
        CheckpointError: it holds other parameters than the engine trains.
    """
    state = load(folder / STATE)
    optimizer = engine.optimizer
    partitioned = engine.zero_optimization_partition_weights()
    groups = optimizer.fp16_groups if partitioned else optimizer.bit16_groups
    reader = _Reader(folder, engine.module, {p for group in groups for p in group})
    if partitioned:
        optimizer.checkpoint_event_prologue()
        _fill_stage_3(optimizer, reader, state["step"])
        optimizer.checkpoint_event_epilogue()
    else:
        _fill_stage_1_2(optimizer, reader, state["step"])
        optimizer.update_lp_params()
    optimizer.loss_scaler = state["loss_scaler"]
    optimizer.dynamic_loss_scale = state["dynamic_loss_scale"]
    optimizer.overflow = state["overflow"]
    for name in ("global_steps", "global_samples", "skipped_steps"):
        setattr(engine, name, state[name])
    buffers = dict(engine.module.named_buffers())
    for name, value in state["buffers"].items():
        buffers[name].data.copy_(value)


class _Reader:
    """Flat slices of the whole tensors in a converted checkpoint's files."""

    def __init__(self, folder: Path, model: nn.Module, learning: set[nn.Parameter]) -> None:
        self._folder = folder / "zero"
        trained = {p: name for name, p in model.named_parameters() if p in learning}
        there = {path.name for path in self._folder.iterdir()}
        if there != set(trained.values()):
            missing = sorted(set(trained.values()) - there)[:3]
            unknown = sorted(there - set(trained.values()))[:3]
            raise CheckpointError(
                f"{folder}: holds other trained parameters than this run's model (missing "
                f"{missing}, unknown {unknown}); restore the run file, or begin a new run.name"
            )
        self._names = trained

    def slice(self, parameter: nn.Parameter, key: str, start: int, count: int) -> Tensor:
        """Elements ``start`` to ``start + count``, fewer at the end of the tensor."""
        file = self._folder / self._names[parameter] / f"{key}.pt"
        # Mapped, so that no more than the slice is read.
        stored = load(file, mmap=True)
        flat = (stored["param"] if isinstance(stored, dict) else stored).view(-1)
        if flat.numel() != getattr(parameter, "ds_numel", parameter.numel()):
            raise CheckpointError(
                f"{file}: holds {flat.numel()} elements, this run's {self._names[parameter]} has "
                f"{getattr(parameter, 'ds_numel', parameter.numel())}; restore the run file, or "
                "begin a new run.name"
            )
        return flat[start : start + count]


def _fill_stage_1_2(optimizer: Any, reader: _Reader, step: Tensor) -> None:
    """Each group is one flat tensor, cut into a part for each rank wherever that falls."""
    for group, flat in enumerate(optimizer.single_partition_of_fp32_groups):
        targets = {MASTER: flat.data, **_moments(optimizer.optimizer, flat, step)}
        for parameter in optimizer.bit16_groups[group]:
            mapping = parameter._hp_mapping
            if mapping is None:  # none of it is in this rank's part
                continue
            whole, own = mapping.lp_fragment_address, mapping.get_hp_fragment_address()
            for key, target in targets.items():
                values = reader.slice(parameter, key, whole.start, whole.numel)
                target.narrow(0, own.start, own.numel).copy_(values)


def _fill_stage_3(optimizer: Any, reader: _Reader, step: Tensor) -> None:
    """Each parameter is cut into equal parts, the last one padded; a group's parts lie in a row."""
    for group, flat in enumerate(optimizer.fp32_partitioned_groups_flat):
        targets = {MASTER: flat.data, **_moments(optimizer.optimizer, flat, step)}
        offset = 0
        for parameter in optimizer.fp16_groups[group]:
            size = parameter.ds_tensor.ds_numel
            world = parameter.ds_zero_partition_world_size
            assert size == math.ceil(parameter.ds_numel / world), (size, world)
            for key, target in targets.items():
                start = parameter.ds_zero_partition_rank * size
                values = reader.slice(parameter, key, start, size)
                target.narrow(0, offset, len(values)).copy_(values)
            offset += size
        optimizer.fp16_partitioned_groups_flat[group].data.copy_(flat.data)
        parts = optimizer.unflatten(
            optimizer.fp16_partitioned_groups_flat[group],
            optimizer.fp16_partitioned_groups[group],
        )
        for part, values in zip(optimizer.fp16_partitioned_groups[group], parts, strict=True):
            part.data = values.data


def _moments(adam: torch.optim.Optimizer, flat: Tensor, step: Tensor) -> dict[str, Tensor]:
    """This rank's moments, zeroed (padding stays so); its count of steps is set."""
    state = adam.state[flat]
    for key in MOMENTS:
        if key in state:
            state[key].zero_()
        else:
            state[key] = torch.zeros_like(flat)
    state["step"] = step.clone()
    flat.data.zero_()
    return {key: state[key] for key in MOMENTS}
