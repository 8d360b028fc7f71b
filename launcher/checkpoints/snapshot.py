"""A copy in host memory of what DeepSpeed would write, so that training goes on at once."""

from __future__ import annotations

import copy
from typing import Any

import torch
from deepspeed.runtime.checkpoint_engine import TorchCheckpointEngine
from torch import Tensor

from launcher.checkpoints.safe_load import load


class HostMemory:
    """Tensors in host memory that are used again for the next snapshot.

    Touching fresh memory costs several times as much as copying into memory touched before.
    """

    def __init__(self) -> None:
        self._free: dict[tuple[torch.Size, torch.dtype], list[Tensor]] = {}

    def copy(self, tensor: Tensor) -> Tensor:
        """A copy, of the values alone: the original may be a view of something larger."""
        free = self._free.get((tensor.shape, tensor.dtype))
        own = free.pop() if free else torch.empty(tensor.shape, dtype=tensor.dtype)
        return own.copy_(tensor.detach())

    def give_back(self, tensors: list[Tensor]) -> None:
        for tensor in tensors:
            self._free.setdefault((tensor.shape, tensor.dtype), []).append(tensor)


class Snapshot:
    """Files to write: a path (or URL) and its content each. ``tensors`` are the copies in them."""

    def __init__(self) -> None:
        self.files: list[tuple[str, Any]] = []
        self.tensors: list[Tensor] = []


class SnapshotEngine(TorchCheckpointEngine):
    """DeepSpeed's checkpoint engine; while a snapshot is taken, saving fills it and no file.

    What it loads may hold nothing but what a checkpoint holds.

    Args:
        memory: where copies come from.
    """

    def __init__(self, memory: HostMemory) -> None:
        super().__init__()
        self._memory = memory
        self._snapshot: Snapshot | None = None

    def begin(self) -> None:
        self._snapshot = Snapshot()

    def end(self) -> Snapshot:
        """What was saved since :meth:`begin`."""
        snapshot, self._snapshot = self._snapshot, None
        assert snapshot is not None
        return snapshot

    def save(self, state_dict: Any, path: str) -> None:
        if self._snapshot is None:
            super().save(state_dict, path)
        else:
            self._snapshot.files.append((path, self._copied(state_dict)))

    def load(self, path: str, map_location: Any = None) -> Any:
        return load(path, map_location=map_location)

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        if self._snapshot is None:  # else the writer makes them
            super().makedirs(path, exist_ok=exist_ok)

    def preserves_storage_sharing(self) -> bool:
        return self._snapshot is None  # copies of views hold no more than the views

    def _copied(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            assert self._snapshot is not None
            own = self._memory.copy(value)
            self._snapshot.tensors.append(own)
            return own
        if isinstance(value, dict):
            same = copy.copy(value)  # an OrderedDict with attributes stays one
            same.update((key, self._copied(item)) for key, item in value.items())
            return same
        if type(value) in (list, tuple):  # no torch.Size, which is a tuple too
            return type(value)(self._copied(item) for item in value)
        return copy.deepcopy(value)  # a loss scaler goes on changing
