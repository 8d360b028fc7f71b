"""Decode, resize, crop and normalise as one DALI graph: NVDEC on a GPU, or VP8/VP9/MJPEG on a CPU.

The steps, constants and crop rounding are those of `decode` and `transform`. Two things differ by
DALI's nature: its YUV to RGB is BT.601 whatever the stream's tags say, and its colour planes are
upsampled otherwise, so pixels differ by a few levels while frame numbers agree. It does not turn
frames either: rotation is to be baked in at ingest. Only this module imports DALI, when a decoder
is built.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from dataloaders.errors import DataError
from dataloaders.transform import CLIP_MEAN, CLIP_STD

if TYPE_CHECKING:
    from nvidia.dali import Pipeline

_REMEDY = "re-encode the clip with `gcg pack`, decode on the host, or remove it"


class DeviceDecoder:
    """Decodes batches of clips to float32 (T, 3, size, size), normalised, on the device.

    device: "mixed" (NVDEC; tensors on the GPU) or "cpu" (VP8, VP9 and MJPEG only; for tests).
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
        self._pipeline: Pipeline | None = self._build()

    def __call__(
        self,
        clips: Sequence[bytes],
        indices: Sequence[np.ndarray],
        names: Sequence[str] | None = None,
    ) -> list[torch.Tensor | DataError]:
        """Each clip's frames, or the DataError that says why it cannot be decoded.

        clips: file contents. indices: per clip (T,) frame numbers in presentation order. names:
        paths, for messages. DALI fails a whole batch for one broken clip: the batch's clips are then
        decoded one by one, so that the others still come.
        """
        names = names or [f"clip {k} of the batch" for k in range(len(clips))]
        if not 0 < len(clips) <= self.batch_size:
            raise DataError(f"clips: {len(clips)}: must be 1 to {self.batch_size} (batch_size)")
        results: list[torch.Tensor | DataError | None] = [None] * len(clips)
        for k, (clip, chosen, name) in enumerate(zip(clips, indices, names, strict=True)):
            results[k] = self._check(clip, chosen, name)
        good = [k for k, result in enumerate(results) if result is None]
        for k, result in zip(good, self._decode(good, clips, indices, names), strict=True):
            results[k] = result
        return [result for result in results if result is not None]

    def _check(self, clip: bytes, chosen: np.ndarray, name: str) -> DataError | None:
        if not clip:
            return DataError(f"{name}: 0 bytes: a clip must hold a video; remove it")
        if len(chosen) != self.num_frames or min(chosen) < 0:
            return DataError(
                f"{name}: frame indices {list(chosen)}: must be {self.num_frames} numbers from 0 on"
            )
        return None

    def _decode(
        self,
        numbers: list[int],
        clips: Sequence[bytes],
        indices: Sequence[np.ndarray],
        names: Sequence[str],
    ) -> list[torch.Tensor | DataError]:
        if not numbers:
            return []
        try:
            return self._run([clips[k] for k in numbers], [indices[k] for k in numbers])
        except RuntimeError as error:
            reason = _reason(error)
        if len(numbers) == 1:
            return [DataError(f"{names[numbers[0]]}: DALI cannot decode it ({reason}): {_REMEDY}")]
        return [r for k in numbers for r in self._decode([k], clips, indices, names)]

    def _run(
        self, clips: Sequence[bytes], indices: Sequence[np.ndarray]
    ) -> list[torch.Tensor | DataError]:
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
        else:
            frames = torch.from_numpy(np.array(dense))
        self._pipeline = pipeline
        return list(frames)

    def _build(self) -> Pipeline:
        try:
            from nvidia.dali import fn, pipeline_def, types
        except ImportError as error:
            raise DataError(
                "decoder: 'dali': NVIDIA DALI is not installed; `pip install 'gcg-train[dali]'` or "
                "decode on the host"
            ) from error

        @pipeline_def
        def graph() -> Any:
            encoded = fn.external_source(name="encoded", dtype=types.UINT8, ndim=1)
            indices = fn.external_source(name="indices", dtype=types.INT32, ndim=1)
            # "none": an index past the end is an error; the default gives black frames.
            frames = fn.decoders.video(
                encoded, frames=indices, device=self.device, pad_mode="none", affine=False
            )
            resized = fn.resize(
                frames,
                mode="not_smaller",
                size=[self.size, self.size],
                interp_type=types.INTERP_CUBIC,
                antialias=True,
            )
            return fn.crop_mirror_normalize(
                resized,
                crop=(self.size, self.size),
                rounding="truncate",  # as transform.crop_start
                dtype=types.FLOAT,
                output_layout="FCHW",
                mean=[255 * value for value in self.mean],
                std=[255 * value for value in self.std],
            )

        # Depth 1: results must not lag behind the inputs, and the loader prefetches by itself.
        pipeline: Any = graph(
            batch_size=self.batch_size,
            num_threads=self.num_threads,
            device_id=self.device_id,
            prefetch_queue_depth=1,
        )
        pipeline.build()
        return pipeline


def _reason(error: BaseException) -> str:
    """The telling line of DALI's message: the one after its own traceback."""
    text = str(error).partition("encountered:")[2] or str(error)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return (lines or ["no reason given"])[0][:200]
