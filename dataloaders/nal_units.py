"""What H.264 and HEVC packets with length-prefixed NAL units (MP4, Matroska) say of themselves.

Sources: ITU-T H.264 7.3.1-7.3.2, ITU-T H.265 7.3.1-7.3.2, ISO/IEC 14496-15 (avcC, hvcC).
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from dataloaders.bitstream import Bits, PacketFacts, PacketReader, Unprovable


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


def _read_sets(extradata: bytes, at: int, count: int, known: set[bytes]) -> int:
    """Adds `count` parameter sets, each behind a two-byte length; returns where they end."""
    for _ in range(count):
        length = int.from_bytes(extradata[at : at + 2], "big")
        known.add(extradata[at + 2 : at + 2 + length])
        at += 2 + length
    return at


def _unescaped(nal: bytes) -> bytes:
    """A NAL unit's payload without its emulation prevention bytes."""
    return nal.replace(b"\x00\x00\x03", b"\x00\x00")


# ---- H.264 --------------------------------------------------------------------------------------

_H264_IGNORED = {6, 9, 12}  # SEI, access unit delimiter, filler
# FFmpeg imitates a fault of x264 before build 34 where it has seen this SEI, in the first packet.
_X264_BUILD = re.compile(rb"x264 - core (\d+)")
_H264_HIGH_PROFILES = {100, 110, 122, 44, 83, 86, 118, 128, 138, 139, 134, 135, 244}


def h264_reader(extradata: bytes) -> PacketReader:
    if len(extradata) < 7 or extradata[0] != 1:
        raise Unprovable("H.264 without an avcC header")
    prefix = (extradata[4] & 3) + 1
    known: set[bytes] = set()
    at = 5
    for mask in (31, 255):  # sequence, then picture parameter sets
        if at >= len(extradata):
            raise Unprovable("the avcC header ends early")
        count, at = extradata[at] & mask, at + 1
        at = _read_sets(extradata, at, count, known)
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
            elif kind == 6 and (build := _X264_BUILD.search(nal)) and int(build[1]) < 34:
                raise Unprovable("H.264 by a faulty early encoder")
            elif kind not in _H264_IGNORED:
                raise Unprovable(f"H.264 NAL unit of type {kind}")
        if pictures != 1 or len(kinds) != 1:
            raise Unprovable("an H.264 packet is not exactly one picture")
        return PacketFacts(1, starts=kinds == {5}, droppable=not referenced)

    return read


def _check_h264_sequence(sps: bytes) -> None:
    """Progressive, no 4:4:4 (its decoding depends on an SEI of the first packet), no gaps."""
    bits = Bits(_unescaped(sps[1:]))
    profile = bits.read(8)
    bits.read(16)  # constraint flags, level
    bits.golomb()  # id
    if profile in _H264_HIGH_PROFILES:
        if bits.golomb() == 3:
            raise Unprovable("H.264 4:4:4")
        bits.skip_golomb(2)  # bit depths
        bits.read()  # lossless flag
        if bits.read():
            _skip_scaling_lists(bits)
    bits.golomb()  # log2_max_frame_num
    order = bits.golomb()
    if order == 0:
        bits.golomb()
    elif order == 1:
        bits.read()
        bits.skip_golomb(2)
        bits.skip_golomb(bits.golomb())
    bits.golomb()  # max_num_ref_frames
    if bits.read():
        raise Unprovable("H.264 that allows gaps in frame_num")
    bits.skip_golomb(2)  # size
    if not bits.read():
        raise Unprovable("interlaced H.264")


def _skip_scaling_lists(bits: Bits) -> None:
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


def hevc_reader(extradata: bytes) -> PacketReader:
    if len(extradata) < 23 or extradata[0] != 1:
        raise Unprovable("HEVC without an hvcC header")
    prefix = (extradata[21] & 3) + 1
    known: set[bytes] = set()
    at = 23
    for _ in range(extradata[22]):
        count = int.from_bytes(extradata[at + 1 : at + 3], "big")
        at = _read_sets(extradata, at + 3, count, known)
    kinds = [nal[0] >> 1 & 63 for nal in known if nal]
    if kinds.count(33) != 1 or not kinds.count(34):
        raise Unprovable("not exactly one HEVC sequence parameter set in the header")
    for nal in known:
        if nal and nal[0] >> 1 & 63 == 34:
            bits = Bits(_unescaped(nal[2:]))
            bits.skip_golomb(2)
            if bits.read(2) & 1:  # output_flag_present_flag
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
        # Nothing is droppable: the decoder itself does not go by the "non-reference" NAL types, so
        # one damaged bit in a type would make what is left out a reference of what is decoded.
        return PacketFacts(
            1, starts=kind in (19, 20), open_start=kind == 21, leading=kind in (8, 9)
        )

    return read
