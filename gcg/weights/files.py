"""Checkpoint files: which tensors they hold, and where; nothing but headers is read here.

Safetensors files (one, or shards with an index) and PyTorch's ``.bin`` (likewise).
"""

from __future__ import annotations

import json
import logging
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gcg.errors import ModelError
from gcg.weights.tensors import InMemory, StoredTensor, Weight

log = logging.getLogger(__name__)

DTYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "I16": torch.int16,
    "I32": torch.int32,
    "I64": torch.int64,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "F32": torch.float32,
    "F64": torch.float64,
}
# Of several kinds in one folder the first is read.
HUGGING_FACE = ("model.safetensors", "pytorch_model.bin")
OPEN_CLIP = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
# What torch raises on a file that is no pickle, or a damaged one.
_UNPICKLING = (pickle.UnpicklingError, struct.error, EOFError, LookupError, TypeError, ValueError)
MAX_HEADER = 100_000_000  # bytes; what the safetensors library allows


def read_checkpoint(
    place: Path,
    names: tuple[str, ...] = HUGGING_FACE,
    wanted: Callable[[str], bool] = lambda key: True,
) -> dict[str, Weight]:
    """The tensors of a checkpoint by the file's names.

    Args:
        place: a file, or a folder that holds one of ``names`` or shards with ``<name>.index.json``.
        names: file names, the preferred one first.
        wanted: which tensors; shards that hold none of them need not be there.

    Raises:
        ModelError: there is no such file, a shard is missing, or a header is damaged.
    """
    files = weight_files(place, names, wanted)
    if not files:
        raise ModelError(
            f"{place}: holds no weights ({' or '.join(names)}, or shards with an index); give the "
            "whole folder"
        )
    found: dict[str, Weight] = {}
    for file in files:
        if not file.is_file():
            raise ModelError(f"{file}: is missing, though the index names it; fetch it again")
        found |= _read_file(file)
    return {name: weight for name, weight in found.items() if wanted(name)}


def weight_files(
    place: Path,
    names: tuple[str, ...] = HUGGING_FACE,
    wanted: Callable[[str], bool] = lambda key: True,
) -> list[Path]:
    """The files of a checkpoint, there or not; empty where nothing says which they are."""
    if place.is_file():
        return [place]
    for name in names:
        if (place / name).is_file():
            return [place / name]
        index = place / f"{name}.index.json"
        if index.is_file():
            shards = {shard for key, shard in read_index(index).items() if wanted(key)}
            return [place / shard for shard in sorted(shards)]
    return []


def read_index(path: Path) -> dict[str, str]:
    """Which shard holds which tensor."""
    try:
        shards = json.loads(path.read_text())["weight_map"]
        for shard in map(str, shards.values()):
            if Path(shard).name != shard:
                raise ValueError(f"{shard[:80]!r} is no name of a file beside it")
        return {str(name): str(shard) for name, shard in shards.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f"{path}: is no index of shards ({error!r}); fetch the file again"
        ) from None


def _read_file(path: Path) -> dict[str, Weight]:
    return _safetensors(path) if path.suffix == ".safetensors" else _torch_file(path)


def _safetensors(path: Path) -> dict[str, Weight]:
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > min(MAX_HEADER, size):
                raise ValueError(f"a header of {length} bytes")
            header = json.loads(file.read(length))
        found: dict[str, Weight] = {}
        for name, entry in header.items():
            if name != "__metadata__":
                first, last = entry["data_offsets"]
                if 8 + length + last > size:
                    raise ValueError(f"it ends before {name}")
                shape = tuple(map(int, entry["shape"]))
                found[name] = StoredTensor(path, 8 + length + first, shape, DTYPES[entry["dtype"]])
        return found
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f"{path}: cannot be read as safetensors ({error}); fetch the file again"
        ) from None


def _torch_file(path: Path) -> dict[str, Weight]:
    """A pickled state dict: only tensors and plain containers are allowed in it."""
    try:
        # On the meta device nothing but the pickle is read, and each storage tells its place.
        state = torch.load(path, map_location="meta", weights_only=True)
        places = {name: _place(path, value) for name, value in _tensors(path, state).items()}
        if all(place is not None for place in places.values()):
            return {name: place for name, place in places.items() if place is not None}
        log.info("%s: some of its tensors do not lie in one piece; it is read whole", path)
        state = torch.load(path, map_location="cpu", weights_only=True)
        return {name: InMemory(value) for name, value in _tensors(path, state).items()}
    except ModelError:
        raise
    except (*_UNPICKLING, OSError, RuntimeError) as error:
        reason = str(error).split("\n")[0]
        raise ModelError(
            f"{path}: cannot be read as a PyTorch state dict ({reason}); fetch the file again"
        ) from None


def _tensors(path: Path, state: Any) -> dict[str, Tensor]:
    """The state dict itself, which training scripts like to wrap, without ``module.``."""
    for key in ("state_dict", "model", "module"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict):
        raise ModelError(f"{path}: holds a {type(state).__name__}, not a state dict")
    return {
        str(name).removeprefix("module."): value
        for name, value in state.items()
        if isinstance(value, Tensor)
    }


def _place(path: Path, tensor: Tensor) -> StoredTensor | None:
    offset = getattr(tensor.untyped_storage(), "_checkpoint_offset", None)
    if offset is None or not tensor.is_contiguous():
        return None
    first = int(offset) + int(tensor.storage_offset()) * tensor.dtype.itemsize
    return StoredTensor(path, first, tuple(tensor.shape), tensor.dtype)
