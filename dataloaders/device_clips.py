"""DALI behind the loader's clip decoder: one graph, used by one thread at a time."""

from __future__ import annotations

import threading
from typing import Literal

import numpy as np
import torch

from dataloaders.container import probe
from dataloaders.decode_device import DeviceDecoder
from dataloaders.errors import DataError
from dataloaders.fetch import Frames, HostDecoder


class DeviceClipDecoder:
    """A ``ClipDecoder`` that gives clips to a :class:`DeviceDecoder`, one at a time.

    Threads wait for each other: decoding is the device's work, and a graph is not thread-safe.
    Clips are turned upright as the container asks, after the square crop, with which a quarter
    turn commutes up to the pixel that an odd margin leaves over.

    Args:
        device: ``mixed`` (NVDEC) or ``cpu`` (VP9 only; other codecs are decoded on the host).
        num_frames: T.
        size: height and width of the result in pixels.
        device_id: the CUDA device.

    Raises:
        DataError: DALI or the GPU is absent.
    """

    def __init__(
        self, device: Literal["mixed", "cpu"], *, num_frames: int, size: int, device_id: int = 0
    ) -> None:
        self._decoder = DeviceDecoder(
            device, batch_size=1, num_frames=num_frames, size=size, device_id=device_id
        )
        self._host = HostDecoder(size)
        self._lock = threading.Lock()

    @property
    def host_clips(self) -> int:
        """Clips that DALI could not be trusted with and the graph's own fallback decoded."""
        return self._decoder.host_clips

    def __call__(self, data: bytes, indices: np.ndarray, *, frame_count: int, name: str) -> Frames:
        info = probe(data, name=name)
        if info.frame_count != frame_count:
            # The headers promise other frames than decoding gave at ingest: decode it whole.
            return self._host(data, indices, frame_count=frame_count, name=name)
        with self._lock:
            (result,) = self._decoder([data], [indices], [name])
        if isinstance(result, DataError):
            raise result
        upright = torch.rot90(result, info.rotation // 90, dims=(2, 3)) if info.rotation else result
        return Frames(upright, torch.from_numpy(info.times[indices].astype(np.float64)))
