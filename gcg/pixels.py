"""RGB frames to what the image encoder takes, for a model that is used without the data room.

The steps are those that clips go through on their way into training (``dataloaders/transform.py``);
a test holds the two equal to the bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as functional
from torch import Tensor

from gcg.errors import ModelError

# Of CLIP's training images, R, G, B in [0, 1]; EVA-CLIP and InstructBLIP use the same.
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def pixel_values(frames: Any, size: int) -> Tensor:
    """Frames of one clip → (T, 3, size, size) float32, normalised.

    Args:
        frames: uint8 (T, H, W, 3), RGB, an array or a tensor; or a sequence of T frames, uint8
            (H, W, 3) arrays or images, each of any size.
        size: height and width of the result in pixels.

    Raises:
        ModelError: another shape or type.
    """
    if isinstance(frames, Sequence):
        parts = [_frame(frame, i) for i, frame in enumerate(frames)]
        return torch.cat([_resized(part[None], size) for part in parts])
    pixels = torch.as_tensor(frames)
    if pixels.dtype != torch.uint8 or pixels.ndim != 4 or pixels.shape[-1] != 3:
        raise ModelError(
            f"frames: {tuple(pixels.shape)} {pixels.dtype}: must be uint8 (T, H, W, 3), RGB"
        )
    return _resized(pixels, size)


def _frame(frame: Any, number: int) -> Tensor:
    if not isinstance(frame, Tensor):
        import numpy as np

        frame = torch.from_numpy(np.array(frame))  # an image of Pillow's is an array, too
    if frame.dtype != torch.uint8 or frame.ndim != 3 or frame.shape[-1] != 3:
        raise ModelError(
            f"frames[{number}]: {tuple(frame.shape)} {frame.dtype}: must be uint8 (H, W, 3), RGB"
        )
    return frame


def _resized(frames_THW3: Tensor, size: int) -> Tensor:
    """Short side to ``size``, torch's antialiased bicubic filter on uint8; centre crop; (x - mean)
    / std."""
    height, width = frames_THW3.shape[1:3]
    short = min(height, width)
    # The long side to the nearest pixel, .5 up.
    high, wide = ((2 * side * size + short) // (2 * short) for side in (height, width))
    resized = frames_THW3.permute(0, 3, 1, 2)  # strides stay channels-last: the fast kernel
    if (high, wide) != (height, width):
        resized = functional.interpolate(
            resized, size=(high, wide), mode="bicubic", antialias=True, align_corners=False
        )
    top, left = (high - size) // 2, (wide - size) // 2
    scale = torch.tensor([1 / (255 * s) for s in CLIP_STD]).view(1, 3, 1, 1)
    shift = torch.tensor([-m / s for m, s in zip(CLIP_MEAN, CLIP_STD, strict=True)])
    out = torch.empty((len(frames_THW3), 3, size, size), dtype=torch.float32)
    out.copy_(resized[:, :, top : top + size, left : left + size])
    return out.mul_(scale).add_(shift.view(1, 3, 1, 1))
