"""Packing: what is written, that broken clips stop nothing, and that it can be repeated."""

from __future__ import annotations

import json
import os
import tarfile

import pytest
from webdataset.tariterators import group_by_keys, tar_file_iterator

from dataloaders.errors import DataError
from dataloaders.index import INDEX_NAME, read_entries, read_index
from dataloaders.left_out import QUARANTINE_NAME
from dataloaders.manifest import Video
from dataloaders.shards import pack
from tests.dataloaders.shard_fixtures import HEIGHT, WIDTH, clip_bytes, video, write_clips


@pytest.fixture
def clips(tmp_path):
    videos = [video(i, 1 + i % 3) for i in range(5)]
    write_clips(tmp_path, videos)
    return videos


def test_shards_hold_the_clips_and_the_probed_facts(tmp_path, clips):
    wrong = [clips[0].model_copy(update={"frame_count": 999, "width": 7}), *clips[1:]]
    report = pack(wrong, tmp_path / "out", root=tmp_path, shard_bytes=3 * len(clip_bytes(0)))
    assert (report.num_samples, report.num_questions, report.bad) == (5, 1 + 2 + 3 + 1 + 2, ())
    index = read_index(tmp_path / "out")
    assert index.shards == report.shards
    assert len(index.shards) > 1
    found = []
    for shard in index.shards:
        data = (tmp_path / "out" / shard.name).read_bytes()
        assert len(data) == shard.bytes
        for entry in read_entries(tmp_path / "out", shard):
            start = entry.video.offset
            found.append((entry.key, data[start : start + entry.video.size]))
            start = entry.record.offset
            record = Video.model_validate_json(data[start : start + entry.record.size])
            assert (record.frame_count, record.width, record.height) == (16, WIDTH, HEIGHT)
            assert (record.codec, record.rotation, record.duration) == ("h264", 0, 2.0)
            assert entry.frame_count == 16
            assert entry.num_questions == len(record.questions)
    assert found == [(v.id, clip_bytes(i)) for i, v in enumerate(clips)]


def test_webdataset_reads_them(tmp_path, clips):
    report = pack(clips, tmp_path / "out", root=tmp_path)
    with (tmp_path / "out" / report.shards[0].name).open("rb") as stream:
        members = ({**member, "__url__": "shard"} for member in tar_file_iterator(stream))
        samples = list(group_by_keys(members))
    assert [s["__key__"] for s in samples] == [v.id for v in clips]
    assert samples[2]["mp4"] == clip_bytes(2)
    assert json.loads(samples[2]["json"])["id"] == "v002"


def test_the_same_input_gives_the_same_bytes(tmp_path, clips):
    one = pack(clips, tmp_path / "one", root=tmp_path, threads=1)
    two = pack(iter(clips), tmp_path / "two", root=tmp_path, threads=3)
    assert one.shards == two.shards
    assert (tmp_path / "one" / INDEX_NAME).read_bytes() == (
        tmp_path / "two" / INDEX_NAME
    ).read_bytes()


