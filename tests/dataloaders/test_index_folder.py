"""`gcg index`: tars by other writers, in their dialects, whole, damaged, changed, interrupted."""

from __future__ import annotations

import io
import json
import os
import tarfile

import pytest
from webdataset.writer import ShardWriter

from dataloaders.convert_shards import convert
from dataloaders.errors import DataError
from dataloaders.foreign import Names
from dataloaders.index import OWN_INDEX_NAME
from dataloaders.index_folder import index_folder
from dataloaders.manifest import Video, write_manifest
from dataloaders.open_source import open_source
from dataloaders.shards import QUARANTINE_NAME
from tests.dataloaders.foreign_shards import (
    check,
    hashes,
    pairs,
    read_all,
    reasons,
    row_text,
    write_tar,
)
from tests.dataloaders.loader_fixtures import make, take
from tests.dataloaders.shard_fixtures import clip_bytes, pack_clips, video


def test_tars_of_shard_writer(tmp_path):
    folder = tmp_path / "shards"
    folder.mkdir()
    pattern = str(folder / "data-%06d.tar")
    with ShardWriter(pattern, maxcount=3, verbose=0) as sink:
        for n in range(8):
            sink.write({
                "__key__": f"train/v{n:03d}", "jpg.txt": "a caption", "MP4": clip_bytes(n),
                "json": json.loads(row_text(n)), "cls": n,
            })  # fmt: skip
    # As its own tools write it for random access.
    wids = {"__kind__": "wids-shard-index-v1", "wids_version": 1, "shardlist": []}
    (folder / "index.json").write_text(json.dumps(wids))
    with pytest.raises(DataError, match=r"index of another library.*gcg index"):
        open_source(folder)
    before = hashes(folder, "*")
    report = index_folder(folder)
    assert (report.format, report.num_samples, report.kept, report.bad) == ("wds", 8, 0, ())
    after = hashes(folder, "*")
    assert {name: after[name] for name in before} == before
    samples = read_all(folder)
    check(samples, list(range(8)))
    assert [s.key for s in samples][:2] == ["train/v000", "train/v001"]
    with make(folder, plan={"num_streams": 1, "global_batch": 2}) as loader:
        assert len(take(loader, 3)) == 3


