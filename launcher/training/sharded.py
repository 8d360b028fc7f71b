"""A model that is never whole on a rank: under ZeRO-3 each rank reads its own share of each weight.

ZeRO-3 cuts every parameter, flattened and padded, into as many equal slices as there are ranks, and
rank r keeps slice r. So the model is built without weights, each parameter is told to DeepSpeed as
partitioned, and its slice is read straight from the checkpoint's file. Nothing is gathered, sent or
read twice; what a rank needs at its peak is its share of the model and
:data:`gcg.skeleton.CHUNK` elements on their way from the file.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from gcg.build import build_model, build_skeleton, model_weights, used_parts
from gcg.model import GCGModel
from gcg.skeleton import buffers_to, copy_flat, fill, replace
from gcg.tokens import load_tokens
from gcg.weights import Weight, fetch_sources
from launcher.config import RunConfig
from launcher.training.engine import engine_profile, import_deepspeed, model_dtype


def build_for_engine(config: RunConfig) -> GCGModel:
    """This rank's model, in the engine's precision and on its device: sharded under ZeRO-3.

    Every rank calls it; ``torch.distributed`` must be initialised. Under ZeRO-1 and 2 each rank
    reads the whole model from the files, with no second copy at any time.

    Raises:
        ModelError: the checkpoint is of another model.
    """
    import_deepspeed(config.scale.use_gpu)  # before peft does, for another device perhaps
    dtype, device = model_dtype(config), worker_device(config)
    if config.engine.zero != 3:
        return build_model(config.model, config.run.seed, dtype, device)
    fetch_sources(config.model, used_parts(config.model))
    model = build_skeleton(config.model, load_tokens(config.model))
    shard(model, model_weights(model, config.model, config.run.seed), config)
    return model


def shard(model: nn.Module, values: Iterable[tuple[str, Weight]], config: RunConfig) -> None:
    """Partition a skeleton for ZeRO-3 and fill this rank's slices from ``values``, in place.

    The result is what DeepSpeed would make of the whole model: its engine takes it as it is.

    Raises:
        ModelError: a parameter has no values, or values of another shape.
    """
    init = _partitioner(config)
    dtype, device = model_dtype(config), worker_device(config)

    def place(parameter: nn.Parameter, source: Weight) -> None:
        _partition(init, parameter, dtype, device)
        own = parameter.ds_tensor  # type: ignore[attr-defined]
        start = parameter.ds_zero_partition_rank * len(own)  # type: ignore[attr-defined]
        there = max(0, min(len(own), parameter.ds_numel - start))  # type: ignore[attr-defined]
        copy_flat(source, start, own[:there])

    fill(model, values, place)
    buffers_to(model, device)  # DeepSpeed leaves a partitioned model where it is


def worker_device(config: RunConfig) -> torch.device:
    """The device of this worker, as DeepSpeed chooses it."""
    if not config.scale.use_gpu:
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ["LOCAL_RANK"]))


def _partitioner(config: RunConfig) -> Any:
    """DeepSpeed's object that turns a parameter into a partitioned one."""
    deepspeed = import_deepspeed(config.scale.use_gpu)
    deepspeed.comm.init_distributed(
        deepspeed.get_accelerator().communication_backend_name(), dist_init_required=False
    )
    init = deepspeed.zero.Init(config_dict_or_path=engine_profile(config))
    # As for a model that is handed over whole. Torch's own linear function would keep the gathered
    # weight of every layer until the backward pass has come to it.
    init._enable_mem_efficient_linear()
    return init


def _partition(init: Any, parameter: nn.Parameter, dtype: torch.dtype, device: Any) -> None:
    """Make a parameter on the meta device a partitioned one, its slice zero.

    What ``zero.Init`` does to a parameter in memory (``_zero_init_param``), but for the broadcast
    of its values and the copy of one slice of them.
    """
    from deepspeed.accelerator import get_accelerator
    from deepspeed.runtime.swap_tensor.partitioned_param_swapper import PartitionedParamStatus
    from deepspeed.runtime.zero.partition_parameters import free_param

    # One element that claims to be all of them: DeepSpeed reads the shape off the tensor.
    replace(parameter, torch.zeros((), dtype=dtype, device=device).expand(parameter.shape))
    init._convert_to_deepspeed_param(parameter)
    param: Any = parameter
    aligned = param.aligned_size()
    # Offloaded weights lie in the host's memory but for small ones, which stay whole.
    offloaded = init.remote_device == "cpu" and not param.ds_persist
    place = "cpu" if offloaded else device
    own: Any = torch.zeros(aligned // init.dp_world_size, dtype=dtype, device=place)
    if offloaded and init.pin_memory:
        accelerator: Any = get_accelerator()
        own = accelerator.pin_memory(own)
    own.ds_numel, own.status, own.final_location = (
        len(own),
        PartitionedParamStatus.AVAILABLE,
        None,
    )
    param.ds_tensor, param.ds_numel_aligned = own, aligned
    free_param(param)
