"""`gcg index`: shards by other writers, in their dialects, whole, damaged, changed, interrupted."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from pathlib import Path

import pytest
from webdataset.writer import ShardWriter

from dataloaders.convert_shards import convert
from dataloaders.errors import DataError
from dataloaders.foreign import Names
from dataloaders.index import OWN_INDEX_NAME
from dataloaders.index_folder import IndexReport, index_folder
from dataloaders.manifest import Video, write_manifest
from dataloaders.open_source import open_source
from dataloaders.shards import QUARANTINE_NAME
from dataloaders.source import Sample
from tests.dataloaders.loader_fixtures import FRAMES, make, take
from tests.dataloaders.shard_fixtures import clip_bytes, label_all, needs_mds, pack_clips, video


def row_text(number: int, **changes) -> bytes:
    return video(number).model_copy(update=changes).model_dump_json().encode()


def write_tar(path: Path, members: list[tuple[str, bytes]], format: int = tarfile.PAX_FORMAT,
              **fields) -> Path:  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=format) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            for field, value in fields.items():
                setattr(info, field, value)
            tar.addfile(info, io.BytesIO(data))
    return path


def pairs(numbers: range | list[int], prefix: str = "") -> list[tuple[str, bytes]]:
    return [
        member for n in numbers
        for member in ((f"{prefix}v{n:03d}.mp4", clip_bytes(n)),
                       (f"{prefix}v{n:03d}.json", row_text(n)))
    ]  # fmt: skip


def read_all(folder: Path) -> list[Sample]:
    with open_source(folder) as source:
        return [
            source.read(number, entry)
            for number in range(len(source.shards))
            for entry in source.entries(number)
        ]


def reasons(report: IndexReport) -> dict[str, str]:
    return {bad.key: bad.reason for bad in report.bad}


def hashes(folder: Path, pattern: str) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.glob(pattern)}


def check(samples: list[Sample], numbers: list[int]) -> None:
    assert [s.video_bytes for s in samples] == [clip_bytes(n) for n in numbers]
    assert [s.record.id for s in samples] == [f"v{n:03d}" for n in numbers]
    assert all(s.record.frame_count == 16 and s.record.codec == "h264" for s in samples)


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


def write_mds(out: Path, columns: dict[str, str], rows: list[dict], **settings) -> None:
    from streaming.base.format import MDSWriter

    with MDSWriter(columns=columns, out=str(out), **{"size_limit": 6000, **settings}) as writer:
        for row in rows:
            writer.write(row)


@needs_mds
def test_mds_of_others(tmp_path):
    """Columns of other names and kinds, records from a manifest; tars of it are the same."""
    columns = {"clip": "bytes", "number": "int", "title": "str", "label": "int32"}
    rows = [{"clip": clip_bytes(n), "number": n, "title": f"t{n}", "label": 3} for n in range(5)]
    write_mds(tmp_path / "mds", columns, rows)
    before = hashes(tmp_path / "mds", "*")
    manifest = tmp_path / "rows.jsonl"
    write_manifest(manifest, [video(n).model_copy(update={"id": str(n)}) for n in range(5)])
    with pytest.raises(DataError, match=r"no column key or .*label, number, title.*--key-column"):
        index_folder(tmp_path / "mds", records=manifest)
    report = index_folder(tmp_path / "mds", records=manifest, names=Names(key="number"))
    assert (report.format, report.num_samples, len(report.shards) > 1) == ("mds", 5, True)
    after = hashes(tmp_path / "mds", "*")
    assert {name: after[name] for name in before} == before
    samples = read_all(tmp_path / "mds")
    assert [s.key for s in samples] == ["0", "1", "2", "3", "4"]
    assert [s.video_bytes for s in samples] == [clip_bytes(n) for n in range(5)]
    convert(tmp_path / "mds", tmp_path / "wds", source_format="mds", format="wds")
    assert read_all(tmp_path / "wds") == samples


@needs_mds
# streaming leaves closing the compressed file to the garbage collector.
@pytest.mark.filterwarnings("ignore:unclosed file .*mds.zstd:ResourceWarning")
def test_compressed_mds(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    columns = {"id": "str", "video": "bytes", "json": "json"}
    rows = [
        {"id": f"v{n:03d}", "video": clip_bytes(n), "json": json.loads(row_text(n))}
        for n in range(4)
    ]
    folder = tmp_path / "mds"
    write_mds(folder, columns, rows, compression="zstd", hashes=["sha1"])
    assert not list(folder.glob("*.mds"))
    index_folder(folder)
    check(read_all(folder), list(range(4)))
    assert not list(folder.glob("*.mds"))
    assert list((tmp_path / "cache").rglob("*.mds"))
    assert index_folder(folder).kept == len(list(folder.glob("*.mds.zstd")))


@needs_mds
def test_mds_merged_from_several_writers(tmp_path):
    """As streaming's ``merge_index`` makes of the folders that parallel writers filled."""
    columns = {"key": "str", "video": "bytes", "record": "str"}
    shards = []
    for part in range(2):
        rows = [{"key": f"v{n:03d}", "video": clip_bytes(n), "record": row_text(n).decode()}
                for n in (2 * part, 2 * part + 1)]  # fmt: skip
        folder = tmp_path / "all" / str(part)
        write_mds(folder, columns, rows)
        for shard in json.loads((folder / "index.json").read_text())["shards"]:
            shard["raw_data"]["basename"] = f"{part}/{shard['raw_data']['basename']}"
            shards.append(shard)
    (tmp_path / "all" / "index.json").write_text(json.dumps({"version": 2, "shards": shards}))
    index_folder(tmp_path / "all")
    check(read_all(tmp_path / "all"), [0, 1, 2, 3])
    label_all(open_source(tmp_path / "all"), FRAMES)
    source = open_source(f"file://{tmp_path / 'all'}")
    last = len(source.shards) - 1
    assert source.read(last, source.entries(last)[-1]) == read_all(tmp_path / "all")[-1]


@needs_mds
def test_damaged_and_unsafe_mds(tmp_path):
    rows = [{"key": f"v{n:03d}", "video": clip_bytes(n), "record": row_text(n).decode()}
            for n in range(4)]  # fmt: skip
    folder = tmp_path / "mds"
    write_mds(folder, {"key": "str", "video": "bytes", "record": "str"}, rows)
    first = min(folder.glob("*.mds"))
    whole = first.read_bytes()
    first.write_bytes(whole[:-10])
    with pytest.raises(DataError, match=rf"up to byte {len(whole)}.*ends at {len(whole) - 10}"):
        index_folder(folder)
    first.write_bytes(whole)
    check([*read_all(folder)] if index_folder(folder) else [], [0, 1, 2, 3])
    write_mds(tmp_path / "pkl", {"key": "str", "video": "pkl"}, [{"key": "a", "video": b"x"}])
    with pytest.raises(DataError, match="unsafe type: pkl"):
        index_folder(tmp_path / "pkl")


def test_records_are_probed_not_believed(tmp_path):
    lie = row_text(0, frame_count=999, width=7, codec="av1")
    write_tar(tmp_path / "a.tar", [("v000.mp4", clip_bytes(0)), ("v000.json", lie)])
    index_folder(tmp_path)
    check(read_all(tmp_path), [0])
    assert Video.model_validate_json(lie).frame_count == 999
