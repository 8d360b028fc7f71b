"""What a compressed packet says about itself, read from its headers without decoding it.

Only four codecs are read: H.264 and HEVC with length-prefixed NAL units (MP4, Matroska), VP9 and
AV1. Whatever is out of the ordinary raises `Unprovable`: the caller then decodes the whole clip.
Sources: ITU-T H.264 7.3.1-7.3.2, ITU-T H.265 7.3.1-7.3.2, the VP9 bitstream specification 6.2 and
Annex B, the AV1 bitstream specification 5.3-5.9, ISO/IEC 14496-15 (avcC, hvcC).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
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


Reader = Callable[[memoryview], PacketFacts]


class _Bits:
    """A big-endian bit reader with Exp-Golomb codes."""

    def __init__(self, data: bytes | memoryview) -> None:
        self.value = int.from_bytes(data, "big")
        self.left = 8 * len(data)

    def read(self, count: int = 1) -> int:
        self.left -= count
        if self.left < 0:
            raise Unprovable("a header ends early")
        return (self.value >> self.left) & ((1 << count) - 1)

    def golomb(self) -> int:
        zeros = 0
        while not self.read():
            zeros += 1
        return (1 << zeros) - 1 + self.read(zeros)


def packet_reader(codec: str, extradata: bytes | None) -> Reader:
    """The reader of a codec's packets (FFmpeg's codec name), or Unprovable if there is none."""
    extra = extradata or b""
    if codec == "h264":
        return _h264_reader(extra)
    if codec == "hevc":
        return _hevc_reader(extra)
    if codec == "vp9":
        return _vp9_packet
    if codec == "av1":
        return _av1_packet
    raise Unprovable(f"packets of codec {codec} are not read")


def _nal_units(packet: memoryview, prefix: int) -> Iterator[memoryview]:
    """The NAL units of a packet, each behind a length of `prefix` bytes."""
    at, end = 0, len(packet)
    while at < end:
        start = at + prefix
        length = int.from_bytes(packet[at:start], "big")
        at = start + length
        if length < 2 or at > end:
            raise Unprovable("a NAL unit's length does not fit its packet")
        yield packet[start:at]


def _unescaped(nal: bytes) -> bytes:
    """A NAL unit's payload without its emulation prevention bytes."""
    return nal.replace(b"\x00\x00\x03", b"\x00\x00")


# ---- H.264 --------------------------------------------------------------------------------------

_H264_IGNORED = {6, 9, 12}  # SEI, access unit delimiter, filler
_H264_HIGH_PROFILES = {100, 110, 122, 44, 83, 86, 118, 128, 138, 139, 134, 135, 244}


def _h264_reader(extradata: bytes) -> Reader:
    if len(extradata) < 7 or extradata[0] != 1:
        raise Unprovable("H.264 without an avcC header")
    prefix = (extradata[4] & 3) + 1
    known: set[bytes] = set()
    at = 5
    for mask in (31, 255):  # sequence, then picture parameter sets
        if at >= len(extradata):
            raise Unprovable("the avcC header ends early")
        count, at = extradata[at] & mask, at + 1
        for _ in range(count):
            length = int.from_bytes(extradata[at : at + 2], "big")
            known.add(extradata[at + 2 : at + 2 + length])
            at += 2 + length
    sequences = [nal for nal in known if nal and nal[0] & 31 == 7]
    if len(sequences) != 1:
        raise Unprovable("not exactly one H.264 sequence parameter set")
    _check_h264_sequence(sequences[0])

    def read(packet: memoryview) -> PacketFacts:
        pictures, kinds, referenced = 0, set(), False
        for nal in _nal_units(packet, prefix):
            kind = nal[0] & 31
            if kind in (1, 5):
                kinds.add(kind)
                pictures += nal[1] >> 7  # first_mb_in_slice == 0 is the single bit 1
                referenced |= bool(nal[0] & 0x60)
            elif kind in (7, 8):
                if bytes(nal) not in known:
                    raise Unprovable("H.264 parameter sets change inside the stream")
            elif kind not in _H264_IGNORED:
                raise Unprovable(f"H.264 NAL unit of type {kind}")
        if pictures != 1 or len(kinds) != 1:
            raise Unprovable("an H.264 packet is not exactly one picture")
        return PacketFacts(1, starts=kinds == {5}, droppable=not referenced)

    return read


