"""Clips made small and quick to decode: resized, upright, a keyframe every so many frames.

What a frame *is* does not change: the frames are those a full decode presents, in that order, and
each keeps its time stamp, also at a variable rate. Without B-frames a frame is decoded from its own
group alone, and packets come in the order of the frames.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from dataloaders.container import VideoInfo, decode_all, looks_of, probe
from dataloaders.errors import DataError

if TYPE_CHECKING:
    from av.packet import Packet
    from av.video.frame import VideoFrame

_CODEC = "h264"
_TICKS = Fraction(1, 90000)
_NUMBERS = Fraction(1, 25)
_BT601, _LIMITED = 5, 1  # what swscale takes untagged frames for
_MOST_TICKS = 2**31 - 1  # of an MP4's time scale


@dataclass(frozen=True)
class TranscodeSettings:
    """short_side: pixels at most, even; gop: frames from keyframe to keyframe; crf: x264's quality,
    0 (lossless) to 51; preset: x264's effort."""

    short_side: int
    gop: int = 30
    crf: int = 20
    preset: str = "veryfast"

    @classmethod
    def parse(cls, text: str) -> TranscodeSettings:
        """From ``short-side=256,gop=30[,codec=h264][,crf=20][,preset=veryfast]``.

        Raises:
            DataError: an unknown name or a value out of its range.
        """
        fields: dict[str, str] = {}
        for part in text.split(","):
            name, equals, value = part.partition("=")
            if not equals or name not in ("short-side", "gop", "codec", "crf", "preset"):
                raise DataError(
                    f"--transcode: {part!r}: not one of short-side=, gop=, codec=, crf=, preset=; "
                    "for example short-side=256,gop=30"
                )
            fields[name] = value
        if fields.get("codec", _CODEC) != _CODEC:
            raise DataError(f"--transcode: codec={fields['codec']}: must be {_CODEC}")
        if "short-side" not in fields:
            raise DataError("--transcode: short-side: missing; for example short-side=256,gop=30")
        side = _whole("short-side", fields["short-side"], 16, 4096)
        if side % 2:
            raise DataError(f"--transcode: short-side={side}: must be even, for 4:2:0 colour")
        preset = fields.get("preset", cls.preset)
        if preset not in _PRESETS:
            raise DataError(f"--transcode: preset={preset}: must be one of {', '.join(_PRESETS)}")
        return cls(
            short_side=side,
            gop=_whole("gop", fields.get("gop", str(cls.gop)), 1, 10000),
            crf=_whole("crf", fields.get("crf", str(cls.crf)), 0, 51),
            preset=preset,
        )

    def __str__(self) -> str:
        return (
            f"short-side={self.short_side},gop={self.gop},codec={_CODEC},crf={self.crf},"
            f"preset={self.preset}"
        )


_PRESETS = ("ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower")


def _whole(name: str, text: str, least: int, most: int) -> int:
    if not text.isdecimal() or not least <= int(text) <= most:
        raise DataError(f"--transcode: {name}={text}: must be a whole number, {least} to {most}")
    return int(text)


def transcode(data: bytes, settings: TranscodeSettings, *, name: str = "") -> tuple[bytes, str]:
    """The clip as an MP4 of H.264 without sound, and a line for its record that says so.

    Every frame of the clip is decoded on the way. The same clip and settings give the same bytes
    with the same FFmpeg.

    Raises:
        DataError: the clip does not decode, or what was made of it has other frames.
    """
    encoder = _Encoder(settings)
    info = decode_all(data, encoder.visit, name=name)
    result = encoder.finish(info)
    made = probe(result, name=name)
    if made.frame_count != info.frame_count or abs(made.times - info.times).max() > encoder.tick:
        raise DataError(
            f"{name or 'clip'}: transcoding gives {made.frame_count} frames at other times than "
            f"the {info.frame_count} there are; pack it without --transcode, or remove it"
        )
    turned = f", turned by {info.rotation} degrees" if info.rotation else ""
    return result, f"{settings} from {info.codec} {info.width}x{info.height}{turned}"