def test_broken_and_missing_clips_stop_nothing(tmp_path, clips):
    (tmp_path / clips[0].path).write_bytes(b"")
    (tmp_path / clips[1].path).write_bytes(os.urandom(4096))
    (tmp_path / clips[2].path).unlink()
    whole = clip_bytes(3)
    (tmp_path / clips[3].path).write_bytes(whole[: len(whole) // 2])
    url = clips[4].model_copy(update={"id": "far", "path": "s3://bucket/far.mp4"})
    report = pack([*clips, url], tmp_path / "out", root=tmp_path)
    assert [bad.key for bad in report.bad] == ["v000", "v001", "v002", "v003", "far"]
    assert report.num_samples == 1
    assert all(bad.reason and "\n" not in bad.reason for bad in report.bad)
    assert report.bad[2].reason == "no such file"
    lines = (tmp_path / "out" / QUARANTINE_NAME).read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert [row["key"] for row in rows] == [bad.key for bad in report.bad]
    assert rows[1]["path"] == clips[1].path
    assert rows[1]["stage"] == "pack"
    again = pack([*clips, url], tmp_path / "out", root=tmp_path)
    assert again.reused
    assert again.bad == report.bad


def test_damage_between_the_tested_frames_is_found_by_verify(tmp_path):
    row = video(0)
    write_clips(tmp_path, [row])
    data = bytearray(clip_bytes(0, 64))
    # The media data of the last quarter, zeroed: the container stays whole.
    start = data.index(b"mdat") + 4
    end = start - 8 + int.from_bytes(data[start - 8 : start - 4], "big")
    for i in range(end - (end - start) // 4, end):
        data[i] = 0
    (tmp_path / row.path).write_bytes(bytes(data))
    with pytest.raises(DataError, match="none of the 1 videos"):
        pack([row], tmp_path / "out", root=tmp_path, verify=True)


def test_packing_again_is_quick_and_a_new_input_is_refused(tmp_path, clips):
    out = tmp_path / "out"
    first = pack(clips, out, root=tmp_path)
    before = {p.name: p.stat().st_mtime_ns for p in out.iterdir()}
    again = pack(clips, out, root=tmp_path)
    assert again.reused
    assert again.shards == first.shards
    assert before == {p.name: p.stat().st_mtime_ns for p in out.iterdir()}
    for path in (tmp_path / "clips").iterdir():
        os.utime(path, (1, 1))  # made again at another time, but the same
    assert pack(clips, out, root=tmp_path).reused
    with pytest.raises(DataError, match=r"already holds shards .*--overwrite"):
        pack(clips[:3], out, root=tmp_path)
    with pytest.raises(DataError, match="--overwrite"):
        pack(clips, out, root=tmp_path, shard_bytes=1000)
    (tmp_path / clips[0].path).write_bytes(clip_bytes(9))
    with pytest.raises(DataError, match="--overwrite"):
        pack(clips, out, root=tmp_path)
    replaced = pack(clips[:3], out, root=tmp_path, overwrite=True)
    assert replaced.num_samples == 3
    assert not replaced.reused
    assert len(list(out.glob("shard-*.tar"))) == 1


def test_an_interrupted_pack_is_no_data_set_and_is_made_again(tmp_path, clips):
    out = tmp_path / "out"

    def stop(done: int, total: int) -> None:
        assert total == 5
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pack(clips, out, root=tmp_path, shard_bytes=1, progress=stop)
    assert list(out.glob("shard-*.tar"))
    with pytest.raises(DataError, match=r"not a complete packed data set.*gcg pack"):
        read_index(out)
    report = pack(clips, out, root=tmp_path)
    assert len(report.shards) == 1
    assert sorted(p.name for p in out.glob("*.tar")) == ["shard-000000.tar"]
    assert not list(out.glob("*.partial"))


@pytest.mark.parametrize("number", [2, 3, 5])
def test_small_data_sets_can_have_several_shards(tmp_path, clips, number):
    clips.append(video(5))
    write_clips(tmp_path / "more", clips)
    report = pack(clips, tmp_path / "out", root=tmp_path / "more", min_shards=number)
    assert len(report.shards) >= number
    with pytest.raises(DataError, match="min_shards: 0"):
        pack(clips, tmp_path / "out", root=tmp_path, min_shards=0)


def test_lost_shards_are_packed_again(tmp_path, clips):
    report = pack(clips, tmp_path / "out", root=tmp_path)
    (tmp_path / "out" / report.shards[0].name).write_bytes(b"half")
    again = pack(clips, tmp_path / "out", root=tmp_path)
    assert not again.reused
    assert again.shards == report.shards


def test_awkward_ids_and_suffixes(tmp_path):
    names = ["a.b", "x/y", "ä ö", "l" * 150]
    rows = [video(i).model_copy(update={"id": name}) for i, name in enumerate(names)]
    write_clips(tmp_path, rows)
    (tmp_path / rows[0].path).rename(tmp_path / "noext")
    rows[0] = rows[0].model_copy(update={"path": "noext"})
    report = pack(rows, tmp_path / "out", root=tmp_path)
    entries = read_entries(tmp_path / "out", report.shards[0])
    assert [e.key for e in entries][:2] == ["a%2Eb", "x%2Fy"]
    with tarfile.open(tmp_path / "out" / report.shards[0].name) as tar:
        assert len(tar.getnames()) == 8
    assert entries[0].video.name == "a%2Eb.mp4"


def test_nothing_to_pack_and_ids_twice(tmp_path, clips):
    with pytest.raises(DataError, match="no videos"):
        pack([], tmp_path / "out")
    with pytest.raises(DataError, match="'v000' occurs twice"):
        pack([clips[0], clips[0]], tmp_path / "out", root=tmp_path)
    with pytest.raises(DataError, match="shard_bytes: 0"):
        pack(clips, tmp_path / "out", root=tmp_path, shard_bytes=0)
    with pytest.raises(DataError, match=r"none of the 1 videos.*no such file.*quarantine"):
        pack([video(77)], tmp_path / "out", root=tmp_path)
