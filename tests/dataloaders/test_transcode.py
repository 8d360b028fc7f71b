"""Transcoding at ingest: the same frames at the same times, smaller, upright, keyframes in step."""

from __future__ import annotations

import io
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
import pytest

from dataloaders.container import decode_test
from dataloaders.decode import decode_frames
from dataloaders.errors import DataError
from dataloaders.index import read_entries
from dataloaders.manifest import Video
from dataloaders.shards import pack
from dataloaders.transcode import TranscodeSettings, transcode
from tests.dataloaders.clips import clip, number_of, sequential
from tests.dataloaders.shard_fixtures import question

SETTINGS = TranscodeSettings(short_side=96, gop=12, crf=8)


class Source(NamedTuple):
    codec: str
    container: str = "mp4"
    options: dict[str, str] = {}  # noqa: RUF012
    pixel_format: str = "yuv420p"
    rotation: int = 0
    stamps: tuple[int, ...] | None = None

    def encode(self) -> bytes:
        return clip(
            self.codec, frames=40, container=self.container, options=self.options,
            pixel_format=self.pixel_format, rotation=self.rotation, stamps=self.stamps,
        )  # fmt: skip


# In hundredths of a second: steps of 2 to 7, and one gap of four seconds.
VARIABLE = tuple(
    int(t) + (400 if n > 25 else 0) for n, t in enumerate(np.cumsum([2 + n % 6 for n in range(40)]))
)
SOURCES = {
    "h264 with B-frames": Source("libx264", options={"g": "20", "bf": "3"}),
    "h264 10 bit": Source("libx264", pixel_format="yuv420p10le"),
    "h264 4:4:4": Source("libx264", pixel_format="yuv444p"),
    "hevc": Source("libx265", options={"x265-params": "log-level=none"}),
    "hevc 10 bit": Source(
        "libx265", pixel_format="yuv420p10le", options={"x265-params": "log-level=none"}
    ),
    "vp8": Source("libvpx", "webm", {"cpu-used": "8"}),
    "vp9": Source("libvpx-vp9", "webm", {"cpu-used": "8"}),
    "av1": Source("libsvtav1", "mp4", {"preset": "12"}),
    "mpeg-4": Source("mpeg4", options={"qscale": "2"}),
    "mpeg-4 in avi": Source("mpeg4", "avi", {"qscale": "2"}),
    "variable rate": Source("libx264", stamps=VARIABLE),
    "variable rate in mkv": Source("libx264", "matroska", stamps=VARIABLE),
    "turned by 90": Source("libx264", rotation=90),
    "turned by 180": Source("libx264", rotation=180),
    "turned by 270 at a variable rate": Source("libx264", rotation=270, stamps=VARIABLE),
}


def check(data: bytes, settings: TranscodeSettings, name: str, tested: int = 8) -> np.ndarray:
    """Compare a clip with what transcoding makes of it; its frames, decoded as training does."""
    made, _ = transcode(data, settings, name=name)
    before, after = decode_test(data, name=name), decode_test(made, name="made.mp4")
    assert (after.codec, after.pixel_format, after.rotation) == ("h264", "yuv420p", 0) or (
        after.pixel_format == "yuvj420p"  # full range
    )
    assert after.frame_count == before.frame_count
    np.testing.assert_allclose(after.times, before.times, rtol=0, atol=2e-5)  # a tick, 1/90000 s
    assert after.duration == pytest.approx(before.duration, abs=1e-3)
    chosen = np.linspace(0, before.frame_count - 1, tested).round().astype(int)
    old = decode_frames(data, chosen, apply_rotation=True, name=name)
    new = decode_frames(made, chosen, frame_count=before.frame_count, name="made.mp4")
    assert new.pruned
    height, width = new.frames.shape[1:3]
    assert width % 2 == height % 2 == 0
    short = min(old.frames.shape[1:3])
    assert min(width, height) == min(settings.short_side, 2 * round(short / 2))
    assert width / height == pytest.approx(old.frames.shape[2] / old.frames.shape[1], rel=0.03)
    for one, two in zip(old.frames, new.frames, strict=True):
        one = resized(one, width, height)
        assert psnr(one, two) > 32  # found: 33 to 43
        # Colour tags must survive: a wrong matrix or range shifts a mean by 5 levels and more;
        # swscale's rounding, twice, by up to 1.5.
        assert abs(one.mean(axis=(0, 1)) - two.mean(axis=(0, 1))).max() < 2
    return new.frames


def resized(image: np.ndarray, width: int, height: int) -> np.ndarray:
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
    return frame.reformat(width=width, height=height, interpolation="BICUBIC").to_ndarray()


def psnr(one: np.ndarray, two: np.ndarray) -> float:
    error = np.mean((one.astype(float) - two.astype(float)) ** 2)
    return float(10 * np.log10(255**2 / max(error, 1e-9)))