@pytest.mark.parametrize("format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT])
def test_dialects_and_long_names(tmp_path, format):
    long = "d" * 90 + "/" + ("e" * (90 if format == tarfile.USTAR_FORMAT else 180)) + "/"
    fields = {"mtime": 1.5} if format == tarfile.PAX_FORMAT else {}
    write_tar(tmp_path / "a.tar", pairs([0, 1], long), format, **fields)
    index_folder(tmp_path)
    check(read_all(tmp_path), [0, 1])
    assert read_all(tmp_path)[0].key == f"{long}v000"


def test_sizes_in_base_256_and_in_pax_headers(tmp_path):
    """As they are written for members of 8 GiB and more."""
    path = write_tar(tmp_path / "a.tar", pairs([0]), tarfile.GNU_FORMAT)
    data = bytearray(path.read_bytes())
    data[124:136] = b"\x80" + len(clip_bytes(0)).to_bytes(11, "big")
    data[148:156] = b" " * 8
    data[148:156] = b"%06o\0 " % sum(data[:512])
    path.write_bytes(bytes(data))
    headers = {"size": str(len(clip_bytes(1)))}
    write_tar(tmp_path / "b.tar", pairs([1])[:1], pax_headers=headers)
    rows = tmp_path / "rows.jsonl"
    write_manifest(rows, [video(0), video(1)])
    index_folder(tmp_path, records=rows)
    check(read_all(tmp_path), [0, 1])


def test_records_of_a_manifest(tmp_path):
    folder = tmp_path / "shards"
    members = [(f"v{n:03d}.webm" if n else "x%2Fy.mp4", clip_bytes(n)) for n in range(4)]
    members.insert(2, ("v001.json", b'{"caption": "not a row"}'))
    write_tar(folder / "a.tar", members)
    rows = tmp_path / "rows.jsonl"
    write_manifest(rows, [video(0).model_copy(update={"id": "x/y"}), *map(video, [1, 2])])
    report = index_folder(folder, records=rows)
    assert [s.record.id for s in read_all(folder)] == ["x/y", "v001", "v002"]
    assert reasons(report) == {"v003": "no record in the shard, and no row in --records"}
    first = open_source(folder).fingerprint
    write_manifest(rows, [video(0, 5).model_copy(update={"id": "x/y"}), *map(video, [1, 2])])
    again = index_folder(folder, records=rows)
    assert again.kept == 0
    assert open_source(folder).fingerprint != first  # the tars are the same, the questions not
    assert len(read_all(folder)[0].record.questions) == 5


def test_samples_that_cannot_be_used_are_listed(tmp_path):
    members = [
        *pairs([0]),
        ("none.json", row_text(1)),
        ("two.left.mp4", clip_bytes(1)), ("two.right.mp4", clip_bytes(2)),
        ("bare.mp4", clip_bytes(3)),
        ("wrong.mp4", clip_bytes(3)), ("wrong.json", b"[]"),
        ("broken.mp4", b"no video at all"), ("broken.json", row_text(5)),
        *pairs([6]),
        ("v000.mp4", clip_bytes(0)), ("v000.json", row_text(0)),
        ("._v000.mp4", b"macOS"), ("__meta__.json", b"{}"),
    ]  # fmt: skip
    write_tar(tmp_path / "a.tar", members)
    report = index_folder(tmp_path)
    check(read_all(tmp_path), [0, 6])
    found = reasons(report)
    assert found.keys() == {"none", "two", "bare", "wrong", "broken", "v000"}
    assert "no clip among the members ['json']" in found["none"]
    assert "2 clips, left.mp4, right.mp4" in found["two"]
    assert "--video-column" in found["two"]
    assert "no record in the shard, and no --records" in found["bare"]
    assert "no manifest row" in found["wrong"]
    assert "broken.mp4" in found["broken"]
    assert "second time" in found["v000"]
    rows = [json.loads(x) for x in (tmp_path / QUARANTINE_NAME).read_text().splitlines()]
    assert {(row["shard"], row["key"]) for row in rows} == {("a.tar", key) for key in found}
    assert {row["stage"] for row in rows} == {"index"}


def test_the_clip_is_the_suffix_that_was_named(tmp_path):
    members = [("v001.left.mp4", clip_bytes(1)), ("v001.right.mp4", clip_bytes(2)),
               ("v001.meta.json", row_text(1))]  # fmt: skip
    write_tar(tmp_path / "a.tar", members)
    index_folder(tmp_path, names=Names(video="right.mp4", record="meta.json"))
    assert [s.video_bytes for s in read_all(tmp_path)] == [clip_bytes(2)]
    convert(tmp_path, tmp_path / "out", source_format="wds", format="wds")
    with tarfile.open(tmp_path / "out" / "shard-000000.tar") as tar:
        assert sorted(tar.getnames()) == ["v001.json", "v001.right.mp4"]


def test_links_and_sparse_files_are_refused(tmp_path):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
        for name, data in pairs([0]):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        for name, kind in (("hard", tarfile.LNKTYPE), ("soft", tarfile.SYMTYPE)):
            info = tarfile.TarInfo(f"{name}.mp4")
            info.type, info.linkname = kind, "v000.mp4"
            tar.addfile(info)
        info = tarfile.TarInfo("holes.mp4")
        info.type, info.size = tarfile.GNUTYPE_SPARSE, 512
        header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
        header[386:410] = b"%011o\0%011o\0" % (1 << 20, 512)
        header[483:495] = b"%011o\0" % (2 << 20)
        header[148:156] = b" " * 8
        header[148:156] = b"%06o\0 " % sum(header)
        assert tar.fileobj is not None
        tar.fileobj.write(bytes(header) + b"x" * 512)
        tar.offset += 1024
    found = reasons(index_folder(tmp_path))
    assert "hard link to v000.mp4" in found["hard"]
    assert "--dereference" in found["soft"]
    assert "sparse" in found["holes"]
    check(read_all(tmp_path), [0])


def test_damage_is_reported_with_its_byte_and_the_rest_is_kept(tmp_path):
    write_tar(tmp_path / "a.tar", pairs(range(3)))
    bad = write_tar(tmp_path / "b.tar", pairs(range(3, 9)))
    write_tar(tmp_path / "c.tar", pairs(range(9, 11)))
    whole = bad.read_bytes()
    with tarfile.open(bad) as tar:
        header = tar.getmembers()[5].offset
    bad.write_bytes(whole[:header] + b"\xa5" * 512 + whole[header + 512 :])
    with pytest.raises(DataError, match=rf"b\.tar: is damaged.*at byte {header}, after 5 members"):
        index_folder(tmp_path)
    assert not (tmp_path / OWN_INDEX_NAME).exists()
    for cut, words in (
        (whole[: header + 700], f"cut short at byte {header + 700}"),
        (whole[:header], f"cut short: it has no end at byte {header}"),
        (whole + whole, rf"goes on at byte {len(whole)}, after its end"),
        (b"\x1f\x8b" + whole[2:], "gunzip"),
        (b"", "at byte 0"),
    ):
        bad.write_bytes(cut)
        with pytest.raises(DataError, match=f"{words}.*the 2 others are indexed"):
            index_folder(tmp_path)
    bad.write_bytes(whole)
    report = index_folder(tmp_path)
    assert report.kept == 2
    check(read_all(tmp_path), list(range(11)))


def test_only_new_and_changed_shards_are_done_again(tmp_path):
    for n in range(3):
        write_tar(tmp_path / f"{n}.tar", pairs([n]))
    assert index_folder(tmp_path).kept == 0
    first = (tmp_path / OWN_INDEX_NAME).read_bytes()
    assert index_folder(tmp_path).kept == 3
    assert (tmp_path / OWN_INDEX_NAME).read_bytes() == first
    os.utime(tmp_path / "0.tar", (1, 1))  # copied: another time, the same bytes
    assert index_folder(tmp_path).kept == 3
    write_tar(tmp_path / "1.tar", pairs([7]))
    (tmp_path / "2.index.jsonl").unlink()
    journal = next(tmp_path.glob("*.journal.jsonl"))
    journal.write_text(journal.read_text() + '{"name": "half')
    write_tar(tmp_path / "3.tar", pairs([3]))
    assert index_folder(tmp_path).kept == 1
    check(read_all(tmp_path), [0, 7, 2, 3])
    assert index_folder(tmp_path).kept == 4
    assert index_folder(tmp_path, verify=True).kept == 0


def test_stopping_and_going_on(tmp_path):
    for n in range(6):
        write_tar(tmp_path / f"{n}.tar", pairs([n]))
    done = 0

    def stop(size: int, total: int) -> None:
        nonlocal done
        done += size
        assert total == sum(path.stat().st_size for path in tmp_path.glob("*.tar"))
        if done > total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        index_folder(tmp_path, threads=1, progress=stop)
    with pytest.raises(DataError, match="gcg index"):
        open_source(tmp_path)
    assert 2 <= index_folder(tmp_path).kept < 6
    check(read_all(tmp_path), list(range(6)))


def test_an_index_that_was_lost_is_made_again_alike(tmp_path):
    folder = pack_clips(tmp_path, [1, 2, 3]).folder
    before = open_source(folder).fingerprint
    for path in [*folder.glob("*.jsonl"), folder / "index.json"]:
        path.unlink()
    index_folder(folder)
    assert open_source(folder).fingerprint == before  # so labels still fit
    assert not list(folder.glob("*.records.jsonl"))


def test_nothing_to_index(tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        index_folder(tmp_path / "nowhere")
    (tmp_path / "a.tar.gz").write_bytes(b"")
    with pytest.raises(DataError, match=r"no \*\.tar.*a\.tar\.gz is compressed"):
        index_folder(tmp_path)
    write_tar(tmp_path / "a.tar", [("x.txt", b"text")])
    with pytest.raises(DataError, match=r"none of the 1 samples.*no clip"):
        index_folder(tmp_path)
    write_tar(tmp_path / "a.tar", pairs([0]))
    write_tar(tmp_path / "b.tar", pairs([0], "other/"))
    with pytest.raises(DataError, match=r"'v000' is in a\.tar and in b\.tar"):
        index_folder(tmp_path)


def test_records_are_probed_not_believed(tmp_path):
    lie = row_text(0, frame_count=999, width=7, codec="av1")
    write_tar(tmp_path / "a.tar", [("v000.mp4", clip_bytes(0)), ("v000.json", lie)])
    index_folder(tmp_path)
    check(read_all(tmp_path), [0])
    assert Video.model_validate_json(lie).frame_count == 999
