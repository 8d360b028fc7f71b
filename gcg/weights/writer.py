"""Weights into safetensors files, a part at a time: no tensor is ever whole in memory."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping
from math import prod
from pathlib import Path
from typing import Any

import torch

from gcg.weights.files import DTYPES
from gcg.weights.tensors import Weight

CODES = {dtype: code for code, dtype in DTYPES.items()}
SHARD_BYTES = 2_000_000_000
PART = 1 << 24  # values copied at a time


def stored_dtype(weight: Weight, dtype: torch.dtype | None) -> torch.dtype:
    """What a weight is written as: ``dtype``, or as it is (None, and what is no floating point)."""
    return weight.dtype if dtype is None or not weight.dtype.is_floating_point else dtype


def stored_bytes(weight: Weight, dtype: torch.dtype | None) -> int:
    """Size of a weight when written."""
    return prod(weight.shape) * stored_dtype(weight, dtype).itemsize


def write_shards(
    weights: Mapping[str, Weight],
    folder: Path,
    *,
    dtype: torch.dtype | None = None,
    shard_bytes: int = SHARD_BYTES,
    on_bytes: Callable[[int], object] = lambda count: None,
) -> list[Path]:
    """Write weights as ``model.safetensors``, or ``model-….safetensors`` with an index where that
    would be too large, in the order they come.

    Args:
        weights: by name.
        folder: is there, and holds no such files.
        dtype: to cast floating-point values to; None keeps each tensor's.
        shard_bytes: of a file at most, but a larger tensor gets a file of its own.
        on_bytes: told how many bytes were written since.

    Returns:
        The files.
    """
    groups: list[list[str]] = [[]]
    size = 0
    for name, weight in weights.items():
        count = stored_bytes(weight, dtype)
        if groups[-1] and size + count > shard_bytes:
            groups.append([])
            size = 0
        groups[-1].append(name)
        size += count
    files = [
        folder / f"model-{i:05}-of-{len(groups):05}.safetensors" for i in range(1, len(groups) + 1)
    ]
    if len(files) == 1:
        files = [folder / "model.safetensors"]
    for file, names in zip(files, groups, strict=True):
        _write(file, {name: weights[name] for name in names}, dtype, on_bytes)
    if len(files) == 1:
        return files
    total = sum(stored_bytes(weight, dtype) for weight in weights.values())
    index = {
        "metadata": {"total_size": total},
        "weight_map": {
            name: file.name for file, names in zip(files, groups, strict=True) for name in names
        },
    }
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")
    return files


def _write(
    path: Path,
    weights: Mapping[str, Weight],
    dtype: torch.dtype | None,
    on_bytes: Callable[[int], object],
) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    first = 0
    # The library reads tensors at their dtype's alignment: wide ones first keep it without gaps.
    names = sorted(weights, key=lambda name: -stored_dtype(weights[name], dtype).itemsize)
    for name in names:
        last = first + stored_bytes(weights[name], dtype)
        header[name] = {
            "dtype": CODES[stored_dtype(weights[name], dtype)],
            "shape": list(weights[name].shape),
            "data_offsets": [first, last],
        }
        first = last
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name in names:
            weight = weights[name]
            count = prod(weight.shape)
            for start in range(0, count, PART):
                part = weight.flat(start, min(start + PART, count))
                part = part.to(stored_dtype(weight, dtype)).contiguous()
                file.write(memoryview(part.view(torch.uint8).numpy()))  # pyright: ignore[reportArgumentType]
                on_bytes(part.numel() * part.itemsize)
