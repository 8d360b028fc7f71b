"""DALI behind the loader's clip decoder: clips of several threads in one graph, batch by batch."""

from __future__ import annotations

import logging
import threading
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from dataloaders.container import VideoInfo, probe_headers
from dataloaders.decode_device import DeviceDecoder, counts_alike
from dataloaders.errors import DataError
from dataloaders.fetch import Frames, HostDecoder
from dataloaders.gather import Gatherer
from dataloaders.layout import check_minimum

logger = logging.getLogger(__name__)

# What each decoder takes, by codec; other clips would break a batch that then is done twice. NVDEC:
# NVIDIA's support matrix from Turing on. CPU: DALI 2.4 is built without the other codecs.
_8_BIT, _10_BIT = ("yuv420p", "yuvj420p"), ("yuv420p", "yuvj420p", "yuv420p10le")
_TAKES = {
    "mixed": {"h264": _8_BIT, "hevc": _10_BIT, "vp8": _8_BIT, "vp9": _10_BIT, "av1": _10_BIT},
    "cpu": {"vp8": _8_BIT, "vp9": _8_BIT},
}


class _Request(NamedTuple):
    data: bytes
    indices: np.ndarray
    size: tuple[int, int]


class FrameSizes:
    """The first ``limit`` frame sizes, (width, height), that ask to go to the device.

    NVDEC keeps a decoder, and its memory, for each exact frame size it has met. Which are
    the first depends on the order in which threads come, and pixels of device and host differ by
    a few levels: with more sizes than the limit a run is not repeatable to the bit, and it says so.
    """

    def __init__(self, limit: int) -> None:
        check_minimum("data.max_frame_sizes", limit, 1)
        self._limit = limit
        self._lock = threading.Lock()
        self._sizes: set[tuple[int, int]] = set()
        self._warned = False

    def admit(self, size: tuple[int, int]) -> bool:
        with self._lock:
            if size in self._sizes:
                return True
            if len(self._sizes) < self._limit:
                self._sizes.add(size)
                return True
            if not self._warned:
                self._warned = True
                logger.warning(
                    "clips of more than %d frame sizes (data.max_frame_sizes): those of %dx%d and "
                    "further sizes are decoded on the host, and the run is not repeatable to the "
                    "bit; bring the clips to one size with `gcg pack --transcode`",
                    self._limit, *size,
                )  # fmt: skip
            return False


class DeviceClipDecoder:
    """A ``ClipDecoder`` that gives clips to a :class:`DeviceDecoder`, as many at once as wait.

    The calling threads read the packet headers; one thread runs the graph, which is not
    thread-safe. On a GPU the frames stay there. Clips whose frame numbers the headers do not
    prove, whose format the device does not decode, or that it refuses are decoded on the host by
    the calling thread, and moved to the device. Clips are turned upright as the container asks,
    after the square crop, with which a quarter turn commutes up to the pixel that an odd margin
    leaves over.

    Args:
        device: ``mixed`` (NVDEC) or ``cpu`` (VP8 and VP9 only).
        num_frames: T.
        size: height and width of the result in pixels.
        batch_size: the most clips in the graph at once; on the device each takes T frames at its
            own size before they are resized. More than the calling threads are never waiting.
        max_frame_sizes: the most frame sizes that go to the device; see :class:`FrameSizes`.
        device_id: the CUDA device.

    Raises:
        DataError: DALI or the GPU is absent.
    """

    def __init__(
        self,
        device: Literal["mixed", "cpu"],
        *,
        num_frames: int,
        size: int,
        batch_size: int = 1,
        max_frame_sizes: int = 8,
        device_id: int = 0,
    ) -> None:
        check_minimum("data.decode_threads", batch_size, 1)
        self._sizes = FrameSizes(max_frame_sizes)
        self._decoder = DeviceDecoder(
            device, batch_size=batch_size, num_frames=num_frames, size=size, device_id=device_id
        )
        self._host = HostDecoder(size)
        self._takes = _TAKES[device]
        self._num_frames = num_frames
        self._place = torch.device("cpu" if device == "cpu" else f"cuda:{device_id}")
        self._graph = Gatherer(self._run, limit=batch_size, name="device-decode")
        self._count_lock = threading.Lock()
        self.host_clips = 0
        """Clips that were decoded on the host since the start."""

    def __call__(self, data: bytes, indices: np.ndarray, *, frame_count: int, name: str) -> Frames:
        if len(indices) != self._num_frames:
            raise DataError(f"{name}: {len(indices)} frame indices: must be {self._num_frames}")
        found = probe_headers(data, name=name)
        if found is not None:
            info, index = found
            # Headers that promise other frames than decoding gave at ingest prove nothing.
            alike = info.frame_count == frame_count and counts_alike(index, indices)
            size = (info.width, info.height)
            if alike and self._is_taken(info) and self._sizes.admit(size):
                pixels = self._graph(_Request(data, indices, size))
                if pixels is not None:
                    times = torch.from_numpy(info.times[indices].astype(np.float64))
                    return Frames(_upright(pixels, info.rotation), times)
        with self._count_lock:
            self.host_clips += 1
        frames = self._host(data, indices, frame_count=frame_count, name=name)
        assert frames.pixels is not None
        return Frames(frames.pixels.to(self._place), frames.times)

    def _is_taken(self, info: VideoInfo) -> bool:
        return info.pixel_format in self._takes.get(info.codec, ())

    def _run(self, requests: list[_Request]) -> list[Tensor | None]:
        """One batch. Clips of a size lie side by side, so that they find its decoder free."""
        order = sorted(range(len(requests)), key=lambda k: requests[k].size)
        found = self._decoder.on_device(
            [requests[k].data for k in order], [requests[k].indices for k in order]
        )
        results: list[Tensor | None] = [None] * len(requests)
        for k, frames in zip(order, found, strict=True):
            results[k] = frames
        return results

    def close(self) -> None:
        """End the thread that runs the graph; no calls may follow."""
        self._graph.close()


def _upright(pixels: Tensor, rotation: int) -> Tensor:
    return torch.rot90(pixels, rotation // 90, dims=(2, 3)) if rotation else pixels
