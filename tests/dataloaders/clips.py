"""Small clips made with PyAV, whose every frame carries its own number."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any

import av
import numpy as np

_BITS = 8


def picture(number: int, width: int = 160, height: int = 120) -> np.ndarray:
    """uint8 (H, W, 3): a moving texture under a row of black and white blocks spelling `number`."""
    rows, columns = np.mgrid[:height, :width]
    wave = 60 * np.sin((columns + 3 * number) / 9.0) * np.cos((rows - 2 * number) / 7.0)
    image = np.stack([128 + wave, 110 - wave / 2, 90 + rows / 2 + wave / 3], axis=-1)
    block = width // _BITS
    for bit in range(_BITS):
        image[: height // 4, bit * block : (bit + 1) * block] = 235 if number >> bit & 1 else 20
    return image.clip(0, 255).astype(np.uint8)


def number_of(image: np.ndarray) -> int:
    """The number that `picture` wrote into an image (H, W, 3) of any size."""
    height, width = image.shape[:2]
    block = width // _BITS
    row = image[height // 16 : height // 5].astype(float).mean(axis=(0, 2))
    bits = [row[b * block + block // 4 : (b + 1) * block - block // 4].mean() for b in range(_BITS)]
    return sum(1 << bit for bit, level in enumerate(bits) if level > 128)


def make_clip(
    codec: str = "libx264",
    *,
    frames: int = 60,
    size: tuple[int, int] = (160, 120),
    container: str = "mp4",
    options: Mapping[str, str] | None = None,
    container_options: Mapping[str, str] | None = None,
    stamps: Sequence[int] | None = None,
    pixel_format: str = "yuv420p",
    rotation: int = 0,
    streams: int = 1,
    grey: bool = False,
) -> bytes:
    """A clip of `picture`s, or of plain grey, at 25 frames a second; `stamps` are other time
    stamps, in 1/100 s."""
    file = io.BytesIO()
    settings = dict(container_options or {})
    with _priority_kept(), av.open(file, "w", format=container, container_options=settings) as out:
        tracks = []
        for number in range(streams):
            track = out.add_stream(codec, rate=25, options=_repeatable(codec, options or {}))
            track.width, track.height = size[0] << number, size[1] << number
            track.pix_fmt = pixel_format
            track.time_base = Fraction(1, 100)
            track.codec_context.time_base = Fraction(1, 100)
            track.codec_context.thread_count = 1  # x264 cuts frames into a slice per thread
            if rotation:
                track.set_display_rotation(rotation)
            tracks.append(track)
        for number in range(frames):
            for track in tracks:
                image = np.full((track.height, track.width, 3), 99, np.uint8)
                if not grey:
                    image = picture(number, track.width, track.height)
                frame = av.VideoFrame.from_ndarray(image, format="rgb24")
                frame.pts = stamps[number] if stamps is not None else 4 * number
                frame.time_base = Fraction(1, 100)
                out.mux(track.encode(frame))
        for track in tracks:
            out.mux(track.encode(None))
    return file.getvalue()


@contextmanager
def _priority_kept() -> Iterator[None]:
    """SVT-AV1 makes the thread that opens it real-time where the user may (root may): what is
    started from there later would keep everything else on the machine from running."""
    policy, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        yield
    finally:
        os.sched_setscheduler(0, policy, parameters)


def _repeatable(codec: str, options: Mapping[str, str]) -> dict[str, str]:
    """x264's macroblock tree depends on what lies in memory: without it, the same bytes always."""
    if codec != "libx264":
        return dict(options)
    alike = "mbtree=0"
    given = options.get("x264-params")
    return {**options, "x264-params": f"{given}:{alike}" if given else alike}


@lru_cache(maxsize=64)
def _cached(codec: str, items: tuple) -> bytes:
    settings: dict[str, Any] = {k: dict(v) if k.endswith("options") else v for k, v in items}
    return make_clip(codec, **settings)


def clip(codec: str = "libx264", **settings: object) -> bytes:
    """`make_clip`, each clip encoded once."""
    items = {
        key: tuple(sorted(value.items())) if isinstance(value, Mapping) else value
        for key, value in settings.items()
    }
    return _cached(codec, tuple(sorted(items.items())))


def sequential(data: bytes | Path) -> list[np.ndarray]:
    """The reference: every frame, decoded in order with PyAV's defaults."""
    source = io.BytesIO(data) if isinstance(data, bytes) else str(data)
    with av.open(source) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def digest(image: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(image).tobytes()).hexdigest()


def cut_by_edit_list(data: bytes, hidden: int) -> bytes:
    """An MP4 whose first `hidden` frames an edit list hides: their time stamps are negative."""
    file = io.BytesIO()
    with av.open(io.BytesIO(data)) as source, av.open(file, "w", format="mp4") as out:
        template = source.streams.video[0]
        assert template.time_base is not None
        shift = int(hidden / 25 / template.time_base)
        stream = out.add_stream_from_template(template)
        for packet in source.demux(template):
            if packet.dts is None or packet.pts is None:
                continue
            packet.stream = stream
            packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
            out.mux(packet)
    return file.getvalue()


@lru_cache(maxsize=1)
def endless_clip() -> bytes:
    """H.264 in 4K, 4800 frames of it, that takes a minute to decode and a second to make: one group
    of frames, encoded once, written over and over."""
    group = make_clip(frames=8, size=(3840, 2160), options={"preset": "ultrafast", "g": "8"},
                      grey=True)  # fmt: skip
    file = io.BytesIO()
    with av.open(io.BytesIO(group)) as source, av.open(file, "w", format="mp4") as out:
        template = source.streams.video[0]
        stream = out.add_stream_from_template(template)
        packets = [packet for packet in source.demux(template) if packet.pts is not None]
        whole = [(bytes(packet), packet.pts, packet.dts, packet.is_keyframe) for packet in packets]
        length = len(whole) * (whole[1][2] - whole[0][2])
        for repeat in range(600):
            for data, pts, dts, is_key in whole:
                packet = av.Packet(data)
                packet.stream, packet.time_base = stream, template.time_base
                packet.pts, packet.dts = pts + repeat * length, dts + repeat * length
                packet.is_keyframe = is_key
                out.mux(packet)
    return file.getvalue()


def packet_positions(data: bytes) -> list[tuple[int, int]]:
    """(byte offset, size) of each packet of the first video stream, in decoding order."""
    with av.open(io.BytesIO(data)) as source:
        return [(p.pos or 0, p.size) for p in source.demux(video=0) if p.size]
