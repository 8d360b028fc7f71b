"""Decode, resize, crop and normalise as one DALI graph: NVDEC on a GPU, or VP9 on a CPU.

The steps, constants and rounding are those of `decode` and `transform`. Two things differ by DALI's
nature: its YUV to RGB is BT.601 whatever the stream's tags say, and it upsamples colour otherwise,
so pixels differ by a few levels. Frame numbers must not differ, and NVDEC knows nothing of edit
lists: only clips whose packet headers prove what each number is go to it; the others, and clips
that DALI refuses, are decoded on the host. Frames are not turned: rotation is baked in at ingest.
Only this module imports DALI, when a decoder is built.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Literal, cast

import numpy as np
import torch

from dataloaders.bitstream import Unprovable
from dataloaders.container import open_clip
from dataloaders.decode import decode_frames
from dataloaders.errors import DataError
from dataloaders.packet_index import PacketIndex, packet_index
from dataloaders.transform import CLIP_MEAN, CLIP_STD, preprocess

logger = logging.getLogger(__name__)


class DeviceDecoder:
    """Decodes batches of clips to float32 (T, 3, size, size), normalised, on the device.

    device: "mixed" (NVDEC; tensors on the GPU) or "cpu" (DALI decodes VP9 there; for tests).
    batch_size: the most clips a call may bring. num_frames: T. num_threads: DALI's CPU threads.
    Not thread-safe: give each thread its own. Raises DataError if DALI or the GPU is absent.
    """

    def __init__(
        self,
        device: Literal["mixed", "cpu"] = "mixed",
        *,
        batch_size: int,
        num_frames: int,
        size: int,
        mean: tuple[float, float, float] = CLIP_MEAN,
        std: tuple[float, float, float] = CLIP_STD,
        device_id: int = 0,
        num_threads: int = 2,
    ) -> None:
        if device not in ("mixed", "cpu"):
            raise DataError(f"device: {device!r}: must be 'mixed' or 'cpu'; set one of them")
        if device == "mixed" and not torch.cuda.is_available():
            raise DataError(
                "device: 'mixed': no CUDA device is visible; decode on the host instead"
            )
        self.device = device
        self.batch_size = batch_size
        self.num_frames = num_frames
        self.size = size
        self.mean, self.std = mean, std
        self.device_id = device_id if device == "mixed" else None
        self.num_threads = num_threads
        self.host_clips = 0
        self._pipeline: Any = self._build()

    def __call__(
        self,
        clips: Sequence[bytes],
        indices: Sequence[np.ndarray],
        names: Sequence[str] | None = None,
    ) -> list[torch.Tensor | DataError]:
        """Each clip's frames, or the DataError that says why it cannot be decoded.

        clips: file contents. indices: per clip (T,) frame numbers in presentation order. names:
        paths, for messages. `host_clips` counts the clips decoded on the host since the start.
        """
        names = names or [f"clip {k} of the batch" for k in range(len(clips))]
        if not 0 < len(clips) <= self.batch_size:
            raise DataError(f"clips: {len(clips)}: must be 1 to {self.batch_size} (batch_size)")
        for name, chosen in zip(names, indices, strict=True):
            if len(chosen) != self.num_frames:
                raise DataError(f"{name}: {len(chosen)} frame indices: must be {self.num_frames}")
        proven = [k for k, clip in enumerate(clips) if self._is_proven(clip, indices[k])]
        found = self.on_device([clips[k] for k in proven], [indices[k] for k in proven])
        frames = dict(zip(proven, found, strict=True))
        results: list[torch.Tensor | DataError] = []
        for k, (clip, chosen, name) in enumerate(zip(clips, indices, names, strict=True)):
            decoded = frames.get(k)
            results.append(self._on_host(clip, chosen, name) if decoded is None else decoded)
        return results

    @staticmethod
    def _is_proven(clip: bytes, chosen: np.ndarray) -> bool:
        try:
            with open_clip(clip) as (container, stream):
                return counts_alike(packet_index(container, stream), chosen)
        except (Unprovable, DataError):
            return False

    def on_device(
        self, clips: Sequence[bytes], indices: Sequence[np.ndarray]
    ) -> list[torch.Tensor | None]:
        """Frames of clips for which :func:`counts_alike` holds; None where DALI refuses one.

        DALI fails a whole batch for one clip that it cannot decode: then the clips are tried one
        by one, so that the others still come.
        """
        if not clips:
            return []
        try:
            return list(self._run(list(clips), list(indices)))
        except RuntimeError as error:
            logger.debug("DALI refuses a batch of %d: %s", len(clips), _reason(error))
        if len(clips) == 1:
            return [None]
        return [self.on_device([c], [i])[0] for c, i in zip(clips, indices, strict=True)]

    def _on_host(self, clip: bytes, chosen: np.ndarray, name: str) -> torch.Tensor | DataError:
        self.host_clips += 1
        try:
            frames = decode_frames(clip, chosen, name=name).frames
        except DataError as error:
            return error
        pixels = preprocess(frames, self.size, self.mean, self.std)
        return pixels if self.device_id is None else pixels.to(f"cuda:{self.device_id}")

    def _run(self, clips: list[bytes], indices: list[np.ndarray]) -> list[torch.Tensor]:
        """One batch through the graph; a RuntimeError leaves the graph to be built anew."""
        pipeline = self._pipeline or self._build()
        self._pipeline = None
        try:
            (out,) = pipeline.run(
                encoded=[np.frombuffer(clip, np.uint8) for clip in clips],
                indices=[np.asarray(chosen, np.int32) for chosen in indices],
            )
        except (IndexError, ValueError, TypeError) as error:  # DALI maps its errors to these too
            raise RuntimeError(str(error)) from error
        # A copy: DALI takes its buffers back at the next run.
        dense = out.as_tensor()
        if self.device == "mixed":
            frames = torch.from_dlpack(dense).clone()
            torch.cuda.current_stream(frames.device).synchronize()  # the copy is made by then
        else:
            frames = torch.from_numpy(np.array(dense))
        self._pipeline = pipeline
        return list(frames)

    def _build(self) -> Any:
        try:
            from nvidia import dali
            from nvidia.dali import fn
        except ImportError as error:
            raise DataError(
                "decoder: 'dali': NVIDIA DALI is not installed; `pip install 'gcg-train[dali]'` or "
                "decode on the host"
            ) from error

        library: Any = dali  # its types are made at run time, unseen by a type checker
        types, operators = library.types, cast("Any", fn)

        @library.pipeline_def
        def graph() -> Any:
            encoded = operators.external_source(name="encoded", dtype=types.UINT8, ndim=1)
            indices = operators.external_source(name="indices", dtype=types.INT32, ndim=1)
            # "none": an index past the end is an error; the default gives black frames.
            frames = operators.decoders.video(
                encoded, frames=indices, device=self.device, pad_mode="none", affine=False
            )
            resized = operators.resize(
                frames,
                mode="not_smaller",
                size=[self.size, self.size],
                interp_type=types.INTERP_CUBIC,
                antialias=True,
            )
            return operators.crop_mirror_normalize(
                resized,
                crop=(self.size, self.size),
                rounding="truncate",  # as transform.crop_start
                dtype=types.FLOAT,
                output_layout="FCHW",
                mean=[255 * value for value in self.mean],
                std=[255 * value for value in self.std],
            )

        # Depth 1: results must not lag behind the inputs, and the loader prefetches by itself.
        pipeline = graph(
            batch_size=self.batch_size,
            num_threads=self.num_threads,
            device_id=self.device_id,
            prefetch_queue_depth=1,
        )
        pipeline.build()
        return pipeline


def counts_alike(index: PacketIndex, chosen: np.ndarray) -> bool:
    """Whether packet headers prove that these frame numbers mean the same to DALI and to us."""
    count = len(index.presented)
    return count == len(index.packets) and 0 <= min(chosen) <= max(chosen) < count


def _reason(error: BaseException) -> str:
    """The telling line of DALI's message: the one after its own traceback."""
    text = str(error).partition("encountered:")[2] or str(error)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return (lines or ["no reason given"])[0][:200]
