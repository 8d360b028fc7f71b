"""Chosen frames of a clip, on the host: PyAV is fed only the packets a chosen frame needs.

Exactness comes first: frames are bit for bit those of a full decode in presentation order. Where
packet headers do not prove that a shorter way gives them, the whole clip is decoded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from typing import TYPE_CHECKING

import av.error
import numpy as np
from av.video.reformatter import VideoReformatter

from dataloaders.bitstream import Unprovable
from dataloaders.container import (
    FrameLooks,
    build_info,
    decode_all,
    decode_strictly,
    looks_of,
    open_clip,
    quarter_turns,
)
from dataloaders.errors import DataError
from dataloaders.packet_index import PacketIndex, packet_index
from dataloaders.sample_table import sparse_index
from dataloaders.time_limit import end_if_given_up

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.codeccontext import VideoCodecContext
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream


@dataclass(frozen=True)
class DecodedClip:
    """Chosen frames of a clip.

    frames: uint8 (T, H, W, 3), RGB. times: float64 (T,), seconds since the clip's first frame.
    rotation: degrees by which a player turns the frames counter-clockwise. pruned: whether packets
    were left out, else the whole clip was decoded.
    """

    frames: np.ndarray
    times: np.ndarray
    rotation: int
    pruned: bool


@dataclass(frozen=True)
class RawFrames:
    """As DecodedClip, but the frames are a list of uint8 (H, W, 3): a clip may change its size."""

    frames: list[np.ndarray]
    times: np.ndarray
    rotation: int
    pruned: bool


def decode_frames(
    data: bytes,
    indices: Sequence[int] | np.ndarray,
    *,
    frame_count: int | None = None,
    apply_rotation: bool = False,
    name: str = "",
) -> DecodedClip:
    """Decodes the frames with these numbers, counted in presentation order from 0.

    indices: (T,), in any order, repeats allowed. frame_count: the count that ingest found by
    decoding everything; if the packet headers disagree, the whole clip is decoded. apply_rotation:
    turn the frames as a player would. name: the clip's path, for messages and for its suffix.

    A clip with an error in the middle raises DataError where a packet that was decoded holds the
    error, also if PyAV's exception comes after the last chosen frame. If only packets that no
    chosen frame needs are damaged, the chosen frames are right and returned: it is `decode_test`,
    at ingest, that refuses the clip. Damage that FFmpeg conceals without an exception is no error:
    the frames are those of a full decode, concealment included. A clip cut short between two
    packets is a shorter clip. If the frame size changes, all frames are resized (bicubic) to the
    first chosen frame's. Raises DataError for an unreadable clip or an index outside of it.
    """
    raw = decode_raw(data, indices, frame_count=frame_count, name=name)
    frames = np.stack(alike(raw, apply_rotation=apply_rotation))
    return DecodedClip(frames, raw.times, raw.rotation, raw.pruned)


def alike(raw: RawFrames, *, apply_rotation: bool) -> list[np.ndarray]:
    """Contiguous uint8 (H, W, 3) frames, all of the first one's size, turned if that is asked."""
    height, width = raw.frames[0].shape[:2]
    turns = raw.rotation // 90 if apply_rotation else 0
    resized = (_resized(frame, width, height) for frame in raw.frames)
    return [np.ascontiguousarray(np.rot90(frame, turns)) for frame in resized]


def decode_raw(
    data: bytes,
    indices: Sequence[int] | np.ndarray,
    *,
    frame_count: int | None = None,
    name: str = "",
) -> RawFrames:
    """`decode_frames` before resizing and rotation: each frame in its own size."""
    chosen = [int(index) for index in indices]
    if not chosen:
        raise DataError(f"{name or 'clip'}: no frame indices: choose at least one frame")
    ways = [partial(_by_headers, frame_count=frame_count)]
    if frame_count is not None:
        ways.insert(0, partial(_by_sample_table, data=data, frame_count=frame_count))
    for way in ways:
        with open_clip(data, name) as (container, stream):
            try:
                return way(container, stream, chosen, name)
            except (Unprovable, av.error.FFmpegError):
                pass  # the full decode tells whether the clip is broken
    return _decode_whole(data, chosen, name)


def _by_sample_table(
    container: InputContainer,
    stream: VideoStream,
    chosen: list[int],
    name: str,
    *,
    data: bytes,
    frame_count: int,
) -> RawFrames:
    _check_range(chosen, frame_count, name)
    index, stamps, first = sparse_index(container, stream, data, chosen, frame_count)
    images, looks = _decode_pruned(stream.codec_context, index, set(stamps.values()))
    base = stream.time_base or Fraction(1)
    times = np.array([float((stamps[k] - first) * base) for k in chosen])
    return RawFrames([images[stamps[k]] for k in chosen], times, quarter_turns(looks), True)


