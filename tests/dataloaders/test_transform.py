from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dataloaders.errors import DataError
from dataloaders.transform import CLIP_MEAN, CLIP_STD, crop_start, preprocess, resized_shape
from tests.dataloaders.clips import picture

SIZES = [(160, 120), (120, 160), (333, 182), (64, 64), (65, 64), (50, 40)]


def _levels(pixels: torch.Tensor) -> np.ndarray:
    """Back to 0..255, (T, H, W, 3)."""
    std, mean = torch.tensor(CLIP_STD).view(3, 1, 1), torch.tensor(CLIP_MEAN).view(3, 1, 1)
    return ((pixels * std + mean) * 255).permute(0, 2, 3, 1).numpy()


def _frames(width: int, height: int) -> np.ndarray:
    return np.stack([picture(k, width, height) for k in (0, 37, 90)])


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_equals_pillow(width: int, height: int) -> None:
    """CLIP's own preprocessing is Pillow's bicubic resize. torch's 8-bit kernel is the same
    fixed-point filter; its weights may differ in the last bit, hence one level."""
    image = pytest.importorskip("PIL.Image")
    frames = _frames(width, height)
    got = _levels(preprocess(frames, 64))
    rows, columns = resized_shape(height, width, 64)
    top, left = crop_start(rows, 64), crop_start(columns, 64)
    for frame, levels in zip(frames, got, strict=True):
        resized = np.asarray(image.fromarray(frame).resize((columns, rows), image.BICUBIC))
        difference = np.abs(resized[top : top + 64, left : left + 64] - levels)
        assert difference.max() < 1.01
        assert difference.mean() < 0.05


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_close_to_the_float_filter(width: int, height: int) -> None:
    """Two roundings to 8 bits: 0.5 level each at worst on average, and clipped overshoot between
    the passes at hard edges (hence a bound on the mean, not the maximum)."""
    frames = _frames(width, height)
    shape = resized_shape(height, width, 64)
    exact = torch.nn.functional.interpolate(
        torch.from_numpy(frames).permute(0, 3, 1, 2).float(),
        size=shape,
        mode="bicubic",
        antialias=True,
    ).clamp(0, 255)
    top, left = crop_start(shape[0], 64), crop_start(shape[1], 64)
    exact = exact[:, :, top : top + 64, left : left + 64].permute(0, 2, 3, 1).numpy()
    assert np.abs(_levels(preprocess(frames, 64)) - exact).mean() < 0.7


def test_without_resizing_it_is_the_crop() -> None:
    frames = _frames(71, 64)
    got = preprocess(frames, 64)
    assert got.shape == (3, 3, 64, 64)
    assert got.dtype == torch.float32
    assert got.is_contiguous()
    np.testing.assert_allclose(_levels(got), frames[:, :, 3:67], atol=1e-3)  # margin 7: 3 and 4


def test_own_mean_and_std() -> None:
    frames = _frames(64, 64)
    got = preprocess(frames, 64, mean=(0, 0, 0), std=(1, 1, 1))
    np.testing.assert_allclose(got.permute(0, 2, 3, 1), frames / 255, atol=1e-6)


@given(st.integers(1, 4000), st.integers(1, 4000), st.integers(1, 448))
def test_resized_shape(height: int, width: int, size: int) -> None:
    rows, columns = resized_shape(height, width, size)
    assert min(rows, columns) == size
    exact = max(height, width) * size / min(height, width)
    assert abs(max(rows, columns) - exact) <= 0.5


def test_refuses_other_frames() -> None:
    with pytest.raises(DataError, match="must be uint8"):
        preprocess(np.zeros((2, 8, 8, 3), np.float32), 4)
    with pytest.raises(DataError, match="must be uint8"):
        preprocess(np.zeros((2, 3, 8, 8), np.uint8), 4)
    with pytest.raises(DataError, match="size: 0"):
        preprocess(np.zeros((2, 8, 8, 3), np.uint8), 0)
