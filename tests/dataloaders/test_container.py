from __future__ import annotations

import contextlib
import io

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataloaders.bitstream import PacketFacts, Unprovable, av1_packet, vp9_packet
from dataloaders.container import decode_test, open_clip, probe
from dataloaders.errors import DataError
from dataloaders.nal_units import h264_reader, hevc_reader
from dataloaders.packet_index import packet_index
from tests.dataloaders.clips import clip, cut_by_edit_list, packet_positions

GOP12 = {"g": "12", "bf": "3"}


def test_probe_reads_headers() -> None:
    info = probe(clip(options=GOP12))
    assert (info.codec, info.width, info.height) == ("h264", 160, 120)
    assert (info.frame_count, info.rotation, info.proven) == (60, 0, True)
    assert info.duration == pytest.approx(2.4)
    assert info.fps == pytest.approx(25)
    assert info.pixel_format == "yuv420p"
    np.testing.assert_allclose(info.times, np.arange(60) / 25)


def test_probe_agrees_with_a_full_decode() -> None:
    for data in (clip(options=GOP12), clip("libvpx-vp9", options=GOP12 | {"deadline": "realtime"})):
        quick, full = probe(data), decode_test(data)
        assert not full.proven
        np.testing.assert_array_equal(quick.times, full.times)
        assert vars(quick) | {"proven": 0, "times": 0} == vars(full) | {"proven": 0, "times": 0}


def test_probe_counts_by_decoding_where_headers_prove_nothing() -> None:
    info = probe(clip("mpeg4", container="avi", options={"g": "12", "bf": "2"}))
    assert (info.codec, info.frame_count, info.proven) == ("mpeg4", 60, False)


def test_variable_frame_rate() -> None:
    stamps = tuple(np.cumsum(1 + np.arange(60) % 7).tolist())
    info = probe(clip(options=GOP12, stamps=stamps))
    np.testing.assert_allclose(info.times, (np.array(stamps) - stamps[0]) / 100, atol=1e-6)


def test_rotation_is_reported_not_applied() -> None:
    info = probe(clip(rotation=90))
    assert (info.rotation, info.width, info.height) == (90, 160, 120)


def test_first_video_stream_counts() -> None:
    info = probe(clip(streams=2, frames=12))
    assert (info.width, info.height, info.frame_count) == (160, 120, 12)


def test_edit_list_hides_frames() -> None:
    info = probe(cut_by_edit_list(clip(options=GOP12), 17))
    assert (info.frame_count, info.proven) == (43, True)
    assert info.times[0] == 0


def test_metadata_that_is_not_text() -> None:
    """PyAV's defaults raise UnicodeDecodeError here."""
    data = clip(frames=12)
    assert data.count(b"Lavf") == 1
    assert probe(data.replace(b"Lavf", b"\xff\xfe\xff\xfe")).frame_count == 12


@pytest.mark.parametrize(
    ("data", "problem"),
    [(b"", "0 bytes"), (bytes(5000), "no demuxer opens"), (b"not a video" * 50, "no demuxer")],
)
def test_not_a_video(data: bytes, problem: str) -> None:
    with pytest.raises(DataError, match=problem) as caught:
        probe(data, name="folder/clip.mp4")
    assert str(caught.value).startswith("folder/clip.mp4: ")
    assert "\n" not in str(caught.value)


def test_no_video_stream() -> None:
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as out:
        track = out.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.float32), "fltp", "mono")
        frame.sample_rate = 16000
        out.mux(track.encode(frame))
        out.mux(track.encode(None))
    with pytest.raises(DataError, match="no video stream"):
        probe(file.getvalue())


def test_decode_test_finds_damage_that_headers_hide() -> None:
    whole = clip(options=GOP12)
    start, size = packet_positions(whole)[40]
    data = whole[: start + 6] + b"\xff" * (size - 6) + whole[start + size :]
    assert probe(data).frame_count == 60
    with pytest.raises(DataError, match=r"x\.mp4: decoding fails after \d+ frames"):
        decode_test(data, name="x.mp4")


def _index(data: bytes):
    with open_clip(data) as (container, stream):
        return packet_index(container, stream)


def test_segments_start_at_every_closed_group() -> None:
    assert len(_index(clip(options=GOP12)).segments) == 5 + 2  # x264's scene cuts make two more
    x264 = "keyint=12:min-keyint=12:bframes=3:open-gop=1"
    assert len(_index(clip(options={"x264-params": x264})).segments) == 1


def test_open_groups_of_hevc_are_starts_with_leading_pictures() -> None:
    x265 = "keyint=12:min-keyint=12:open-gop=1:bframes=3:scenecut=0:log-level=none"
    index = _index(clip("libx265", options={"x265-params": x265}))
    assert len(index.segments) == 5
    assert any(fact.leading for fact in index.facts)
    assert not any(fact.starts for fact in index.facts[1:])


@pytest.mark.parametrize(
    ("codec", "changes", "reason"),
    [
        ("libx264", {"options": {"x264-params": "tff=1"}}, "interlaced"),
        ("libx264", {"pixel_format": "yuv444p"}, "4:4:4"),
        ("libx264", {"container": "mpegts"}, "container mpegts"),
        ("mpeg4", {}, "codec mpeg4"),
    ],
)
def test_what_headers_do_not_prove(codec: str, changes: dict, reason: str) -> None:
    with pytest.raises(Unprovable, match=reason):
        _index(clip(codec, frames=24, **changes))


def _readers():
    yield vp9_packet
    yield av1_packet
    x265 = {"x265-params": "log-level=none"}
    for codec, make, options in (("libx264", h264_reader, {}), ("libx265", hevc_reader, x265)):
        with open_clip(clip(codec, frames=24, options=options)) as (_, stream):
            yield make(stream.codec_context.extradata or b"")


READERS = list(_readers())


@settings(max_examples=300, deadline=None)
@given(st.binary(min_size=1, max_size=40), st.integers(0, len(READERS) - 1))
def test_any_packet_is_read_or_unprovable(data: bytes, which: int) -> None:
    with contextlib.suppress(Unprovable):
        assert isinstance(READERS[which](memoryview(data)), PacketFacts)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60))
def test_any_extradata_is_read_or_unprovable(data: bytes) -> None:
    for make in (h264_reader, hevc_reader):
        for header in (data, b"\x01" + data):
            with contextlib.suppress(Unprovable):
                make(header)
