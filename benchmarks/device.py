"""What a device holds and how fast it multiplies."""

from __future__ import annotations

import statistics
import time

import torch


def product_rate(device: torch.device, dtype: torch.dtype) -> float:
    """FLOPs a second of large square matrix products: what a model could reach at most."""
    side = 8192 if device.type == "cuda" else 1024
    square = torch.randn(side, side, device=device, dtype=dtype)
    rates = []
    for _ in range(12):
        synchronise(device)
        began = time.perf_counter()
        torch.mm(square, square)
        synchronise(device)
        rates.append(2 * side**3 / (time.perf_counter() - began))
    return statistics.median(rates[2:])


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def memory(device: torch.device) -> dict[str, int]:
    """Bytes: at most in tensors, at most held by torch, and now taken from the GPU by everything
    (torch gives nothing back, so this is the peak, too)."""
    if device.type != "cuda":
        return {"tensors": 0, "torch": 0, "all": 0}
    free, total = torch.cuda.mem_get_info()
    return {
        "tensors": torch.cuda.max_memory_allocated(),
        "torch": torch.cuda.max_memory_reserved(),
        "all": total - free,
    }
