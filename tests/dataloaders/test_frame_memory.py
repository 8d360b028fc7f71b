"""Memory of frames must come back when all views are gone, and never before."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import torch

from dataloaders.frame_memory import FrameMemory

SHAPE = (4, 2, 3, 8, 8)


def test_comes_back_with_the_last_view():
    memory = FrameMemory()
    first = memory.take(SHAPE)
    place, row = first.data_ptr(), first[1:3]
    del first
    held = memory.take(SHAPE)
    assert held.data_ptr() != place
    row = row[0]
    assert memory.take(SHAPE).data_ptr() not in (place, held.data_ptr())
    del row
    places = {tensor.data_ptr() for tensor in [memory.take(SHAPE) for _ in range(2)]}
    assert place in places


def test_another_shape_is_other_memory():
    memory = FrameMemory()
    place = memory.take(SHAPE).data_ptr()
    assert memory.take((2, 2, 3, 8, 8)).shape == (2, 2, 3, 8, 8)
    assert memory.take(SHAPE).data_ptr() == place


def test_lives_on_without_its_owner():
    frames = FrameMemory().take(SHAPE).fill_(3.0)
    assert torch.equal(frames, torch.full(SHAPE, 3.0))


def test_threads_never_share_a_piece():
    memory = FrameMemory()

    def use(number: int) -> bool:
        frames = memory.take(SHAPE).fill_(float(number))
        return bool((frames == number).all())

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(use, range(400)))
