"""Batches on the device before they are asked for: cast and copied while the step before runs.

On a GPU a step's tensors go through page-locked memory, in the run's precision already (half the
bytes in bf16), and are copied on a stream of their own; the stream that computes waits for an
event, the host for nothing. The loader does so for one step ahead, whatever its own prefetch: the
device holds the inputs of this step and of the next. Frames that a GPU decoder left on the device
stay as they are, and are cast by the step.

On a CPU nothing is copied but what is cast. What the host reads of a batch stays there
(:mod:`gcg.host`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from dataloaders.assemble import StepBatch
from dataloaders.batch import Batch
from gcg.host import HOST_INPUTS
from launcher.config import RunConfig
from launcher.training.engine import model_dtype
from launcher.training.sharded import worker_device

_FRAMES = ("pixel_values", "frame_tokens", "frame_embeddings")


@dataclass(frozen=True)
class UploadedBatch(Batch):
    """A micro-batch with its model's ``inputs`` on the device, but for what the host reads.

    Its own tensors are the host's, which can be read without waiting for the device, but for the
    frames: these are None.
    """

    inputs: Mapping[str, Tensor | None]

    def model_inputs(self) -> dict[str, Tensor | None]:
        return dict(self.inputs)


@dataclass(frozen=True)
class UploadedStep(StepBatch):
    """``ready``: when its inputs are on the device; None on a CPU."""

    ready: torch.cuda.Event | None


class Upload:
    """The last stage of a loader (``dataloaders.assemble.Stage``).

    Args:
        device: where the model's inputs have to be.
        dtype: of those that are floating-point numbers.
    """

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        self._device, self._dtype = device, dtype
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def prepare(self, batch: StepBatch) -> UploadedStep:
        """Begin to bring a step's inputs to the device. Called by a thread of the loader's."""
        if self._stream is None:
            return self._uploaded(batch, None)
        with torch.cuda.stream(self._stream):
            ready = torch.cuda.Event()
            uploaded = self._uploaded(batch, ready)
            ready.record(self._stream)
        return uploaded

    def receive(self, batch: StepBatch) -> None:
        """Let what is computed from now on wait for the step's inputs. Called by the thread that
        computes."""
        assert isinstance(batch, UploadedStep)
        if batch.ready is None:
            return
        stream = torch.cuda.current_stream(self._device)
        stream.wait_event(batch.ready)
        for micro in batch.micro:
            for tensor in micro.model_inputs().values():
                if tensor is not None and tensor.is_cuda:
                    # Else the memory might be given to the next upload while it is computed with.
                    tensor.record_stream(stream)

    def _uploaded(self, batch: StepBatch, ready: torch.cuda.Event | None) -> UploadedStep:
        micro: list[Batch] = [self._on_device(each) for each in batch.micro]
        return UploadedStep(batch.epoch, batch.step, micro, ready)

    def _on_device(self, batch: Batch) -> UploadedBatch:
        inputs = {
            name: tensor if tensor is None or name in HOST_INPUTS else self._moved(tensor)
            for name, tensor in batch.model_inputs().items()
        }
        own = {each.name: getattr(batch, each.name) for each in fields(batch)}
        return UploadedBatch(**{**own, **dict.fromkeys(_FRAMES)}, inputs=inputs)

    def _moved(self, tensor: Tensor) -> Tensor:
        dtype = self._dtype if tensor.is_floating_point() else tensor.dtype
        if self._stream is None:
            return tensor.to(dtype=dtype)
        if tensor.is_cuda:
            return tensor
        locked = torch.empty(tensor.shape, dtype=dtype, pin_memory=True).copy_(tensor)
        return locked.to(self._device, non_blocking=True)


def build_upload(config: RunConfig) -> Upload | None:
    """The stage of a run's loader; None where the inputs are right as they are decoded."""
    device, dtype = worker_device(config), model_dtype(config)
    if device.type == "cpu" and dtype == torch.float32:
        return None
    return Upload(device, dtype)
