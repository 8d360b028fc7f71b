"""What a run's settings ask of the machine: packages, a GPU, an arithmetic, a model that exists.

The command looks at its own Python environment, which workers share (one image, one virtual
environment). Whether a cluster has enough GPUs is Ray's to find out.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.util import find_spec

from launcher.checks.arithmetic import cpu_computes_bf16, cpu_computes_fp16
from launcher.checks.model import model_problems
from launcher.config import RunConfig
from launcher.observe.sinks import missing_sinks


def missing_abilities(config: RunConfig) -> Iterator[str]:
    """A line for each setting that cannot work here."""
    gpu = config.scale.use_gpu
    yield from impossible_settings(config)
    for setting, package, instead in _gpu_settings(config):
        if gpu and not _is_installed(package):
            name = package.replace("_", "-")
            yield f"{setting}: needs the package {name}; pip install {name}, or use {instead}"
    if config.engine.precision == "fp16" and not gpu and not cpu_computes_fp16():
        yield (
            "engine.precision = fp16: this CPU has no fp16 arithmetic; use bf16 or fp32, or "
            "scale.use_gpu=true"
        )
    if config.data.decoder == "dali" and not _is_installed("nvidia.dali"):
        yield (
            "data.decoder = dali: needs the package nvidia-dali; pip install 'gcg-train[dali]', or "
            "use host"
        )
    yield from missing_sinks(config)
    yield from model_problems(config.model)


def impossible_settings(config: RunConfig) -> Iterator[str]:
    """A line for each setting that cannot work on any machine."""
    for setting, _, instead in _gpu_settings(config):
        if not config.scale.use_gpu:
            yield f"{setting}: needs a GPU; set scale.use_gpu=true, or use {instead}"
    if config.model.llm.quantize == "nf4" and config.engine.zero == 3:
        yield (
            "model.llm.quantize = nf4: ZeRO-3 cannot slice 4-bit weights; use engine.zero=1 "
            "or 2, each worker then keeps the whole LLM, or quantize=none"
        )


def _gpu_settings(config: RunConfig) -> Iterator[tuple[str, str, str]]:
    """Settings that need a GPU and a package: setting, package, what to use instead."""
    llm = config.model.llm
    if llm.attention == "flash_attention_2":
        yield "model.llm.attention = flash_attention_2", "flash_attn", "sdpa"
    if llm.liger:
        yield "model.llm.liger = true", "liger_kernel", "false"
    if llm.quantize == "nf4":
        yield "model.llm.quantize = nf4", "bitsandbytes", "none"


def slow_settings(config: RunConfig) -> Iterator[str]:
    """A line for each setting that works here, but slower than another would, or for nothing."""
    if config.engine.precision == "bf16" and not config.scale.use_gpu and not cpu_computes_bf16():
        yield (
            "engine.precision = bf16: this CPU has no bf16 arithmetic and emulates it, matrix "
            "products many times slower than in fp32; use engine.precision=fp32 here"
        )
    if config.engine.offload and not config.scale.use_gpu:
        yield (
            f"engine.offload = {list(config.engine.offload)}: saves GPU memory, and without a GPU "
            "all lies in host memory anyway; leave it out where scale.use_gpu=false"
        )


def too_few_gpus(config: RunConfig) -> Iterator[str]:
    """At most a line: a run on this machine alone, with fewer GPUs here than workers.

    In a cluster nobody but Ray knows, and it may grow.
    """
    import torch

    alone = not (config.scale.address or os.environ.get("RAY_ADDRESS"))
    there, workers = torch.cuda.device_count(), config.world_sizes[0]
    if config.scale.use_gpu and alone and there < workers:
        lower = f"lower scale.num_workers to {there}, " if there else ""
        yield (
            f"scale.use_gpu = true: scale.num_workers = {workers} need a GPU each, this machine "
            f"has {there}; {lower}join a cluster (scale.address), or use scale.use_gpu=false"
        )


def _is_installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ModuleNotFoundError:  # of the package that it would be part of
        return False
