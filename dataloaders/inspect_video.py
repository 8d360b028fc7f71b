"""What the loader sees of one video file: its properties and a digest of each sampled frame."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from dataloaders.container import decode_test
from dataloaders.decode import decode_raw
from dataloaders.errors import DataError
from dataloaders.frames import uniform_indices


def inspect_video(path: str | Path, num_frames: int = 32) -> dict[str, Any]:
    """Takes a clip the way ingest and training do, and reports it, ready for JSON.

    Keys: path, codec, pixel_format, width and height (before rotation), frame_count, rotation
    (degrees counter-clockwise a player applies), duration (seconds), fps, pruned (whether training
    decodes only the packets it needs), indices (num_frames frame numbers), times (seconds), sha256
    (of each such frame's bytes: uint8 H x W x 3 RGB, contiguous, before resizing and rotation).

    As at ingest, every frame is decoded first, so a clip with an error anywhere raises DataError:
    one line with the path, what is wrong and the remedy.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: no such file; give the path of a video file")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check its rights") from error
    info = decode_test(data, name=str(path))
    indices = uniform_indices(info.frame_count, num_frames)
    clip = decode_raw(data, indices, frame_count=info.frame_count, name=str(path))
    return {
        "path": str(path),
        "codec": info.codec,
        "pixel_format": info.pixel_format,
        "width": info.width,
        "height": info.height,
        "frame_count": info.frame_count,
        "rotation": info.rotation,
        "duration": round(info.duration, 6),
        "fps": round(info.fps, 6),
        "pruned": clip.pruned,
        "indices": indices.tolist(),
        "times": [round(float(time), 6) for time in clip.times],
        "sha256": [
            hashlib.sha256(np.ascontiguousarray(frame).tobytes()).hexdigest()
            for frame in clip.frames
        ],
    }
