"""DALI as the loader's clip decoder, on its CPU path with VP9 clips."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch

from dataloaders.device_clips import DeviceClipDecoder
from dataloaders.fetch import HostDecoder
from tests.dataloaders.clips import clip
from tests.dataloaders.test_decode_device import FAST_VP9, INDICES, TOLERANCE

pytest.importorskip("nvidia.dali", reason="DALI is not installed")


def vp9(**changes: object) -> bytes:
    # 192x128 becomes 96x64: an even margin, with which crop and turn commute exactly.
    return clip("libvpx-vp9", size=(192, 128), options=FAST_VP9, **changes)


@pytest.fixture(scope="module")
def decoder() -> DeviceClipDecoder:
    return DeviceClipDecoder("cpu", num_frames=len(INDICES), size=64)


@pytest.mark.parametrize("changes", [{}, {"rotation": 90}, {"rotation": 180}])
def test_equals_the_host_decoder(decoder: DeviceClipDecoder, changes: dict) -> None:
    data, before = vp9(**changes), decoder.host_clips
    got = decoder(data, INDICES, frame_count=60, name="clip.mp4")
    host = HostDecoder(64)(data, INDICES, frame_count=60, name="clip.mp4")
    assert decoder.host_clips == before
    assert (got.pixels - host.pixels).abs().mean() < TOLERANCE
    assert (got.pixels.flip(3) - host.pixels).abs().mean() > TOLERANCE
    assert torch.equal(got.times, host.times)


def test_what_dali_cannot_decode_here_goes_to_the_host(decoder: DeviceClipDecoder) -> None:
    data, before = clip("libx264", size=(160, 120)), decoder.host_clips
    got = decoder(data, INDICES, frame_count=60, name="clip.mp4")
    assert decoder.host_clips == before + 1
    host = HostDecoder(64)(data, INDICES, frame_count=60, name="clip.mp4")
    assert torch.equal(got.pixels, host.pixels)


def test_a_count_that_ingest_did_not_find_is_decoded_whole(decoder: DeviceClipDecoder) -> None:
    data = vp9()
    got = decoder(data, INDICES[:2].repeat(2), frame_count=31, name="clip.mp4")
    host = HostDecoder(64)(data, INDICES[:2].repeat(2), frame_count=31, name="clip.mp4")
    assert torch.equal(got.pixels, host.pixels)


def test_threads_take_turns(decoder: DeviceClipDecoder) -> None:
    data, results = vp9(), {}

    def work(number: int) -> None:
        chosen = np.roll(INDICES, number)
        results[number] = decoder(data, chosen, frame_count=60, name="clip.mp4").pixels

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number in range(4):
        assert torch.equal(results[number], results[0].roll(number, 0))
