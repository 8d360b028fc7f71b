"""Video files into the frames a model reads: each is decoded once, however much is asked."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from torch import Tensor

from dataloaders.container import probe
from dataloaders.decode import alike, decode_raw
from dataloaders.errors import DataError
from dataloaders.time_limit import DECODE_TIMEOUT_S, TimeLimit
from gcg.pixels import pixel_values
from gcg.processor import GCGProcessor


@dataclass(frozen=True)
class LoadedClip:
    """``pixels`` (T, 3, S, S); ``times`` (T,), seconds of the frames; ``frames``: uint8 (H, W, 3)
    each, upright, None unless they were asked for."""

    path: Path
    pixels: Tensor
    times: tuple[float, ...]
    duration: float
    frames: list[np.ndarray] | None


class ClipReader:
    """Reads clips for a model. Close it to end its threads; safe from several.

    Args:
        processor: of the model.
        keep_frames: also hand over the frames, to be shown.
        timeout_s: seconds that a clip may take; 0: no limit.
    """

    def __init__(
        self,
        processor: GCGProcessor,
        *,
        keep_frames: bool = False,
        timeout_s: float = DECODE_TIMEOUT_S,
    ) -> None:
        self._processor, self._keep = processor, keep_frames
        self._limit = TimeLimit(timeout_s, setting="--decode-timeout")

    def __call__(self, path: Path) -> LoadedClip:
        """Read and decode a file.

        Raises:
            DataError: there is none, or it cannot be decoded, or not in time.
        """
        return self.decode(read_video(path), path)

    def decode(self, data: bytes, path: Path) -> LoadedClip:
        """Decode a file's bytes; ``path`` is what it is called. Raises DataError as a call."""
        try:
            return self._limit.run(partial(self._load, path, data), str(path))
        except (DataError, MemoryError):
            raise
        except Exception as error:  # a clip can break a decoder in any way
            raise DataError(f"{path}: {type(error).__name__}: {error}") from error

    def _load(self, path: Path, data: bytes) -> LoadedClip:
        info = probe(data, name=str(path))
        indices = self._processor.frame_indices(info.frame_count)
        raw = decode_raw(data, indices, frame_count=info.frame_count, name=str(path))
        frames = alike(raw, apply_rotation=True)
        return LoadedClip(
            path=path,
            pixels=pixel_values(frames, self._processor.image_size),
            times=tuple(float(time) for time in raw.times),
            duration=info.duration,
            frames=frames if self._keep else None,
        )

    def close(self) -> None:
        self._limit.close()


def read_video(path: Path) -> bytes:
    """A file's bytes.

    Raises:
        DataError: it is none, or cannot be read.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file; give the path of a video file")
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check its rights") from None
