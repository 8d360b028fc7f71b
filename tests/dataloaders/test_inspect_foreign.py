"""Verifying and repairing what `gcg index` made readable."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from dataloaders.errors import DataError
from dataloaders.index import read_entries, read_index
from dataloaders.inspect_shards import inspect_shards
from dataloaders.repair import repair
from tests.dataloaders import damage
from tests.dataloaders.clips import clip, packet_positions
from tests.dataloaders.foreign_shards import write_mds, write_tar
from tests.dataloaders.inspect_fixtures import NUM_CLIPS, ids, index, manifest, told
from tests.dataloaders.shard_fixtures import clip_bytes, needs_mds
from tests.dataloaders.test_inspect_shards import content, samples_of

__all__ = ["manifest"]  # fixtures


def foreign_tars(folder: Path, clips: list[bytes]) -> None:
    """Two samples in a tar, with a member more than ours have."""
    for number in range(0, len(clips), 2):
        members = [
            member
            for n in (number, number + 1)
            for member in ((f"a/v{n:03d}.txt", b"a title"), (f"a/v{n:03d}.mp4", clips[n]))
        ]
        write_tar(folder / f"part-{number // 2}.tar", members)


def foreign_mds(folder: Path, clips: list[bytes]) -> None:
    """Other columns than ours, two samples in a shard."""
    rows = [{"id": f"v{n:03d}", "clip": data, "label": n} for n, data in enumerate(clips)]
    limit = max(map(len, clips)) * 2 + 1500
    write_mds(folder, {"id": "str", "clip": "bytes", "label": "int"}, rows, size_limit=limit)


@pytest.fixture(params=["wds", pytest.param("mds", marks=needs_mds)])
def write(request) -> Callable[[Path, list[bytes]], None]:
    return foreign_tars if request.param == "wds" else foreign_mds


@pytest.fixture
def foreign(tmp_path, write, manifest) -> Path:
    folder = tmp_path / "foreign"
    write(folder, [clip_bytes(number) for number in range(NUM_CLIPS)])
    index(folder, manifest)
    assert len(read_index(folder).shards) >= 3
    return folder


def test_foreign_shards_that_are_whole(foreign, tmp_path):
    found = inspect_shards(foreign)
    assert (found.faults, found.num_good) == ([], NUM_CLIPS)
    repaired = repair(found, tmp_path / "new")
    assert repaired.num_left_out == 0
    old, new = samples_of(foreign), samples_of(tmp_path / "new")
    assert [(s.video_bytes, s.record) for s in new] == [(s.video_bytes, s.record) for s in old]
    assert read_index(tmp_path / "new").format == read_index(foreign).format
    assert not inspect_shards(tmp_path / "new").faults


@pytest.mark.parametrize("change", [damage.garbage_in_the_middle, damage.cut_shard])
def test_foreign_shards_that_are_damaged(foreign, tmp_path, change):
    second = read_entries(foreign, read_index(foreign).shards[1])
    if change is damage.cut_shard:
        bad = second[1]
        os.truncate(damage.second_shard(foreign), bad.video.offset + 99)
    else:
        bad = second[0]
        path = damage.second_shard(foreign)
        data = bytearray(path.read_bytes())
        data[bad.video.offset : bad.video.offset + 300] = b"\xa5" * 300
        path.write_bytes(data)
    found = inspect_shards(foreign)
    (shard, _), (key, reason) = told(found)
    assert (shard, key) == (None, bad.key)
    assert "CRC-32" in reason
    assert found.num_good == NUM_CLIPS - 1
    assert not found.stale
    before = content(foreign)
    repair(found, tmp_path / "new")
    lost = bad.key.rpartition("/")[2]
    assert ids(tmp_path / "new") == [f"v{n:03d}" for n in range(NUM_CLIPS) if lost != f"v{n:03d}"]
    assert content(foreign) == before


def one_bad_frame() -> bytes:
    """VP9 whose frame 20 of 64 is spoilt behind its header: it is not one of the four that are
    decoded for an index, nor of their groups."""
    settings = {"g": "8", "deadline": "realtime", "cpu-used": "8"}
    data = bytearray(clip("libvpx-vp9", frames=64, options=settings, container="webm"))
    begin, size = packet_positions(bytes(data))[20]
    data[begin + 10 : begin + size] = bytes(size - 10)
    return bytes(data)


def test_foreign_clips_that_only_a_full_decode_shows(tmp_path, write, manifest):
    """`gcg index` decodes a few frames; what it leaves out is no fault of the shard."""
    clips = [clip_bytes(number) for number in range(NUM_CLIPS)]
    clips[2], clips[3] = one_bad_frame(), damage.audio_only()
    folder = tmp_path / "foreign"
    write(folder, clips)
    index(folder, manifest)
    assert "v003" not in ids(folder)
    assert not inspect_shards(folder, quick=True).faults
    found = inspect_shards(folder)
    ((key, reason),) = told(found)
    assert key is not None
    assert key.endswith("v002")
    assert "decoding fails after" in reason
    repair(found, tmp_path / "new")
    assert ids(tmp_path / "new") == ["v000", "v001", "v004", "v005"]


def lose_records(folder: Path) -> None:
    (folder / read_index(folder).shards[1].records_name).unlink()


def change_records(folder: Path) -> None:
    path = folder / read_index(folder).shards[1].records_name
    data = bytearray(path.read_bytes())
    data[10] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    "change", [damage.lose_sidecar, damage.other_offset, lose_records, change_records]
)
def test_what_index_can_make_anew_is_not_left_out(foreign, tmp_path, manifest, change):
    """The shards are whole: a repair would throw samples away that are there."""
    whole = content(foreign)
    change(foreign)
    found = inspect_shards(foreign, quick=True)
    name = read_index(foreign).shards[1].name
    assert found.stale == [name]
    assert found.num_good < NUM_CLIPS
    assert any(fault.shard == name and "`gcg index`" in fault.reason for fault in found.faults)
    with pytest.raises(DataError, match=rf"{name} is whole.* run `gcg index {foreign}` first"):
        repair(found, tmp_path / "new")
    index(foreign, manifest)
    assert not inspect_shards(foreign).faults
    unequal = {name for name, data in content(foreign).items() if data != whole.get(name)}
    assert unequal == {"gcg.index.journal.jsonl"}
