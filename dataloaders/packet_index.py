"""Which packets of a clip show which frames, proven from packet headers without decoding."""

from __future__ import annotations

import bisect
from dataclasses import dataclass
from typing import TYPE_CHECKING

import av.error
import numpy as np

from dataloaders.bitstream import PacketFacts, PacketReader, Unprovable, av1_packet, vp9_packet
from dataloaders.nal_units import h264_reader, hevc_reader

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet
    from av.video.stream import VideoStream

# Containers whose packets are whole access units with the time stamps the muxer wrote. AVI, MPEG
# program and transport streams go through parsers that guess both: their clips are decoded whole.
_TRUSTED_CONTAINERS = ("mov,mp4", "matroska,webm")
# Side data that changes how the packets after it are decoded.
_UNTRUSTED_SIDE_DATA = ("new_extradata", "param_change", "encryption_info")
_LOWEST = np.iinfo(np.int64).min


@dataclass(frozen=True)
class PacketIndex:
    """The packets of a clip in decoding order, split where decoding may begin.

    presented: the time stamps (stream units) of the frames a full decode presents, rising.
    segments: runs of packet numbers; each begins at a packet decoding may begin at, and is
    presented after all of the one before. last_duration: of the last frame, in stream units.
    """

    packets: list[Packet]
    facts: list[PacketFacts]
    presented: list[int]
    segments: list[range]
    last_duration: int

    def is_presented(self, number: int) -> bool:
        """Whether a packet's frame reaches the viewer: shown, and not hidden by an edit list."""
        return bool(self.facts[number].shown) and not self.packets[number].is_discard


def codec_name(stream: VideoStream) -> str:
    """FFmpeg's name of the codec, not of the decoder ("av1", not "libdav1d")."""
    return stream.codec_context.codec.canonical_name


def _packet_reader(codec: str, extradata: bytes) -> PacketReader:
    if codec == "h264":
        return h264_reader(extradata)
    if codec == "hevc":
        return hevc_reader(extradata)
    if codec == "vp9":
        return vp9_packet
    if codec == "av1":
        return av1_packet
    raise Unprovable(f"packets of codec {codec} are not read")


def packet_index(container: InputContainer, stream: VideoStream) -> PacketIndex:
    """Demultiplexes the whole clip and proves which frames a full decode presents.

    The proof: every packet is one access unit that shows at most one frame and has a time stamp of
    its own, and the decoder knows the reorder depth from the start, so that it drops no frame, adds
    none and presents none out of order. Raises Unprovable with the reason otherwise. What the
    headers cannot show is damage inside a packet's payload.
    """
    if not container.format.name.startswith(_TRUSTED_CONTAINERS):
        raise Unprovable(f"container {container.format.name}")
    read = _packet_reader(codec_name(stream), stream.codec_context.extradata or b"")
    packets, facts = [], []
    try:
        for packet in container.demux(stream):
            if packet.size == 0:
                continue
            check_packet(packet)
            packets.append(packet)
            facts.append(read(memoryview(packet)))
    except av.error.FFmpegError as error:
        raise Unprovable(f"demultiplexing fails: {error}") from error
    return _build(packets, facts, stream.codec_context.reorder_depth)


def check_packet(packet: Packet) -> None:
    """Raises Unprovable for a packet that is torn, without time, or changes the decoder."""
    if packet.pts is None or packet.is_corrupt:
        raise Unprovable("a packet without a time stamp, or a torn one")
    if any(packet.has_sidedata(kind) for kind in _UNTRUSTED_SIDE_DATA):
        raise Unprovable("the decoder's set-up changes inside the stream")


def check_depth(times: list[int], reorder_depth: int) -> None:
    """Raises Unprovable where frames of a segment are reordered further than the headers say."""
    if _depth(times) > reorder_depth:
        raise Unprovable("the decoder learns the reorder depth too late")


def _build(packets: list[Packet], facts: list[PacketFacts], reorder_depth: int) -> PacketIndex:
    if not packets or not facts[0].starts:
        raise Unprovable("the first packet does not start a sequence")
    if max(fact.shown for fact in facts) > 1:
        raise Unprovable("a packet shows several frames")
    shown = [p.pts if f.shown else None for p, f in zip(packets, facts, strict=True)]
    segments = _segments(shown, facts)
    for segment in segments:
        check_depth([pts for n in segment if (pts := shown[n]) is not None], reorder_depth)
    visible = [p for p, pts in zip(packets, shown, strict=True) if pts is not None]
    presented = sorted(p.pts for p in visible if p.pts is not None and not p.is_discard)
    if not presented or len({p.pts for p in visible}) != len(visible):
        raise Unprovable("two frames share a time stamp, or there is no frame")
    last = next(p for p in visible if p.pts == presented[-1])
    return PacketIndex(packets, facts, presented, segments, last.duration or 0)


def _segments(shown: list[int | None], facts: list[PacketFacts]) -> list[range]:
    """Splits the packets at starts; a start presented before its past has ended does not count."""
    latest = np.maximum.accumulate([_LOWEST if pts is None else pts for pts in shown])
    segments: list[range] = []
    end = len(shown)
    for start in range(len(shown) - 1, -1, -1):
        fact = facts[start]
        if start and not (fact.starts or fact.open_start):
            continue
        own = [pts for pts in shown[start:end] if pts is not None]
        if start and (not own or min(own) <= latest[start - 1]):
            if fact.starts and own:
                raise Unprovable("a sequence is presented before an earlier one ends")
            continue
        segments.append(range(start, end))
        end = start
    return segments[::-1]


def _depth(times: list[int]) -> int:
    """The most frames that precede one in decoding order and follow it in presentation."""
    seen: list[int] = []
    depth = 0
    for time in times:
        at = bisect.bisect(seen, time)
        depth = max(depth, len(seen) - at)
        seen.insert(at, time)
    return depth