def _check_h264_sequence(sps: bytes) -> None:
    """Progressive, no 4:4:4 (its decoding depends on an SEI of the first packet), no gaps."""
    bits = _Bits(_unescaped(sps[1:]))
    profile = bits.read(8)
    bits.read(16)  # constraint flags, level
    bits.golomb()  # id
    if profile in _H264_HIGH_PROFILES:
        if bits.golomb() == 3:
            raise Unprovable("H.264 4:4:4")
        bits.golomb(), bits.golomb(), bits.read()  # bit depths, lossless flag
        if bits.read():
            _skip_scaling_lists(bits)
    bits.golomb()  # log2_max_frame_num
    order = bits.golomb()
    if order == 0:
        bits.golomb()
    elif order == 1:
        bits.read(), bits.golomb(), bits.golomb()
        for _ in range(bits.golomb()):
            bits.golomb()
    bits.golomb()  # max_num_ref_frames
    if bits.read():
        raise Unprovable("H.264 that allows gaps in frame_num")
    bits.golomb(), bits.golomb()  # size
    if not bits.read():
        raise Unprovable("interlaced H.264")


def _skip_scaling_lists(bits: _Bits) -> None:
    for index in range(8):
        if not bits.read():
            continue
        last = following = 8
        for _ in range(16 if index < 6 else 64):
            if following:
                code = bits.golomb()
                following = (last + (code + 1 >> 1 if code & 1 else -(code >> 1))) % 256
            last = following or last


# ---- HEVC ---------------------------------------------------------------------------------------

_HEVC_IGNORED = {35, 38, 39, 40}  # delimiter, filler, SEI
_HEVC_SETS = {32, 33, 34}


def _hevc_reader(extradata: bytes) -> Reader:
    if len(extradata) < 23 or extradata[0] != 1:
        raise Unprovable("HEVC without an hvcC header")
    prefix = (extradata[21] & 3) + 1
    known: set[bytes] = set()
    at = 23
    for _ in range(extradata[22]):
        count = int.from_bytes(extradata[at + 1 : at + 3], "big")
        at += 3
        for _ in range(count):
            length = int.from_bytes(extradata[at : at + 2], "big")
            known.add(extradata[at + 2 : at + 2 + length])
            at += 2 + length
    kinds = [nal[0] >> 1 & 63 for nal in known if nal]
    if kinds.count(33) != 1 or not kinds.count(34):
        raise Unprovable("not exactly one HEVC sequence parameter set in the header")
    one_layer = True
    for nal in known:
        if len(nal) > 2 and nal[0] >> 1 & 63 == 33:
            one_layer = not nal[2] >> 1 & 7  # sps_max_sub_layers_minus1
        if nal and nal[0] >> 1 & 63 == 34:
            bits = _Bits(_unescaped(nal[2:]))
            bits.golomb(), bits.golomb(), bits.read()
            if bits.read():  # output_flag_present_flag
                raise Unprovable("HEVC pictures that may be hidden")

    def read(packet: memoryview) -> PacketFacts:
        pictures, kind = 0, -1
        for nal in _nal_units(packet, prefix):
            this = nal[0] >> 1 & 63
            if (nal[0] & 1) << 5 | nal[1] >> 3:
                raise Unprovable("HEVC with more than one layer")
            if this in _HEVC_SETS:
                if bytes(nal) not in known:
                    raise Unprovable("HEVC parameter sets change inside the stream")
            elif this <= 9 or 19 <= this <= 21:
                if len(nal) < 3 or kind not in (-1, this):
                    raise Unprovable("an HEVC packet is not exactly one picture")
                pictures += nal[2] >> 7  # first_slice_segment_in_pic_flag
                if this >= 19 and nal[2] & 0x40:
                    raise Unprovable("HEVC that discards earlier pictures")
                kind = this
            elif this not in _HEVC_IGNORED:
                raise Unprovable(f"HEVC NAL unit of type {this}")
        if pictures != 1:
            raise Unprovable("an HEVC packet is not exactly one picture")
        # A "sub-layer non-reference" picture (even type) may still serve higher temporal layers.
        return PacketFacts(
            1,
            starts=kind in (19, 20),
            open_start=kind == 21,
            leading=kind in (8, 9),
            droppable=one_layer and kind <= 9 and kind % 2 == 0,
        )

    return read


# ---- VP9 ----------------------------------------------------------------------------------------


def _vp9_packet(packet: memoryview) -> PacketFacts:
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
    bits = _Bits(frame[:3])
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


def _av1_packet(packet: memoryview) -> PacketFacts:
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
            bits = _Bits(packet[at : at + min(size, 1)])
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
