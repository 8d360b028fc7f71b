"""The DeepSpeed engine: a ZeRO profile filled in from the run file, around a model."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import nn

from ds_configs import load_profile
from launcher.config import RunConfig
from launcher.noise import quiet_libraries
from launcher.optimizer import learning_rate_share, parameter_groups

# deepspeed.DeepSpeedEngine, whose own annotations fit only some of its configurations.
Engine = Any


def engine_profile(config: RunConfig) -> dict[str, Any]:
    """The DeepSpeed configuration of a run: the stage's profile with every ``"auto"`` filled."""
    profile = load_profile(config.engine.zero)
    world, micro = config.scale.num_workers, config.engine.micro_batch
    assert micro * config.accumulation * world == config.data.global_batch
    profile["train_batch_size"] = config.data.global_batch
    profile["train_micro_batch_size_per_gpu"] = micro
    profile["gradient_accumulation_steps"] = config.accumulation
    profile["gradient_clipping"] = config.optim.clip_norm
    profile["bf16"]["enabled"] = config.engine.precision == "bf16"
    profile["optimizer"]["params"].update(
        lr=config.optim.lr,
        betas=list(config.optim.betas),
        weight_decay=config.optim.weight_decay,
    )
    # Overlapping needs CUDA streams; gloo on a CPU has none to overlap with.
    profile["zero_optimization"]["overlap_comm"] = config.scale.use_gpu
    return profile


def build_engine(model: nn.Module, config: RunConfig) -> Engine:
    """Wrap ``model`` for training. ``torch.distributed`` must be initialised.

    Args:
        model: an ``nn.Module`` with ``grounding_parameters`` and ``other_trained_parameters``.

    Raises:
        ValueError: the model has no parameter to train.
    """
    deepspeed = import_deepspeed(config.scale.use_gpu)
    profile = engine_profile(config)
    groups = parameter_groups(model, config.optim)  # type: ignore[arg-type]
    engine, *_ = deepspeed.initialize(
        model=model, model_parameters=groups, config=profile, dist_init_required=False
    )
    return engine


def import_deepspeed(use_gpu: bool) -> Any:
    """DeepSpeed, told which accelerator to use and kept from compiling anything.

    The one C++ operator that it would build at start, a shared-memory all-reduce, serves
    tensor-parallel inference. Building it takes g++ and half a minute, and a process killed during
    the build leaves a lock on which every later run would wait for ever.
    """
    if not use_gpu:
        os.environ["DS_ACCELERATOR"] = "cpu"
    quiet_libraries()
    import deepspeed
    import deepspeed.ops

    deepspeed.ops.__dict__["__compatible_ops__"] = {}
    quiet_libraries()
    return deepspeed


def set_learning_rate(engine: Engine, config: RunConfig, step: int) -> float:
    """Set the rates for the update after ``step`` updates; return that of the first group."""
    share = learning_rate_share(step, config.optim)
    for group in engine.optimizer.param_groups:
        group["lr"] = group["base_lr"] * share
    return config.optim.lr * share


def model_dtype(config: RunConfig) -> torch.dtype:
    """What the engine keeps the model's parameters in."""
    return torch.bfloat16 if config.engine.precision == "bf16" else torch.float32
