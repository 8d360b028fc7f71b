"""What the devices of a run could compute at most: the yardstick of MFU.

A GPU's peak is its data sheet's, for matrix products without sparsity. A CPU has none that says
anything: there a product is timed, by all workers at the same time, since they share the machine.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
import torch.distributed as dist

from launcher.config import RunConfig
from launcher.training.engine import model_dtype

# 10^12 FLOPs a second of a part of a GPU's name: in bf16 and fp16 on tensor cores, and in fp32
# (without TF32, which torch leaves off). NVIDIA's data sheets; the first name that fits counts.
# V100 and T4 compute bf16 without tensor cores: their figure is fp16's.
_PUBLISHED: tuple[tuple[str, float, float], ...] = (
    ("GB200", 2500.0, 80.0),
    ("B200", 2250.0, 75.0),
    ("H200", 989.0, 67.0),
    ("GH200", 989.0, 67.0),
    ("H100 NVL", 835.0, 60.0),
    ("H100 PCIe", 756.0, 51.0),
    ("H100", 989.0, 67.0),
    ("H800", 989.0, 67.0),
    ("A100", 312.0, 19.5),
    ("A800", 312.0, 19.5),
    ("A30", 165.0, 10.3),
    ("A40", 149.7, 37.4),
    ("A10G", 70.0, 35.0),
    ("A10", 125.0, 31.2),
    ("L40S", 362.0, 91.6),
    ("L40", 181.0, 90.5),
    ("L4", 121.0, 30.3),
    ("RTX 4090", 165.2, 82.6),
    ("V100", 125.0, 15.7),
    ("T4", 65.0, 8.1),
)
_PROBE_SIZE = 384
_PROBE_S = 0.1


@dataclass(frozen=True)
class Peak:
    """Of all workers together, 10^12 FLOPs a second; None where it is unknown. ``source`` says
    where the figure is from, or why there is none."""

    tflops: float | None
    source: str


def published_tflops(name: str, dtype: torch.dtype) -> float | None:
    """The data sheet's figure for a GPU by its name, None where it is not listed.

    ``dtype``: bfloat16, float16 or float32.
    """
    words = name.replace("-", " ")
    for part, half, single in _PUBLISHED:
        if f" {part} " in f" {words} ":
            return single if dtype == torch.float32 else half
    return None


def product_tflops(dtype: torch.dtype) -> float:
    """The rate of the fastest of a tenth of a second's matrix products on the CPU.

    Uses no random numbers: training goes on as if it had not been called.
    """
    left = torch.ones(_PROBE_SIZE, _PROBE_SIZE, dtype=dtype)
    _ = left @ left
    best, until = float("inf"), time.perf_counter() + _PROBE_S
    while (began := time.perf_counter()) < until:
        _ = left @ left
        best = min(best, time.perf_counter() - began)
    return 2 * _PROBE_SIZE**3 / best / 1e12


def find_peak(config: RunConfig, device: torch.device) -> Peak:
    """The peak of all workers. Every rank calls it."""
    dtype = model_dtype(config)
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        own, source = published_tflops(name, dtype), f"{name}, {config.engine.precision}"
    else:
        dist.barrier()
        own, source = product_tflops(dtype), f"measured products in {config.engine.precision}"
    found: list[tuple[float | None, str]] = [(None, "")] * dist.get_world_size()
    dist.all_gather_object(found, (own, source))
    for rank_peak, rank_source in found:
        if rank_peak is None:
            return Peak(None, f"{rank_source}: no published peak is known")
    total = sum(peak or 0.0 for peak, _ in found)
    return Peak(round(total, 6), f"{len(found)} x {source}")