class _Encoder:
    """Takes a clip's frames one by one; frame 0 again begins anew, as ``decode_all`` may."""

    def __init__(self, settings: TranscodeSettings):
        self._settings = settings
        self._count = 0
        self._base = _TICKS

    @property
    def tick(self) -> float:
        """Seconds."""
        return float(self._base)

    def visit(self, number: int, frame: VideoFrame) -> None:
        if number == 0:
            self._begin(frame)
        picture = self._shaped(frame)
        picture.pts, picture.time_base = number, _NUMBERS
        self._packets += self._stream.encode(picture)
        self._count = number + 1

    def _begin(self, frame: VideoFrame) -> None:
        looks = looks_of(frame)
        self._turns = round(looks.rotation / 90) % 4
        self._size = _fitted(looks.width, looks.height, self._settings.short_side)
        self._reformatter = VideoReformatter()
        if frame.format.is_rgb:
            self._colours: dict[str, Any] = {"dst_colorspace": _BT601, "dst_color_range": _LIMITED}
        else:  # YUV stays the YUV it is, and keeps the tags that say which
            self._colours = {
                "src_color_range": frame.color_range, "dst_color_range": frame.color_range
            }  # fmt: skip
        self._base = _base_of(frame)
        self._file = io.BytesIO()
        self._out = av.open(self._file, "w", format="mp4")
        width, height = self._size if self._turns % 2 == 0 else self._size[::-1]
        self._stream = self._out.add_stream(
            "libx264",
            rate=1 / _NUMBERS,
            options=_options(self._settings),
            width=width,
            height=height,
        )
        self._stream.pix_fmt = "yuv420p"
        codec = self._stream.codec_context
        codec.thread_count = 1
        codec.time_base = _NUMBERS  # frames go in by number; they get their times at the end
        if not frame.format.is_rgb:
            codec.color_range = frame.color_range
            codec.colorspace = frame.colorspace
            codec.color_primaries, codec.color_trc = frame.color_primaries, frame.color_trc
        self._packets: list[Packet] = []

    def _shaped(self, frame: VideoFrame) -> VideoFrame:
        """Resized and upright, 8 bits, 4:2:0."""
        width, height = self._size
        small = self._reformatter.reformat(
            frame, width=width, height=height, format="yuv420p", interpolation="BICUBIC",
            threads=1, **self._colours,
        )  # fmt: skip
        planes = small.to_ndarray()
        if self._turns:
            planes = _turned(planes, width, height, self._turns)
        # A frame of its own: it must not carry the source's picture type, rotation or duration.
        clean = av.VideoFrame.from_ndarray(planes, format="yuv420p")
        if not frame.format.is_rgb:
            clean.colorspace, clean.color_range = frame.colorspace, frame.color_range
        return clean

    def finish(self, info: VideoInfo) -> bytes:
        """The file, with the frames' own times."""
        assert self._count == info.frame_count
        self._packets += self._stream.encode(None)
        stamps = _stamps(info, self._base)
        if stamps is None:
            self._base = _TICKS
            stamps = _stamps(info, self._base)
        if stamps is None:
            raise DataError("two frames at one time: pack the clip without --transcode")
        end = max(stamps[-1] + 1, round(info.duration / self._base))
        self._stream.time_base = self._base
        for packet in self._packets:
            assert packet.pts is not None
            number = packet.pts
            packet.time_base = self._base
            packet.pts = packet.dts = stamps[number]
            packet.duration = [*stamps, end][number + 1] - stamps[number]
            self._out.mux(packet)
        self._out.close()
        return self._file.getvalue()


def _options(settings: TranscodeSettings) -> dict[str, str]:
    # mbtree makes the bytes depend on what lies in memory: see docs/log.md.
    x264 = f"keyint={settings.gop}:min-keyint={settings.gop}:scenecut=0:open-gop=0:bframes=0"
    return {
        "preset": settings.preset,
        "crf": str(settings.crf),
        "x264-params": f"{x264}:mbtree=0:force-cfr=1",
    }


def _fitted(width: int, height: int, short_side: int) -> tuple[int, int]:
    """Even sizes of the same shape whose shorter side is at most ``short_side``."""
    scale = min(1.0, short_side / min(width, height))
    return max(2, round(width * scale / 2) * 2), max(2, round(height * scale / 2) * 2)


def _turned(planes: np.ndarray, width: int, height: int, turns: int) -> np.ndarray:
    """A 4:2:0 picture (3H/2, W) turned counter-clockwise by quarters."""
    flat = planes.reshape(-1)
    luma, chroma = width * height, width * height // 4
    parts = (
        flat[:luma].reshape(height, width),
        flat[luma : luma + chroma].reshape(height // 2, width // 2),
        flat[luma + chroma :].reshape(height // 2, width // 2),
    )
    turned = np.concatenate([np.rot90(part, turns).reshape(-1) for part in parts])
    return turned.reshape(-1, height if turns % 2 else width)


def _base_of(frame: VideoFrame) -> Fraction:
    base = frame.time_base
    return base if base is not None and 0 < base.denominator <= _MOST_TICKS // 2 else _TICKS


def _stamps(info: VideoInfo, base: Fraction) -> list[int] | None:
    """The frames' times in ticks; None if the ticks are too coarse to tell them apart."""
    stamps = [round(time / base) for time in info.times.tolist()]
    return stamps if len(set(stamps)) == len(stamps) else None
