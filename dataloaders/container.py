"""A clip's container: opening it, decoding it from start to end, and what a manifest says of it."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, NamedTuple

import av
import av.error
import numpy as np

from dataloaders.bitstream import Unprovable
from dataloaders.errors import DataError
from dataloaders.packet_index import PacketIndex, codec_name, packet_index
from dataloaders.time_limit import end_if_given_up

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.codeccontext import VideoCodecContext
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

_FALLBACK_FPS = 25.0


@dataclass(frozen=True)
class VideoInfo:
    """What a clip holds: its first video stream, as a decoder presents it.

    codec: FFmpeg's codec name ("h264", "hevc", "vp9", "av1", ...). width, height: pixels of the
    first frame, before rotation. rotation: degrees (0, 90, 180 or 270) by which a player turns the
    frames counter-clockwise. frame_count: presented frames, without those an edit list hides.
    times: float64 (frame_count,) seconds since the first presented frame. duration: seconds from
    the first frame's start to the last one's end. fps: average frames a second. pixel_format:
    FFmpeg's name. proven: the count comes from packet headers, else from decoding every frame.
    """

    codec: str
    width: int
    height: int
    frame_count: int
    rotation: int
    duration: float
    fps: float
    pixel_format: str
    times: np.ndarray
    proven: bool


# A "clip" may be a playlist, whose demuxer would open the files and URLs that it lists: it may not.
_SEALED = {"protocol_whitelist": "none"}


@contextmanager
def open_clip(data: bytes, name: str = "") -> Iterator[tuple[InputContainer, VideoStream]]:
    """Opens a clip and its first video stream; raises DataError where there is none.

    name: the clip's path, for messages, and for its suffix, by which FFmpeg tells formats apart.
    """
    if not data:
        raise DataError(
            f"{name or 'clip'}: 0 bytes: a clip must hold a video; fetch it again or remove it"
        )
    file = _ClipFile(data)
    if name:
        file.name = name
    try:
        container = av.open(file, "r", metadata_errors="ignore", container_options=_SEALED)
    except (av.error.FFmpegError, ValueError, OSError) as error:
        raise DataError(
            f"{name or 'clip'}: {len(data)} bytes that no demuxer opens ({_reason(error)}): a clip "
            "must be a complete video file; fetch it again or remove it"
        ) from error
    with container:
        if not container.streams.video:
            raise DataError(f"{name or 'clip'}: no video stream: a clip needs one; remove it")
        stream = container.streams.video[0]
        if stream.codec_context is None:
            raise DataError(
                f"{name or 'clip'}: its codec has no decoder here: re-encode the clip to H.264"
            )
        yield container, stream


class _ClipFile(io.BytesIO):
    """A clip's bytes with a name; a demuxer whose work was given up gets no more of them."""

    name: str

    def read(self, size: int | None = -1, /) -> bytes:
        end_if_given_up()
        return super().read(size)


def decode_strictly(codec: VideoCodecContext) -> None:
    """One thread, and an exception at the first damage instead of concealment.

    Call before the first packet. A stream that decodes so without an exception decodes to the same
    frames under any number of threads; a damaged one need not (FFmpeg conceals errors in H.264 only
    when it does not decode slices in parallel). HEVC gets two threads where PyAV's default takes
    several: FFmpeg's decoder of parallel rows and its serial one leave different pictures where
    damage ends a row early, and neither raises an exception then.
    """
    parallel_rows = codec.codec.canonical_name == "hevc" and _num_cpus() > 1
    codec.thread_type = "SLICE" if parallel_rows else "NONE"
    codec.thread_count = 2 if parallel_rows else 1
    codec.options = {"err_detect": "explode"}


class FrameLooks(NamedTuple):
    """What a decoded frame says of its clip."""

    width: int
    height: int
    rotation: int
    pixel_format: str


def looks_of(frame: VideoFrame) -> FrameLooks:
    return FrameLooks(frame.width, frame.height, frame.rotation, frame.format.name)


def quarter_turns(looks: FrameLooks) -> int:
    """Degrees, 0, 90, 180 or 270, by which a player turns the frames counter-clockwise."""
    return round(looks.rotation / 90) % 4 * 90


