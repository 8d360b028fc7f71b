"""The short way to the packets of chosen frames must find what reading all packets finds."""

from __future__ import annotations

from typing import Any

import pytest

from dataloaders.bitstream import Unprovable
from dataloaders.container import open_clip
from dataloaders.packet_index import packet_index
from dataloaders.sample_table import SparseIndex, sparse_index
from tests.dataloaders.clip_kinds import GOP12, PRUNED
from tests.dataloaders.clips import clip, cut_by_edit_list, packet_positions

READ = [
    name
    for name, (codec, settings) in PRUNED.items()
    if codec == "libx264" and "container" not in settings
]


def _sparse(data: bytes, chosen: list[int], count: int) -> SparseIndex:
    with open_clip(data) as (container, stream):
        return sparse_index(container, stream, data, chosen, count)


@pytest.mark.parametrize("kind", READ)
def test_every_frame_has_the_packet_that_reading_all_finds(kind: str) -> None:
    codec, settings = PRUNED[kind]
    _same_as_reading_all(clip(codec, **settings))


def test_hidden_frames() -> None:
    """17 frames: the first segment is hidden as a whole, the second in part."""
    _same_as_reading_all(cut_by_edit_list(clip(options=GOP12), 17))


def test_tiny_segments() -> None:
    """Segments shorter than the reorder depth, where FFmpeg seeks to the one before."""
    _same_as_reading_all(clip(options={"x264-params": "keyint=2:min-keyint=1:bframes=3"}))
    _same_as_reading_all(clip(options={"g": "1"}))


def _same_as_reading_all(data: bytes) -> None:
    with open_clip(data) as (container, stream):
        whole = packet_index(container, stream)
    count = len(whole.presented)
    for number in range(count):
        index, stamps, first = _sparse(data, [number], count)
        assert stamps == {number: whole.presented[number]}
        assert first == whole.presented[0]
        found = {p.pts: f for p, f in zip(index.packets, index.facts, strict=True)}
        expected = {p.pts: f for p, f in zip(whole.packets, whole.facts, strict=True)}
        assert found.items() <= expected.items()


def test_reads_only_what_is_needed() -> None:
    data = clip(options=GOP12, frames=240)
    index, _, _ = _sparse(data, [200, 203], 240)
    # The first segment, for the clip's beginning, and the one with both frames.
    assert len(index.segments) == 2
    assert len(index.packets) <= 24


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"container": "matroska", "options": GOP12}, "this kind of clip"),
        ({"codec": "libx265", "options": {"x265-params": "log-level=none"}}, "this kind of clip"),
        ({"options": {"x264-params": "tff=1"}}, "interlaced"),
    ],
)
def test_what_the_table_does_not_prove(settings: dict[str, Any], reason: str) -> None:
    codec = settings.pop("codec", "libx264")
    with pytest.raises(Unprovable, match=reason):
        _sparse(clip(codec, **settings), [5], 60)


def test_a_count_that_disagrees() -> None:
    with pytest.raises(Unprovable, match="60 packets are shown, 61 frames were decoded"):
        _sparse(clip(options=GOP12), [5], 61)


def test_damaged_headers_are_noticed_wherever_they_are() -> None:
    """Also in segments that no chosen frame needs: their number of frames counts."""
    whole = clip(options=GOP12)
    start, _ = packet_positions(whole)[-2]
    for at, byte in ((start + 4, 0x67), (start + 3, 0xFF), (start + 5, 0)):
        data = whole[:at] + bytes([byte]) + whole[at + 1 :]
        with pytest.raises(Unprovable):
            _sparse(data, [5], 60)


def test_torn_clip() -> None:
    whole = clip(options=GOP12, container_options={"movflags": "frag_keyframe+empty_moov"})
    assert _sparse(whole, [5], 60).stamps
    for share in (0.3, 0.6, 0.8):
        with pytest.raises(Unprovable, match=r"torn|packets are shown"):
            _sparse(whole[: int(len(whole) * share)], [5], 60)
