"""Which frames of a clip are sampled."""

from __future__ import annotations

import numpy as np

from dataloaders.errors import DataError


def uniform_indices(frame_count: int, num_frames: int) -> np.ndarray:
    """The middle frame of each of `num_frames` equal parts of a clip, in integer arithmetic only.

    Returns int64 (num_frames,), sorted, each in [0, frame_count): `(2k + 1) * n // (2T)`. A clip of
    fewer frames than asked for repeats some. Raises DataError if either number is below one.
    """
    if frame_count < 1:
        raise DataError(f"frame_count: {frame_count}: a clip needs a frame; remove the empty clip")
    if num_frames < 1:
        raise DataError(f"num_frames: {num_frames}: must be at least 1; set it to 1 or more")
    middles = 2 * np.arange(num_frames, dtype=np.int64) + 1
    return middles * frame_count // (2 * num_frames)