def decode_all(
    data: bytes, visit: Callable[[int, VideoFrame], None] | None = None, *, name: str = ""
) -> VideoInfo:
    """Decodes the whole clip in order, as `container.decode(video=0)` does with PyAV's defaults.

    visit(number, frame) is called for each presented frame; a clip with damage that FFmpeg conceals
    is gone through twice, so a number may come again, and the last call counts. Raises DataError
    where the decoder raises, wherever in the clip that is.
    """
    for strict in (True, False):
        with open_clip(data, name) as (container, stream):
            if strict:
                decode_strictly(stream.codec_context)
            pts: list[int | None] = []
            try:
                info = _walk(container, stream, visit, pts, strict)
            except (av.error.FFmpegError, Unprovable, ValueError) as error:
                if strict:
                    continue
                raise DataError(
                    f"{name or 'clip'}: decoding fails after {len(pts)} frames ({_reason(error)}): "
                    "every packet must decode; fetch the clip again, re-encode it or remove it"
                ) from error
        if info is None:
            raise DataError(f"{name or 'clip'}: 0 frames: a clip needs one; remove it")
        return info
    raise AssertionError("the second pass returns or raises")


def _walk(
    container: InputContainer,
    stream: VideoStream,
    visit: Callable[[int, VideoFrame], None] | None,
    pts: list[int | None],
    strict: bool,
) -> VideoInfo | None:
    """One pass; fills `pts`. It keeps no frame: in a damaged frame, what was not decoded is what
    the recycled buffer held before, so frames kept alive would change the picture."""
    looks, duration = None, 0
    for frame in container.decode(stream):
        end_if_given_up()
        if strict and frame.is_corrupt:
            raise Unprovable("a frame is marked corrupt")
        if visit is not None:
            visit(len(pts), frame)
        looks, duration = looks or looks_of(frame), frame.duration
        pts.append(frame.pts)
    return build_info(stream, looks, pts, duration, proven=False) if looks else None


def probe(data: bytes, *, name: str = "") -> VideoInfo:
    """What a clip holds, from its packet headers and one frame where they can be trusted.

    Else by decoding the whole clip. Damage inside a packet goes unseen where the headers are whole:
    `decode_test` finds it. Raises DataError for a clip that cannot be read.
    """
    found = probe_headers(data, name=name)
    return found[0] if found is not None else decode_all(data, name=name)


def probe_headers(data: bytes, *, name: str = "") -> tuple[VideoInfo, PacketIndex] | None:
    """As `probe`, with the packets; None where their headers cannot be trusted."""
    with open_clip(data, name) as (container, stream):
        try:
            index = packet_index(container, stream)
            looks = _first_looks(stream.codec_context, index)
            info = build_info(stream, looks, index.presented, index.last_duration, proven=True)
            return info, index
        except (Unprovable, av.error.FFmpegError):
            return None


def decode_test(data: bytes, *, name: str = "") -> VideoInfo:
    """Decodes every frame, for ingest: a clip with an error anywhere raises DataError."""
    return decode_all(data, name=name)


def build_info(
    stream: VideoStream,
    looks: FrameLooks,
    pts: Sequence[int | None],
    last_duration: int | None,
    *,
    proven: bool,
) -> VideoInfo:
    """The VideoInfo of a stream whose presented frames have these time stamps (stream units)."""
    rate = float(stream.average_rate or stream.guessed_rate or _FALLBACK_FPS)
    base = stream.time_base or Fraction(1)
    # Some demuxers (AVI) give the right stamps in another order than the frames': sorted.
    stamps = sorted(value for value in pts if value is not None)
    if len(set(stamps)) == len(pts):
        times = np.array([float((value - stamps[0]) * base) for value in stamps])
        duration = float(times[-1]) + (float((last_duration or 0) * base) or 1 / rate)
    else:  # stamps are missing or repeated: spread the frames evenly
        duration = float((stream.duration or 0) * base) or len(pts) / rate
        times = np.arange(len(pts), dtype=np.float64) * (duration / len(pts))
    return VideoInfo(
        codec=codec_name(stream),
        width=looks.width,
        height=looks.height,
        frame_count=len(pts),
        rotation=quarter_turns(looks),
        duration=duration,
        fps=len(pts) / duration,
        pixel_format=looks.pixel_format,
        times=times,
        proven=proven,
    )


def _first_looks(codec: VideoCodecContext, index: PacketIndex) -> FrameLooks:
    decode_strictly(codec)
    for packet in [*index.packets, None]:
        for frame in codec.decode(packet):
            return looks_of(frame)
    raise Unprovable("no frame comes out")


def _num_cpus() -> int:
    """As FFmpeg counts them: those this process may run on, where the system tells."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _reason(error: BaseException) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
