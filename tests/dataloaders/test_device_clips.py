"""DALI as the loader's clip decoder, on its CPU path with VP9 clips."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
import torch

from dataloaders.device_clips import DeviceClipDecoder, FrameSizes
from dataloaders.errors import DataError
from dataloaders.fetch import Frames, HostDecoder
from tests.dataloaders.clips import clip, cut_by_edit_list
from tests.dataloaders.test_decode_device import FAST_VP9, INDICES, TOLERANCE

pytest.importorskip("nvidia.dali", reason="DALI is not installed")


def vp9(**changes: object) -> bytes:
    # 192x128 becomes 96x64: an even margin, with which crop and turn commute exactly.
    return clip("libvpx-vp9", **{"size": (192, 128), "options": FAST_VP9, **changes})


def on_host(data: bytes, indices: np.ndarray = INDICES, frame_count: int = 60) -> Frames:
    return HostDecoder(64)(data, indices, frame_count=frame_count, name="clip.mp4")


@pytest.fixture(scope="module")
def decoder() -> DeviceClipDecoder:
    return DeviceClipDecoder("cpu", num_frames=len(INDICES), size=64, batch_size=4)


@pytest.mark.parametrize("changes", [{}, {"rotation": 90}, {"rotation": 180}])
def test_equals_the_host_decoder(decoder: DeviceClipDecoder, changes: dict) -> None:
    data, before = vp9(**changes), decoder.host_clips
    got = decoder(data, INDICES, frame_count=60, name="clip.mp4")
    host = on_host(data)
    assert decoder.host_clips == before
    assert (got.pixels - host.pixels).abs().mean() < TOLERANCE
    assert (got.pixels.flip(3) - host.pixels).abs().mean() > TOLERANCE
    assert torch.equal(got.times, host.times)


def damaged() -> bytes:
    """A clip whose headers are whole, but DALI and the host stumble over its packets."""
    data = bytearray(vp9())
    begin = data.index(b"mdat") + len(data) // 3
    data[begin : begin + 400] = b"\xff" * 400
    return bytes(data)


@pytest.mark.parametrize(
    "data",
    [
        clip("libx264", size=(160, 120)),  # DALI has no H.264 on a CPU
        clip("libvpx-vp9", size=(160, 120), options=FAST_VP9, pixel_format="yuv444p"),
    ],
)
def test_what_the_device_does_not_decode_goes_to_the_host(
    decoder: DeviceClipDecoder, data: bytes
) -> None:
    before = decoder.host_clips
    got = decoder(data, INDICES, frame_count=60, name="clip.mp4")
    assert decoder.host_clips == before + 1
    assert torch.equal(got.pixels, on_host(data).pixels)


def test_hidden_frames_are_decoded_on_the_host(decoder: DeviceClipDecoder) -> None:
    data, before = cut_by_edit_list(vp9(), 17), decoder.host_clips
    got = decoder(data, INDICES // 2, frame_count=43, name="clip.mp4")
    assert decoder.host_clips == before + 1
    assert torch.equal(got.pixels, on_host(data, INDICES // 2, 43).pixels)


def test_a_count_that_ingest_did_not_find_is_decoded_whole(decoder: DeviceClipDecoder) -> None:
    data = vp9()
    indices = INDICES[:2].repeat(2)
    got = decoder(data, indices, frame_count=31, name="clip.mp4")
    assert torch.equal(got.pixels, on_host(data, indices, 31).pixels)


def test_what_is_wrong_is_said(decoder: DeviceClipDecoder) -> None:
    with pytest.raises(DataError, match=r"a\.mp4: 2 frame indices: must be 4"):
        decoder(vp9(), INDICES[:2], frame_count=60, name="a.mp4")
    with pytest.raises(DataError, match=r"b\.mp4: frame index 60: the clip has 60 frames"):
        decoder(vp9(), INDICES + 1, frame_count=60, name="b.mp4")
    with pytest.raises(DataError, match=r"c\.mp4: 0 bytes"):
        decoder(b"", INDICES, frame_count=60, name="c.mp4")
    with pytest.raises(DataError, match=r"data\.max_frame_sizes: 0: must be a whole number"):
        DeviceClipDecoder("cpu", num_frames=4, size=64, max_frame_sizes=0)


def test_threads_share_batches_and_a_broken_clip_harms_no_other(
    decoder: DeviceClipDecoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches: list[int] = []
    real = decoder._decoder.on_device

    def counting(clips, indices):
        batches.append(len(clips))
        return real(clips, indices)

    monkeypatch.setattr(decoder._decoder, "on_device", counting)
    sizes = [(192, 128), (160, 120)]
    jobs = [(vp9(size=sizes[k % 2]), np.roll(INDICES, k)) for k in range(12)]
    jobs[5] = (damaged(), INDICES)
    before = decoder.host_clips
    alone = [_outcome(decoder, *job) for job in jobs]
    assert decoder.host_clips == before + 1  # DALI refuses the damaged one
    batches.clear()
    with ThreadPoolExecutor(6) as threads:
        together = list(threads.map(partial(_outcome, decoder), *zip(*jobs, strict=True)))
    assert max(batches) > 1  # else nothing was gathered
    assert max(batches) <= 4
    assert decoder.host_clips == before + 2
    for one, other in zip(alone, together, strict=True):
        if isinstance(one, torch.Tensor):
            assert isinstance(other, torch.Tensor)
            assert torch.equal(one, other)  # whatever else is in the batch
        else:
            assert one == other


def _outcome(decoder: DeviceClipDecoder, data: bytes, indices: np.ndarray) -> torch.Tensor | str:
    try:
        return decoder(data, indices, frame_count=60, name="clip.mp4").pixels
    except DataError as error:
        return str(error)


def test_sizes_past_the_bound_go_to_the_host_with_one_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    decoder = DeviceClipDecoder("cpu", num_frames=4, size=64, max_frame_sizes=1)
    clips = [vp9(), vp9(size=(160, 120)), vp9(size=(120, 160)), vp9()]
    with caplog.at_level(logging.WARNING):
        got = [decoder(data, INDICES, frame_count=60, name="clip.mp4") for data in clips]
    assert decoder.host_clips == 2
    assert torch.equal(got[1].pixels, on_host(clips[1]).pixels)
    assert torch.equal(got[0].pixels, got[3].pixels)
    (line,) = [record.getMessage() for record in caplog.records]
    assert "more than 1 frame sizes" in line
    assert "160x120" in line
    assert "gcg pack --transcode" in line
    decoder.close()


def test_frame_sizes_are_counted_once() -> None:
    sizes = FrameSizes(2)
    assert [sizes.admit(size) for size in [(1, 2), (1, 2), (2, 1), (3, 3), (1, 2)]] == [
        True, True, True, False, True,
    ]  # fmt: skip


@pytest.mark.gpu
def test_on_a_gpu_frames_of_all_ways_stay_there() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    decoder = DeviceClipDecoder("mixed", num_frames=4, size=64, batch_size=4)
    good = clip("libx264", size=(320, 256), options={"g": "12", "bf": "3"})
    other = clip("libx264", size=(320, 256), pixel_format="yuv444p")  # NVDEC takes 4:2:0
    with ThreadPoolExecutor(4) as threads:
        work = partial(decoder, indices=INDICES, frame_count=60, name="clip.mp4")
        got = list(threads.map(work, [good, other] * 6))
    assert decoder.host_clips == 6
    assert torch.stack([frames.pixels for frames in got]).is_cuda
    for data, frames in zip([good, other] * 6, got, strict=True):
        assert (frames.pixels.cpu() - on_host(data).pixels).abs().mean() < TOLERANCE
    decoder.close()