@pytest.mark.parametrize("name", SOURCES)
def test_the_same_frames_at_the_same_times(name):
    source = SOURCES[name]
    if source.codec not in av.codecs_available:
        pytest.skip(f"this FFmpeg has no {source.codec}")
    data = source.encode()
    check(data, SETTINGS, f"clip.{source.container}")
    made, line = transcode(data, SETTINGS)
    assert line.startswith("short-side=96,gop=12,codec=h264,crf=8,preset=veryfast from ")
    assert ("turned by" in line) == bool(source.rotation)
    upright = [np.rot90(image, -(source.rotation // 90)) for image in sequential(made)]
    assert [number_of(image) for image in upright] == list(range(40))


def test_keyframes_sound_and_repeatable_bytes():
    data = SOURCES["h264 with B-frames"].encode()
    made, _ = transcode(data, SETTINGS)
    assert transcode(data, SETTINGS)[0] == made
    with av.open(io.BytesIO(made)) as container:
        assert [stream.type for stream in container.streams] == ["video"]
        packets = [packet for packet in container.demux(video=0) if packet.size]
    assert [n for n, packet in enumerate(packets) if packet.is_keyframe] == [0, 12, 24, 36]
    assert [packet.pts for packet in packets] == [packet.dts for packet in packets]
    # A group decodes without the one before it.
    alone = decode_frames(made, [30], frame_count=40).frames[0]
    assert np.array_equal(alone, sequential(made)[30])


def test_small_clips_are_not_enlarged_and_odd_sizes_made_even():
    small = clip("libx264", frames=10, size=(64, 48))
    assert sequential(transcode(small, SETTINGS)[0])[0].shape == (48, 64, 3)
    odd = clip("libx264", frames=10, size=(161, 121), pixel_format="yuv444p")
    assert sequential(transcode(odd, SETTINGS)[0])[0].shape == (96, 128, 3)


def test_sound_only_and_damaged_clips_are_refused(shared):
    with pytest.raises(DataError, match="no video stream"):
        transcode((shared / "videos" / "derived_nasa_audio_only.mp4").read_bytes(), SETTINGS)
    with pytest.raises(DataError, match="decoding fails after 28 frames"):
        transcode((shared / "videos" / "decord_corrupted.mp4").read_bytes(), SETTINGS)


REAL = (
    "odd/h264_vfr_gap.mp4", "odd/h264_rot90.mp4", "odd/h264_editlist.mp4", "odd/h264_fullrange.mp4",
    "odd/h264_bt709.mp4", "odd/h264_10bit.mp4", "odd/hevc.mp4", "odd/vp9.mp4", "odd/av1.mp4",
    "derived_yoga_vfr.mp4", "torchcodec_nasa_13013_rotated.mp4", "opencv_tree.avi",
    "forensics_movie-hello.mpeg",
)  # fmt: skip


@pytest.mark.parametrize("name", REAL)
def test_real_clips(shared, name):
    check((shared / "videos" / name).read_bytes(), TranscodeSettings(64, 30, 4), name, tested=3)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not one of"),
        ("gop=30", "short-side: missing"),
        ("short-side=255", "must be even"),
        ("short-side=8", "16 to 4096"),
        ("short-side=256,gop=0", "gop=0: must be a whole number, 1 to"),
        ("short-side=256,crf=99", "0 to 51"),
        ("short-side=256,codec=vp9", "codec=vp9: must be h264"),
        ("short-side=256,preset=best", "preset=best: must be one of"),
        ("short-side=256,fps=3", "'fps=3': not one of"),
        ("short-side=256,gop", "'gop': not one of"),
    ],
)
def test_settings_that_are_refused(text, words):
    with pytest.raises(DataError, match=words):
        TranscodeSettings.parse(text)


def test_packing_with_it(tmp_path: Path):
    root = tmp_path / "clips"
    root.mkdir()
    sources = ["h264 with B-frames", "mpeg-4 in avi", "turned by 90", "h264 10 bit"]
    rows = []
    for number, name in enumerate(sources):
        path = root / f"{number}.{SOURCES[name].container}"
        path.write_bytes(SOURCES[name].encode())
        rows.append(Video(id=f"v{number}", path=path.name, questions=[question(0)]))
    (root / "bad.mp4").write_bytes(b"nonsense" * 100)
    rows.append(Video(id="bad", path="bad.mp4", questions=[question(0)]))
    settings = TranscodeSettings.parse("short-side=64,gop=10")
    report = pack(rows, tmp_path / "out", root=root, transcode=settings, min_shards=2)
    assert [bad.key for bad in report.bad] == ["bad"]
    assert len(report.shards) == 2
    records = []
    for shard in report.shards:
        data = (report.folder / shard.name).read_bytes()
        for entry in read_entries(report.folder, shard):
            assert entry.video.name.endswith(".mp4")
            start = entry.record.offset
            records.append(Video.model_validate_json(data[start : start + entry.record.size]))
    assert [(r.codec, r.width, r.height, r.rotation) for r in records] == [
        ("h264", 86, 64, 0), ("h264", 86, 64, 0), ("h264", 64, 86, 0), ("h264", 86, 64, 0)
    ]  # fmt: skip
    assert records[1].transcoded == f"{settings} from mpeg4 160x120"
    assert records[2].transcoded == f"{settings} from h264 160x120, turned by 90 degrees"
    again = pack(rows, tmp_path / "out", root=root, transcode=settings, min_shards=2)
    assert again.reused
    twin = pack(rows, tmp_path / "two", root=root, transcode=settings, min_shards=2, threads=1)
    assert twin.shards == report.shards
    with pytest.raises(DataError, match="other settings"):
        pack(rows, tmp_path / "out", root=root, transcode=TranscodeSettings(32), min_shards=2)
    with pytest.raises(DataError, match="other settings"):
        pack(rows, tmp_path / "out", root=root, min_shards=2)
