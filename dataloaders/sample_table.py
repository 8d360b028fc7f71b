"""The packets that chosen frames need, found by an MP4's own sample table instead of reading all.

`packet_index` demultiplexes a whole clip, whose cost grows with the clip's length. Here the table
says where each packet lies; their headers are looked at in the clip's bytes, and only the segments
with a chosen frame are demultiplexed. What is proven is the same: every packet is one picture, an
IDR picture parts those before it from those after it in presentation too (ITU-T H.264 7.4.1.2.4),
and as many frames as packets came out when ingest decoded everything, so that the frames of a
segment have the numbers of its packets. H.264 in MP4 alone; whatever else there is raises
Unprovable, and the caller takes the longer way.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import dropwhile
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from dataloaders.bitstream import PacketFacts, PacketReader, Unprovable
from dataloaders.nal_units import h264_reader
from dataloaders.packet_index import PacketIndex, check_depth, check_packet, codec_name

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet
    from av.video.stream import VideoStream

_PREFIX = 4  # bytes of a NAL unit's length; other prefixes are rare and take the longer way


class SparseIndex(NamedTuple):
    """The packets of some segments, and the time stamps of chosen frames by number.

    first: the time stamp of the clip's first presented frame. All stamps in stream units.
    """

    packets: PacketIndex
    stamps: dict[int, int]
    first: int


@dataclass(frozen=True)
class _Table:
    """One entry a packet, in decoding order. dts int64 and bool arrays of equal length."""

    dts: np.ndarray
    hidden: np.ndarray
    starts: np.ndarray
    droppable: np.ndarray


def sparse_index(
    container: InputContainer,
    stream: VideoStream,
    data: bytes,
    chosen: Sequence[int],
    frame_count: int,
) -> SparseIndex:
    """What decoding the frames `chosen` needs.

    data: the clip's bytes. frame_count: as ingest found by decoding everything. Raises Unprovable
    where the table does not prove what each packet is; the container's position is then anywhere.
    """
    if not container.format.name.startswith("mov,mp4") or codec_name(stream) != "h264":
        raise Unprovable("no sample table is read of this kind of clip")
    table = _read_table(stream, data)
    shown = ~table.hidden
    if int(shown.sum()) != frame_count:
        raise Unprovable(f"{int(shown.sum())} packets are shown, {frame_count} frames were decoded")
    starts = np.flatnonzero(table.starts)
    # numbers[s]: the first frame of segment s; a segment may be hidden as a whole.
    numbers = np.concatenate([[0], np.cumsum(shown)])[[*starts, len(shown)]]
    needed = np.unique(np.searchsorted(numbers, [0, *chosen], side="right") - 1)
    ends = np.append(starts[1:], len(shown))
    wanted = [range(int(starts[s]), int(ends[s])) for s in needed]
    packets = list(_demultiplexed(container, stream, table, wanted))
    return _joined(packets, table, wanted, numbers[needed], chosen, stream)


def _read_table(stream: VideoStream, data: bytes) -> _Table:
    """The table may lack packets (a fragmented file's grows while it is read; an edit list takes
    out those that nobody sees): the caller compares its length with ingest's count."""
    rows = np.array([(e.timestamp, e.pos, e.size, e.is_discard) for e in stream.index_entries])
    if not len(rows):
        raise Unprovable("an empty sample table")
    dts, at, size, hidden = rows.T
    if (np.diff(dts) <= 0).any() or (at < 0).any() or (size < _PREFIX + 2).any():
        raise Unprovable("the sample table is out of the ordinary")
    if (at + size > len(data)).any():
        raise Unprovable("a packet is torn")
    starts, droppable = _headers(stream.codec_context.extradata or b"", data, at, size)
    if not starts[0]:
        raise Unprovable("the first packet does not start a sequence")
    return _Table(dts, hidden.astype(bool), starts, droppable)


def _headers(
    extradata: bytes, data: bytes, at: np.ndarray, size: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(starts, droppable) of all packets: at once where one is a single slice, else one by one."""
    read: PacketReader = h264_reader(extradata)
    if (extradata[4] & 3) + 1 != _PREFIX:
        raise Unprovable("NAL units with a short prefix")
    head = np.frombuffer(data, np.uint8)[at[:, None] + np.arange(_PREFIX + 2)].astype(np.int64)
    length = head[:, :_PREFIX] @ (1 << np.array([24, 16, 8, 0]))
    kind, referenced = head[:, 4] & 31, (head[:, 4] & 0x60) != 0
    # first_mb_in_slice == 0 is the single bit 1
    plain = (length == size - _PREFIX) & ((kind == 1) | (kind == 5)) & (head[:, 5] >= 128)
    starts, droppable = kind == 5, ~referenced
    view = memoryview(data)
    for n in np.flatnonzero(~plain):
        facts = read(view[at[n] : at[n] + size[n]])
        starts[n], droppable[n] = facts.starts, facts.droppable
    return starts, droppable


def _demultiplexed(
    container: InputContainer, stream: VideoStream, table: _Table, wanted: Sequence[range]
) -> Iterator[Packet]:
    """The packets of these runs, in order."""
    position = 0
    rest = container.demux(stream)
    for run in wanted:
        if run.start != position:
            # The last packet's: FFmpeg wants a keyframe that is *presented* by then, and goes to
            # the segment before where this one is shorter than the reorder depth.
            container.seek(int(table.dts[run.stop - 1]), stream=stream)
            rest = _from(container.demux(stream), int(table.dts[run.start]))
        for number in run:
            packet = next(rest, None)
            if packet is None or packet.dts != table.dts[number]:
                raise Unprovable("other packets come than the sample table announces")
            check_packet(packet)
            if packet.is_discard != table.hidden[number]:
                raise Unprovable("other packets are hidden than the sample table says")
            yield packet
        position = run.stop


def _from(packets: Iterator[Packet], dts: int) -> Iterator[Packet]:
    return dropwhile(lambda packet: packet.dts is not None and packet.dts < dts, packets)


def _joined(
    packets: list[Packet],
    table: _Table,
    wanted: Sequence[range],
    numbers: np.ndarray,
    chosen: Sequence[int],
    stream: VideoStream,
) -> SparseIndex:
    """Numbers frames by their segment and their rank in it, after checking the time stamps."""
    facts: list[PacketFacts] = []
    segments: list[range] = []
    presented: list[int] = []
    by_number: dict[int, int] = {}
    latest: int | None = None
    for run, first in zip(wanted, numbers.tolist(), strict=True):
        segment = range(len(facts), len(facts) + len(run))
        own = [packets[n].pts or 0 for n in segment]
        check_depth(own, stream.codec_context.reorder_depth)
        if len(set(own)) != len(own) or (latest is not None and min(own) <= latest):
            raise Unprovable("time stamps repeat, or a sequence begins before an earlier one ends")
        latest = max(own)
        segments.append(segment)
        facts += [
            PacketFacts(1, bool(start), droppable=bool(drop))
            for start, drop in zip(
                table.starts[run.start : run.stop], table.droppable[run.start : run.stop],
                strict=True,
            )
        ]  # fmt: skip
        shown = sorted(packets[n].pts or 0 for n in segment if not packets[n].is_discard)
        by_number.update(enumerate(shown, start=first))
        presented += shown
    # The duration of the last packet is not needed to find frames.
    index = PacketIndex(packets, facts, presented, segments, 0)
    return SparseIndex(index, {k: by_number[k] for k in chosen}, by_number[0])
