"""What can be done to a clip, and to a packed folder of any format: cuts, flips, losses."""

from __future__ import annotations

import dataclasses
import io
import os
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np

from dataloaders.index import INDEX_NAME, Member, read_entries, read_index, write_entries
from tests.dataloaders.shard_fixtures import clip_bytes


def audio_only() -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as out:
        track = out.add_stream("aac", rate=8000, layout="mono")
        for number in range(8):
            sound = av.AudioFrame.from_ndarray(
                np.zeros((1, 1024), np.float32), format="fltp", layout="mono"
            )
            sound.rate, sound.pts = 8000, 1024 * number
            out.mux(track.encode(sound))
        out.mux(track.encode(None))
    return file.getvalue()


def bits_flipped() -> bytes:
    data = bytearray(clip_bytes(2, 64))
    start = data.index(b"mdat") + 4
    size = int.from_bytes(data[start - 8 : start - 4], "big") - 8
    for place in range(start + size // 2, start + size, 3):
        data[place] ^= 0x55
    return bytes(data)


CLIPS: dict[str, tuple[Callable[[], bytes], str]] = {
    "zero bytes": (lambda: b"", "0 bytes: a clip must hold a video"),
    "garbage": (lambda: bytes(range(256)) * 16, "no demuxer opens"),
    "audio only": (audio_only, "no video stream"),
    "cut short": (lambda: clip_bytes(2)[: len(clip_bytes(2)) // 2], "no demuxer opens"),
    "bits flipped": (bits_flipped, "decoding fails after"),
}


def second_shard(folder: Path) -> Path:
    return folder / read_index(folder).shards[1].name


def second_sidecar(folder: Path) -> Path:
    return folder / read_index(folder).shards[1].entries_name


def garbage_in_the_middle(folder: Path) -> None:
    """Over the first sample of the second shard: what is before its record, and on to its clip."""
    path = second_shard(folder)
    first = _entries(folder, 1)[0]
    data = bytearray(path.read_bytes())
    begin, end = max(0, first.record.offset - 512), first.video.offset + 200
    data[begin:end] = b"\xa5" * (end - begin)
    path.write_bytes(data)


def bit_in_a_record(folder: Path) -> None:
    path = second_shard(folder)
    data = bytearray(path.read_bytes())
    data[_entries(folder, 1)[0].record.offset + 5] ^= 1
    path.write_bytes(data)


def cut_shard(folder: Path) -> None:
    os.truncate(second_shard(folder), _entries(folder, 1)[1].video.offset + 99)


def lose_shard(folder: Path) -> None:
    second_shard(folder).unlink()


def lose_sidecar(folder: Path) -> None:
    second_sidecar(folder).unlink()


def lose_line_of_sidecar(folder: Path) -> None:
    path = second_sidecar(folder)
    path.write_text(path.read_text().splitlines()[0] + "\n")


def other_checksum(folder: Path) -> None:
    _change_member(folder, crc32=12345)


def other_offset(folder: Path) -> None:
    _change_member(folder, offset=512)


def other_size(folder: Path) -> None:
    _change_member(folder, size=100)


def _entries(folder: Path, number: int):
    return read_entries(folder, read_index(folder).shards[number])


def _change_member(folder: Path, **changes: int) -> None:
    shard = read_index(folder).shards[1]
    first, *others = read_entries(folder, shard)
    member: Member = dataclasses.replace(first.video, **changes)
    entries = [dataclasses.replace(first, video=member), *others]
    write_entries(folder / shard.entries_name, entries)


def lose_index(folder: Path) -> None:
    (folder / INDEX_NAME).unlink()


def lose_sidecar_and_cut(folder: Path) -> None:
    cut_shard(folder)
    lose_sidecar(folder)
