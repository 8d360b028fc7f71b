"""A moment of a clip as a clip of its own."""

from __future__ import annotations

import io
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import av
import numpy as np

from dataloaders.container import VideoInfo, decode_all, probe
from dataloaders.errors import DataError

if TYPE_CHECKING:
    from av.video.frame import VideoFrame

_TICKS = Fraction(1, 90000)


def cut(data: bytes, start: float, end: float, *, name: str = "") -> bytes:
    """The frames of a clip from ``start`` to before ``end`` (seconds), upright, as an MP4 (H.264).

    Each frame keeps its distance in time to the first. Sound is left out. A span between two frames
    gives the one that is shown then.

    Raises:
        DataError: the clip cannot be read, or is over before ``start``.
    """
    info = probe(data, name=name)
    if not 0 <= start < info.duration or end < start:
        raise DataError(
            f"{name or 'clip'}: {start:g} to {end:g} s: must be a span of its {info.duration:g} s"
        )
    first = max(int(np.searchsorted(info.times, start, side="right")) - 1, 0)
    if info.times[first] < start and first + 1 < info.frame_count and info.times[first + 1] < end:
        first += 1  # the frame before has begun earlier
    last = max(int(np.searchsorted(info.times, end, side="left")) - 1, first)
    writer = _Writer(info, first, last)
    decode_all(data, writer.visit, name=name)
    return writer.finish()


class _Writer:
    """Takes frames one by one; the first of them again begins anew, as ``decode_all`` may."""

    def __init__(self, info: VideoInfo, first: int, last: int) -> None:
        self._info, self._first, self._last = info, first, last

    def visit(self, number: int, frame: VideoFrame) -> None:
        if not self._first <= number <= self._last:
            return
        pixels = np.rot90(frame.to_ndarray(format="rgb24"), self._info.rotation // 90)
        if number == self._first:
            self._begin(*pixels.shape[:2])
        height, width = self._stream.height, self._stream.width
        picture = av.VideoFrame.from_ndarray(
            np.ascontiguousarray(_padded(pixels, height, width)), format="rgb24"
        )
        since = self._info.times[number] - self._info.times[self._first]
        picture.pts, picture.time_base = round(float(since) / _TICKS), _TICKS
        self._out.mux(self._stream.encode(picture))

    def _begin(self, height: int, width: int) -> None:
        self._file = io.BytesIO()
        self._out = av.open(self._file, "w", format="mp4")
        rate = Fraction(self._info.fps).limit_denominator(1001)
        self._stream: Any = self._out.add_stream("libx264", rate=rate)
        # 4:2:0 colour: even sides.
        self._stream.height, self._stream.width = height + height % 2, width + width % 2
        self._stream.pix_fmt = "yuv420p"
        self._stream.options = {"crf": "18", "preset": "veryfast"}
        self._stream.codec_context.time_base = _TICKS

    def finish(self) -> bytes:
        self._out.mux(self._stream.encode(None))
        self._out.close()
        return self._file.getvalue()


def _padded(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Cut or extended to a size; a clip may change its size on the way."""
    pixels = pixels[:height, :width]
    missing = height - pixels.shape[0], width - pixels.shape[1]
    return np.pad(pixels, ((0, missing[0]), (0, missing[1]), (0, 0)), mode="edge")
