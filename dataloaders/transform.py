"""RGB frames to what an image encoder takes, on the host: resize, centre crop, normalise.

`decode_device` holds the same steps as a DALI graph; the constants and the rounding are shared.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as functional

from dataloaders.errors import DataError

# The mean and standard deviation of CLIP's training images, R, G, B in [0, 1] (OpenAI CLIP,
# `clip/clip.py`); EVA-CLIP and InstructBLIP use the same.
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def resized_shape(height: int, width: int, size: int) -> tuple[int, int]:
    """(height, width) with the short side `size`; the long side to the nearest pixel, .5 up."""
    short = min(height, width)
    return (2 * height * size + short) // (2 * short), (2 * width * size + short) // (2 * short)


def crop_start(length: int, size: int) -> int:
    """The first row or column of a centre crop: an odd margin leaves the extra pixel at the end."""
    return (length - size) // 2


def preprocess(
    frames: np.ndarray | torch.Tensor,
    size: int,
    mean: tuple[float, float, float] = CLIP_MEAN,
    std: tuple[float, float, float] = CLIP_STD,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """uint8 (T, H, W, 3) RGB frames to float32 (T, 3, size, size), normalised and contiguous.

    The short side is resized to `size` with torch's antialiased bicubic filter on uint8 in its
    channels-last kernel. That kernel rounds to 8 bits after each of its two passes, as Pillow does,
    through which CLIP's own training images went; the float kernel is 15 to 20 times slower.
    Then the centre crop (`crop_start`) and `(x / 255 - mean) / std`. `out`, of the result's shape,
    is written to and returned. Raises DataError for another shape or type.
    """
    pixels = torch.as_tensor(frames)
    if pixels.dtype != torch.uint8 or pixels.ndim != 4 or pixels.shape[-1] != 3:
        raise DataError(
            f"frames: {tuple(pixels.shape)} {pixels.dtype}: must be uint8 (T, H, W, 3); pass the "
            "frames as decode_frames gives them"
        )
    if size < 1:
        raise DataError(f"size: {size}: must be at least 1; set the encoder's image size")
    count, height, width, _ = pixels.shape
    shape = resized_shape(height, width, size)
    top, left = crop_start(shape[0], size), crop_start(shape[1], size)
    scale = torch.tensor([1 / (255 * s) for s in std]).view(1, 3, 1, 1)
    shift = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)]).view(1, 3, 1, 1)
    resized = pixels.permute(0, 3, 1, 2)  # strides stay channels-last: the fast kernel
    if shape != (height, width):
        resized = functional.interpolate(
            resized, size=shape, mode="bicubic", antialias=True, align_corners=False
        )
    if out is None:
        out = torch.empty((count, 3, size, size), dtype=torch.float32)
    out.copy_(resized[:, :, top : top + size, left : left + size])
    return out.mul_(scale).add_(shift)
