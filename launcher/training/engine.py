"""The DeepSpeed engine: a ZeRO profile filled in from the run file, around a model."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from ds_configs import load_profile
from gcg.recompute import recompute_activations
from launcher.config import RunConfig
from launcher.training.noise import quiet_libraries
from launcher.training.optimizer import learning_rate_share, parameter_groups

# deepspeed.DeepSpeedEngine, whose own annotations fit only some of its configurations.
Engine = Any

# What a run file calls a part, and DeepSpeed.
_OFFLOADED = {"optimizer": "offload_optimizer", "weights": "offload_param"}

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def engine_profile(config: RunConfig) -> dict[str, Any]:
    """The DeepSpeed configuration of a run: the stage's profile with every ``"auto"`` filled."""
    profile = load_profile(config.engine.zero)
    world, micro = config.world_size, config.engine.micro_batch
    assert micro * config.accumulation * world == config.data.global_batch
    profile["train_batch_size"] = config.data.global_batch
    profile["train_micro_batch_size_per_gpu"] = micro
    profile["gradient_accumulation_steps"] = config.accumulation
    profile["gradient_clipping"] = config.optim.clip_norm
    profile["bf16"]["enabled"] = config.engine.precision == "bf16"
    profile["fp16"].update(
        enabled=config.engine.precision == "fp16",
        initial_scale_power=config.engine.loss_scale_power,
        loss_scale_window=config.engine.loss_scale_window,
    )
    profile["optimizer"]["params"].update(
        lr=config.optim.lr,
        betas=list(config.optim.betas),
        weight_decay=config.optim.weight_decay,
    )
    # Overlapping needs CUDA streams; gloo on a CPU has none to overlap with.
    profile["zero_optimization"]["overlap_comm"] = config.scale.use_gpu
    for part in config.engine.offload:
        profile["zero_optimization"][_OFFLOADED[part]] = {"device": "cpu"}
    return profile


def build_engine(model: nn.Module, config: RunConfig) -> Engine:
    """Wrap ``model`` for training. ``torch.distributed`` must be initialised.

    Args:
        model: an ``nn.Module`` with ``grounding_parameters`` and ``other_trained_parameters``; for
            ``engine.recompute`` a ``GCGModel``. Partitioned already, or whole.

    Raises:
        ValueError: the model has no parameter to train, or a part cannot be recomputed.
    """
    recompute_activations(model, config.engine.recompute)
    deepspeed = import_deepspeed(config.scale.use_gpu)
    profile = engine_profile(config)
    groups = parameter_groups(model, config.optim)  # type: ignore[arg-type]
    engine, *_ = deepspeed.initialize(
        model=model, model_parameters=groups, config=profile, dist_init_required=False
    )
    # A script beside each checkpoint, for reading it without us; `final/` and `gcg checkpoints`
    # serve for that, and what is written must be written by one thread that may fail.
    engine._copy_recovery_script = lambda save_path: None
    if config.engine.zero == 3:
        _name_foreign_weights(model, deepspeed)
        _gather_small_weights_at_once(engine.optimizer.persistent_parameters)
    if config.engine.precision == "fp16":
        # At the smallest scale DeepSpeed would raise; how long to go on is the step's to decide.
        engine.optimizer.loss_scaler.raise_error_at_min_scale = False
    return engine


def _name_foreign_weights(model: nn.Module, deepspeed: Any) -> None:
    """Tell ZeRO-3 of weights that one module reads and another owns.

    DeepSpeed notices by itself in the engine's forward pass, but the encoders also run outside of
    it (evaluation, ``launcher.training.contrast``): there CLIP's text embeddings, which look at the
    size of their position table, would find a partitioned one.
    """
    from transformers.models.clip.modeling_clip import CLIPTextEmbeddings

    for module in model.modules():
        if isinstance(module, CLIPTextEmbeddings):
            table = module.position_embedding.weight
            deepspeed.zero.register_external_parameter(module, table)


def _gather_small_weights_at_once(small: Sequence[Any]) -> None:
    """Weights that ZeRO-3 keeps whole, in one collective after each update.

    DeepSpeed 0.19.8 has the first of them gather all, which takes a collective for each: hundreds
    of a few kilobytes, whose delays grow with the number of ranks.
    """
    if not small:
        return
    first = small[0]
    one_by_one = first.all_gather

    def all_gather(param_list: Any = None, **options: Any) -> Any:
        if param_list is not small:
            return one_by_one(param_list, **options)
        missing = [each for each in small if each.ds_status.name == "NOT_AVAILABLE"]
        return first.all_gather_coalesced(missing).wait()

    first.all_gather = all_gather


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


def keep_adam(engine: Engine) -> None:
    """AdamW's form as the profiles have it, one pass over memory wherever it runs, after groups and
    states were read from a checkpoint whose optimizer may have had another, or another place."""
    for group in engine.optimizer.param_groups:
        group["fused"] = True
    for state in engine.optimizer.optimizer.state.values():
        state["step"] = state["step"].to(state["exp_avg"].device)


def set_learning_rate(engine: Engine, config: RunConfig, step: int) -> float:
    """Set the rates for the update after ``step`` updates; return that of the projection.

    ``step`` counts updates that fp16 skipped: the schedule follows the data, not the optimizer.
    """
    for group in engine.optimizer.param_groups:
        share = learning_rate_share(step, config.optim, group["name"])
        group["lr"] = group["base_lr"] * share
    return config.optim.lr * learning_rate_share(step, config.optim)


def model_dtype(config: RunConfig) -> torch.dtype:
    """What the engine keeps the model's parameters in."""
    return _DTYPES[config.engine.precision]
