"""The DALI graph against the host path.

Tolerance: DALI converts YUV to RGB and upsamples colour by other arithmetic (some 1.5 of 255 levels
on average), and both resize with a bicubic filter in other fixed-point steps. A normalised unit is
about 69 levels, so 0.03 on average is two levels. A picture shifted by one pixel, or a neighbouring
frame, is farther off than that, as each test asserts.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dataloaders.decode import decode_frames
from dataloaders.decode_device import DeviceDecoder
from dataloaders.errors import DataError
from dataloaders.transform import preprocess, resized_shape
from tests.dataloaders.clips import clip, cut_by_edit_list, number_of

pytest.importorskip("nvidia.dali", reason="DALI is not installed")

FAST_VP9 = {"g": "12", "deadline": "realtime", "cpu-used": "8"}
INDICES = np.array([1, 7, 30, 59])
TOLERANCE = 0.03


def _vp9(width: int = 160, height: int = 120, **changes: object) -> bytes:
    return clip("libvpx-vp9", size=(width, height), options=FAST_VP9, **changes)


def _error(one: torch.Tensor, other: torch.Tensor) -> float:
    return (one.cpu() - other).abs().mean().item()


@pytest.fixture(scope="module")
def decoder() -> DeviceDecoder:
    return DeviceDecoder("cpu", batch_size=4, num_frames=4, size=64, num_threads=1)


def _tensors(results: list[torch.Tensor | DataError]) -> list[torch.Tensor]:
    assert all(isinstance(result, torch.Tensor) for result in results), results
    return [result for result in results if isinstance(result, torch.Tensor)]


@pytest.mark.parametrize(
    ("width", "height"), [(160, 120), (120, 160), (166, 122), (333, 182), (64, 64), (65, 64)]
)
def test_graph_equals_the_host_path(decoder: DeviceDecoder, width: int, height: int) -> None:
    data = _vp9(width, height)
    before = decoder.host_clips
    (got,) = _tensors(decoder([data], [INDICES]))
    assert decoder.host_clips == before
    assert got.shape == (4, 3, 64, 64)
    assert got.dtype == torch.float32
    host = preprocess(decode_frames(data, INDICES).frames, 64)
    assert _error(got, host) < TOLERANCE
    assert _error(got[..., 1:], host[..., :-1]) > TOLERANCE
    assert _error(got[..., 1:, :], host[..., :-1, :]) > TOLERANCE
    later = preprocess(decode_frames(data, (INDICES - 1) % 60).frames, 64)
    assert _error(got, later) > TOLERANCE


@pytest.mark.parametrize("changes", [{}, {"stamps": tuple(range(0, 180, 3))}, {"rotation": 90}])
def test_frame_numbers(changes: dict) -> None:
    decoder = DeviceDecoder("cpu", batch_size=1, num_frames=4, size=128, num_threads=1)
    (got,) = _tensors(decoder([_vp9(128, 128, **changes)], [INDICES]))
    images = got.permute(0, 2, 3, 1).numpy()
    assert [number_of(128 + 60 * image) for image in images] == INDICES.tolist()
    assert decoder.host_clips == 0


def test_batch_of_several_sizes_in_order(decoder: DeviceDecoder) -> None:
    clips = [_vp9(160, 120), _vp9(120, 160), _vp9(333, 182)]
    chosen = [INDICES, INDICES[::-1].copy(), np.array([0, 0, 5, 5])]
    for data, indices, got in zip(clips, chosen, _tensors(decoder(clips, chosen)), strict=True):
        assert _error(got, preprocess(decode_frames(data, indices).frames, 64)) < TOLERANCE


def test_one_broken_clip_does_not_take_the_others(decoder: DeviceDecoder) -> None:
    good, other = _vp9(160, 120), clip(options={"g": "12"})  # DALI has no H.264 on a CPU
    before = decoder.host_clips
    results = decoder([good, b"", other, good], [INDICES] * 4, ["a", "b.mp4", "c", "d"])
    assert decoder.host_clips == before + 2
    assert isinstance(results[1], DataError)
    assert str(results[1]).startswith("b.mp4: 0 bytes")
    first, second, third = _tensors([results[0], results[2], results[3]])
    assert torch.equal(first, third)
    assert torch.equal(second, preprocess(decode_frames(other, INDICES).frames, 64))


def test_index_outside_is_an_error_not_a_black_frame(decoder: DeviceDecoder) -> None:
    (result,) = decoder([_vp9(160, 120)], [np.array([0, 1, 2, 60])], ["short.mp4"])
    assert isinstance(result, DataError)
    assert "short.mp4: frame index 60: the clip has 60 frames" in str(result)


def test_clip_with_hidden_frames_is_decoded_on_the_host(decoder: DeviceDecoder) -> None:
    data = cut_by_edit_list(_vp9(128, 128), 17)
    before = decoder.host_clips
    (got,) = _tensors(decoder([data], [np.array([0, 1, 10, 42])]))
    assert decoder.host_clips == before + 1
    images = got.permute(0, 2, 3, 1).numpy()
    assert [number_of(128 + 60 * image) for image in images] == [17, 18, 27, 59]


def test_long_side_is_rounded_as_dali_does() -> None:
    from nvidia import dali

    library = getattr(dali, "pipeline_def")  # noqa: B009  (made at run time)

    @library(batch_size=1, num_threads=1, device_id=None, prefetch_queue_depth=1)
    def graph():
        images = dali.fn.external_source(name="images", layout="HWC")
        return dali.fn.resize(images, mode="not_smaller", size=[64, 64])

    pipeline = graph()
    for width in range(64, 400, 21):
        for height in (64, 97, 120, 301):
            (out,) = pipeline.run(images=[np.zeros((height, width, 3), np.uint8)])
            assert np.array(out[0]).shape[:2] == resized_shape(height, width, 64)


def test_wrong_settings(decoder: DeviceDecoder) -> None:
    with pytest.raises(DataError, match="must be 'mixed' or 'cpu'"):
        DeviceDecoder("gpu", batch_size=1, num_frames=4, size=64)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="must be 1 to 4"):
        decoder([_vp9()] * 5, [INDICES] * 5)
    with pytest.raises(DataError, match="2 frame indices: must be 4"):
        decoder([_vp9()], [INDICES[:2]])
    if not torch.cuda.is_available():
        with pytest.raises(DataError, match="no CUDA device"):
            DeviceDecoder("mixed", batch_size=1, num_frames=4, size=64)


@pytest.mark.gpu
@pytest.mark.parametrize("codec", ["libx264", "libx265", "libvpx-vp9", "libsvtav1"])
def test_graph_on_a_gpu_equals_the_host_path(codec: str) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    options = {
        "libx264": {"g": "12", "bf": "3"},
        "libx265": {"x265-params": "keyint=12:log-level=none"},
        "libvpx-vp9": FAST_VP9,
        "libsvtav1": {"g": "16", "preset": "12"},
    }[codec]
    # NVDEC has a least frame size, 256 pixels being enough for all codecs.
    data = clip(codec, size=(320, 256), options=options)
    decoder = DeviceDecoder("mixed", batch_size=2, num_frames=4, size=64)
    for got in _tensors(decoder([data, data], [INDICES, INDICES])):
        assert got.is_cuda
        assert _error(got, preprocess(decode_frames(data, INDICES).frames, 64)) < TOLERANCE
    if codec != "libsvtav1":  # not every NVDEC has AV1: such clips come from the host
        assert decoder.host_clips == 0
