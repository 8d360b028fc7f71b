"""`gcg index` on MDS folders that others wrote: other columns, compressed, merged, damaged."""

from __future__ import annotations

import json

import pytest

from dataloaders.convert_shards import convert
from dataloaders.errors import DataError
from dataloaders.foreign import Names
from dataloaders.index_folder import index_folder
from dataloaders.manifest import write_manifest
from dataloaders.open_source import open_source
from tests.dataloaders.foreign_shards import check, hashes, read_all, row_text, write_mds
from tests.dataloaders.loader_fixtures import FRAMES
from tests.dataloaders.shard_fixtures import clip_bytes, label_all, needs_mds, video


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
