"""What a compressed packet says about itself, read from its headers without decoding it.

Here: what is common, and VP9 and AV1; `nal_units` has H.264 and HEVC. Whatever is out of the
ordinary raises `Unprovable`: the caller then decodes the whole clip. Sources: the VP9 bitstream
specification 6.2 and Annex B, the AV1 bitstream specification 5.3-5.9.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple


class Unprovable(Exception):
    """The headers do not prove which frames a full decode would show."""


class PacketFacts(NamedTuple):
    """What one packet does: `shown` frames come out of it; `starts` when decoding may begin at it,
    whatever came before; `open_start` when it may begin for all but the `leading` packets that
    follow; `droppable` when no other picture refers to it."""

    shown: int
    starts: bool
    open_start: bool = False
    leading: bool = False
    droppable: bool = False


PacketReader = Callable[[memoryview], PacketFacts]


class Bits:
    """A big-endian bit reader with Exp-Golomb codes."""

    def __init__(self, data: bytes | memoryview) -> None:
        self.value = int.from_bytes(data, "big")
        self.left = 8 * len(data)

    def read(self, count: int = 1) -> int:
        self.left -= count
        if self.left < 0:
            raise Unprovable("a header ends early")
        return (self.value >> self.left) & ((1 << count) - 1)

    def skip_golomb(self, count: int) -> None:
        for _ in range(count):
            self.golomb()

    def golomb(self) -> int:
        zeros = 0
        while not self.read():
            zeros += 1
        return (1 << zeros) - 1 + self.read(zeros)


# ---- VP9 ----------------------------------------------------------------------------------------


def vp9_packet(packet: memoryview) -> PacketFacts:
    headers = [_vp9_header(frame) for frame in _vp9_frames(packet)]
    if not headers:
        raise Unprovable("a VP9 packet without a frame")
    return PacketFacts(sum(shown for shown, _ in headers), starts=headers[0][1])


def _vp9_frames(packet: memoryview) -> list[memoryview]:
    """The frames of a packet, split by its superframe index if it has one."""
    marker = packet[-1]
    if marker & 0xE0 != 0xC0:
        return [packet]
    count, width = (marker & 7) + 1, (marker >> 3 & 3) + 1
    index = packet[-(2 + width * count) :]
    if index[0] != marker or len(index) != 2 + width * count:
        return [packet]
    frames, at = [], 0
    for k in range(count):
        size = int.from_bytes(index[1 + k * width : 1 + (k + 1) * width], "little")
        if size < 1 or at + size > len(packet) - len(index):
            raise Unprovable("a VP9 superframe index that does not fit")
        frames.append(packet[at : at + size])
        at += size
    return frames


def _vp9_header(frame: memoryview) -> tuple[int, bool]:
    """(shown, key) of one frame."""
    bits = Bits(frame[:3])
    if bits.read(2) != 2:
        raise Unprovable("a VP9 frame without its marker")
    profile = bits.read() | bits.read() << 1
    if profile == 3:
        bits.read()
    if bits.read():  # show_existing_frame
        return 1, False
    key = not bits.read()
    return bits.read(), key


# ---- AV1 ----------------------------------------------------------------------------------------


def av1_packet(packet: memoryview) -> PacketFacts:
    shown, starts, frames, at = 0, False, 0, 0
    while at < len(packet):
        head = packet[at]
        kind, extended, sized = head >> 3 & 15, head & 4, head & 2
        at += 1
        if extended:
            if at >= len(packet) or packet[at] >> 3 & 3:
                raise Unprovable("AV1 with spatial layers")
            at += 1
        size, at = _leb128(packet, at) if sized else (len(packet) - at, at)
        if head & 0x80 or at + size > len(packet):
            raise Unprovable("an AV1 unit that does not fit its packet")
        if kind == 1 and size and packet[at] & 8:  # reduced_still_picture_header
            raise Unprovable("an AV1 still picture")
        if kind in (3, 6):  # frame header, frame
            bits = Bits(packet[at : at + min(size, 1)])
            if bits.read():  # show_existing_frame
                shown += 1
            else:
                key = bits.read(2) == 0
                visible = bits.read()
                shown += visible
                starts |= frames == 0 and key and bool(visible)
            frames += 1
        at += size
    return PacketFacts(shown, starts)


def _leb128(data: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for k in range(min(8, len(data) - at)):
        value |= (data[at + k] & 127) << (7 * k)
        if not data[at + k] & 128:
            return value, at + k + 1
    raise Unprovable("an AV1 length that does not end")