def _by_headers(
    container: InputContainer,
    stream: VideoStream,
    chosen: list[int],
    name: str,
    *,
    frame_count: int | None,
) -> RawFrames:
    index = packet_index(container, stream)
    count = len(index.presented)
    if frame_count not in (None, count):
        raise Unprovable(f"{count} frames by headers, {frame_count} by decoding")
    _check_range(chosen, count, name)
    wanted = {index.presented[k] for k in chosen}
    images, looks = _decode_pruned(stream.codec_context, index, wanted)
    info = build_info(stream, looks, index.presented, index.last_duration, proven=True)
    frames = [images[index.presented[k]] for k in chosen]
    return RawFrames(frames, info.times[chosen], info.rotation, True)


def _decode_whole(data: bytes, chosen: list[int], name: str) -> RawFrames:
    wanted = set(chosen)
    to_rgb = _RgbConverter()
    images: dict[int, np.ndarray] = {}

    def visit(number: int, frame: VideoFrame) -> None:
        if number in wanted:
            images[number] = to_rgb(frame)

    info = decode_all(data, visit, name=name)
    _check_range(chosen, info.frame_count, name)
    return RawFrames([images[k] for k in chosen], info.times[chosen], info.rotation, False)


def _decode_pruned(
    codec: VideoCodecContext, index: PacketIndex, wanted: set[int]
) -> tuple[dict[int, np.ndarray], FrameLooks]:
    """RGB frames by time stamp, and what the first of them says of the clip.

    Raises Unprovable unless exactly the frames of the packets fed come out, in rising order.
    """
    decode_strictly(codec)
    to_rgb = _RgbConverter()
    images: dict[int, np.ndarray] = {}
    looks: FrameLooks | None = None
    for run in packets_to_feed(index, wanted):
        expected = sorted(index.packets[n].pts or 0 for n in run if index.is_presented(n))
        came: list[int | None] = []
        for packet in [*(index.packets[n] for n in run), None]:
            end_if_given_up()
            for frame in codec.decode(packet):
                if frame.is_corrupt:
                    raise Unprovable("a frame is marked corrupt")
                came.append(frame.pts)
                if frame.pts in wanted:
                    images[frame.pts] = to_rgb(frame)
                    looks = looks or looks_of(frame)
        if came != expected:
            raise Unprovable("other frames come out than the packets announce")
        codec.flush_buffers()
    if looks is None or len(images) != len(wanted):
        raise Unprovable("a chosen frame is missing")
    return images, looks


def packets_to_feed(index: PacketIndex, wanted: set[int]) -> list[list[int]]:
    """The packets to feed, by number: one run from a start to the last chosen frame after it.

    Left out are segments without a chosen frame, the packets after a segment's last chosen frame,
    and pictures that no other refers to. A segment whose start is open (HEVC's CRA) loses its
    leading pictures, which need the segment before; if one of them is chosen, both are one run.
    """
    runs: list[list[int]] = []
    joined: list[int] = []  # packets of the following segment that continue this one
    for segment in reversed(index.segments):
        hits = [n for n in segment if index.is_presented(n) and index.packets[n].pts in wanted]
        if not hits and not joined:
            continue
        end = segment.stop if joined else max(hits) + 1
        is_open = not index.facts[segment.start].starts
        needs_past = is_open and any(index.facts[n].leading for n in hits)
        chosen = set(hits)
        run = [
            n
            for n in range(segment.start, end)
            if n in chosen
            or not (
                index.facts[n].droppable or (is_open and not needs_past and index.facts[n].leading)
            )
        ]
        run += joined
        joined = run if needs_past else []
        if not needs_past:
            runs.append(run)
    return runs[::-1]


class _RgbConverter:
    """YUV to RGB by swscale, as `frame.to_ndarray(format="rgb24")`, with one context and thread."""

    def __init__(self) -> None:
        self.reformatter = VideoReformatter()

    def __call__(self, frame: VideoFrame) -> np.ndarray:
        rgb = self.reformatter.reformat(frame, format="rgb24", threads=1)
        # A view of a frame of our own; the decoder's own buffer must not be kept (see `_walk`).
        pixels = rgb.to_ndarray()
        return pixels.copy() if rgb is frame else np.ascontiguousarray(pixels)


def _resized(frame: np.ndarray, width: int, height: int) -> np.ndarray:
    if frame.shape[:2] == (height, width):
        return frame
    source = av.VideoFrame.from_ndarray(frame, format="rgb24")
    return source.reformat(width=width, height=height, interpolation="BICUBIC").to_ndarray()


def _check_range(chosen: list[int], count: int, name: str) -> None:
    low, high = min(chosen), max(chosen)
    if low < 0 or high >= count:
        raise DataError(
            f"{name or 'clip'}: frame index {low if low < 0 else high}: the clip has {count} "
            f"frames, 0 to {count - 1}; choose indices from the clip's own frame count"
        )
