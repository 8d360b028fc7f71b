"""What a run's settings ask of the machine: packages, a GPU, an arithmetic, a model that exists.

The command looks at its own Python environment, which workers share (one image, one virtual
environment). Whether there are enough GPUs is Ray's to find out.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec

from gcg.build import build_skeleton
from gcg.errors import ModelError
from launcher.arithmetic import cpu_computes_bf16, cpu_computes_fp16
from launcher.config import RunConfig
from launcher.sinks import missing_sinks


def missing_abilities(config: RunConfig) -> Iterator[str]:
    """A line for each setting that cannot work here."""
    llm, gpu = config.model.llm, config.scale.use_gpu
    if llm.attention == "flash_attention_2":
        yield from _needs("model.llm.attention = flash_attention_2", "flash_attn", "sdpa", gpu)
    if llm.liger:
        yield from _needs("model.llm.liger = true", "liger_kernel", "false", gpu)
    if llm.quantize == "nf4":
        yield from _needs("model.llm.quantize = nf4", "bitsandbytes", "none", gpu)
        if config.engine.zero == 3:
            yield (
                "model.llm.quantize = nf4: ZeRO-3 cannot slice 4-bit weights; use engine.zero=1 "
                "or 2, each worker then keeps the whole LLM, or quantize=none"
            )
    if config.engine.precision == "fp16" and not gpu and not cpu_computes_fp16():
        yield (
            "engine.precision = fp16: this CPU has no fp16 arithmetic; use bf16 or fp32, or "
            "scale.use_gpu=true"
        )
    yield from missing_sinks(config)
    yield from _unbuildable(config)


def slow_settings(config: RunConfig) -> Iterator[str]:
    """A line for each setting that works here, but far slower than another would."""
    if config.engine.precision == "bf16" and not config.scale.use_gpu and not cpu_computes_bf16():
        yield (
            "engine.precision = bf16: this CPU has no bf16 arithmetic and emulates it, matrix "
            "products many times slower than in fp32; use engine.precision=fp32 here"
        )


def _unbuildable(config: RunConfig) -> Iterator[str]:
    """What is wrong with the model itself: seen without its weights, in a second or two."""
    try:
        build_skeleton(config.model)
    except ModelError as error:
        yield from error.lines
    except ValueError as error:
        yield " ".join(str(error).split())


def _needs(setting: str, package: str, instead: str, gpu: bool) -> Iterator[str]:
    if not gpu:
        yield f"{setting}: needs a GPU; set scale.use_gpu=true, or use {instead}"
    elif find_spec(package) is None:
        name = package.replace("_", "-")
        yield f"{setting}: needs the package {name}; pip install {name}, or use {instead}"
