from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataloaders.errors import DataError
from dataloaders.frames import uniform_indices


@pytest.mark.parametrize(
    ("frame_count", "num_frames", "expected"),
    [(8, 4, [1, 3, 5, 7]), (10, 4, [1, 3, 6, 8]), (1, 3, [0, 0, 0]), (2, 4, [0, 0, 1, 1])],
)
def test_known_indices(frame_count: int, num_frames: int, expected: list[int]) -> None:
    assert uniform_indices(frame_count, num_frames).tolist() == expected


@given(st.integers(1, 10**9), st.integers(1, 256))
def test_indices_lie_in_their_parts(frame_count: int, num_frames: int) -> None:
    indices = uniform_indices(frame_count, num_frames)
    assert indices.dtype == np.int64
    for k, index in enumerate(indices.tolist()):
        assert k * frame_count // num_frames <= index
        assert index * num_frames < (k + 1) * frame_count  # before the part ends
    assert len(set(indices.tolist())) == min(frame_count, num_frames)


def test_refuses_nothing() -> None:
    with pytest.raises(DataError, match="frame_count: 0"):
        uniform_indices(0, 32)
    with pytest.raises(DataError, match="num_frames: 0"):
        uniform_indices(32, 0)


def test_errors_are_one_line() -> None:
    assert str(DataError("a\n  b\tc")) == "a b c"
