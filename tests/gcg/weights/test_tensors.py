"""Parts of stored tensors, and of what is composed of them, against torch on whole tensors."""

from __future__ import annotations

import gc
from pathlib import Path

import psutil
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

from gcg.errors import ModelError
from gcg.weights.files import DTYPES, read_checkpoint
from gcg.weights.tensors import (
    InMemory,
    Joined,
    Rows,
    StoredTensor,
    Transposed,
    Weight,
    Zeros,
    whole,
)

A = torch.arange(24.0).view(4, 3, 2)
B = torch.arange(100.0, 112.0).view(2, 3, 2)
MATRIX = torch.arange(15.0).view(5, 3)

CASES: dict[str, tuple[Weight, Tensor]] = {
    "in memory": (InMemory(A), A),
    "a view": (InMemory(MATRIX.T), MATRIX.T),
    "zeros": (Zeros((3, 2), torch.float16), torch.zeros(3, 2, dtype=torch.float16)),
    "joined": (
        Joined((InMemory(A), Zeros((1, 3, 2), torch.float32), InMemory(B))),
        torch.cat([A, torch.zeros(1, 3, 2), B]),
    ),
    "rows": (Rows(InMemory(A), 1, 3), A[1:3]),
    "rows of joined": (Rows(Joined((InMemory(A), InMemory(B))), 3, 5), torch.cat([A, B])[3:5]),
    "transposed": (Transposed(InMemory(MATRIX)), MATRIX.T),
}


@pytest.mark.parametrize("case", CASES)
@given(data=st.data())
def test_any_part_is_that_part_of_the_flat_tensor(case: str, data: st.DataObject) -> None:
    weight, expected = CASES[case]
    assert (weight.shape, weight.dtype) == (tuple(expected.shape), expected.dtype)
    start = data.draw(st.integers(0, expected.numel()))
    stop = data.draw(st.integers(start, expected.numel()))
    part = weight.flat(start, stop)
    assert part.dtype == expected.dtype
    assert torch.equal(part, expected.reshape(-1)[start:stop])


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
def test_every_dtype_of_a_file(dtype: torch.dtype, tmp_path: Path) -> None:
    values = torch.arange(12).remainder(2 if dtype == torch.bool else 12).view(3, 4).to(dtype)
    path = tmp_path / "x.safetensors"
    save_file({"other": torch.ones(5), "values": values, "one": torch.tensor(2.5)}, path)
    found = read_checkpoint(path)
    assert found["values"].shape == (3, 4)
    bits = [x.view(torch.uint8) for x in (whole(found["values"]), values)]
    assert torch.equal(*bits)
    assert torch.equal(
        found["values"].flat(5, 9).view(torch.uint8),
        bits[1].view(-1)[5 * dtype.itemsize : 9 * dtype.itemsize],
    )
    assert whole(found["one"]).item() == 2.5
    assert found["values"].flat(4, 4).numel() == 0


def test_a_file_that_ends_early_is_no_zeros(tmp_path: Path) -> None:
    path = tmp_path / "short.safetensors"
    path.write_bytes(b"\0" * 30)
    with pytest.raises(ModelError, match=r"short\.safetensors: ends before byte 40"):
        StoredTensor(path, 0, (10,), torch.float32).flat(5, 10)


def test_reading_a_file_leaves_nothing_resident(tmp_path: Path) -> None:
    """A mapping of the file would show up here: all of it has been touched in the end."""
    size, part = 1 << 28, 1 << 22  # 256 MiB of zeros that take no room on the disk, 4 MiB parts
    path = tmp_path / "large.bin"
    with path.open("wb") as file:
        file.truncate(size)
    tensor = StoredTensor(path, 0, (size // 4,), torch.float32)
    process = psutil.Process()
    gc.collect()
    before, peak = process.memory_info().rss, 0
    for start in range(0, size // 4, part // 4):
        assert not tensor.flat(start, start + part // 4).any()
        peak = max(peak, process.memory_info().rss)
    # The part itself, and what the allocator keeps of the parts before it.
    assert peak - before < 8 * part, f"{(peak - before) >> 20} MiB"
