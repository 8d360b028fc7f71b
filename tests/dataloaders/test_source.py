"""The contract of a source, for each format: random access, checksums, indexes that do not fit."""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from dataloaders.errors import DataError
from dataloaders.index import index_path
from dataloaders.open_source import open_source
from dataloaders.scan_tar import scan_tar
from dataloaders.shard_source import ShardSource
from dataloaders.source import Source
from tests.dataloaders.shard_fixtures import FORMATS, clip_bytes, pack_clips


@pytest.fixture(params=FORMATS)
def packed(tmp_path, request):
    return pack_clips(tmp_path, [1, 2, 3, 4, 5], format=request.param).folder


def _all(source):
    return [(i, entry) for i in range(len(source.shards)) for entry in source.entries(i)]


def test_it_is_a_source_and_reads_every_sample(packed):
    with open_source(packed) as source:
        assert isinstance(source, Source)
        samples = [source.read(i, entry) for i, entry in _all(source)]
    assert [s.video_bytes for s in samples] == [clip_bytes(i) for i in range(5)]
    assert [len(s.record.questions) for s in samples] == [1, 2, 3, 4, 5]
    assert [s.key for s in samples] == [f"v{i:03d}" for i in range(5)]


def test_reading_from_threads_with_few_open_files_and_indexes(packed):
    with ShardSource(packed, max_open=1, max_indexed=1) as source:
        wanted = _all(source) * 20
        with ThreadPoolExecutor(8) as pool:
            samples = list(pool.map(lambda pair: source.read(*pair), wanted))
        assert [s.key for s in samples] == [entry.key for _, entry in wanted]
        source.close()
        assert source.read(*wanted[0]).key == "v000"  # a later read opens again


@pytest.mark.parametrize("format", FORMATS)
def test_the_fingerprint_is_of_the_content(tmp_path, format):
    one = open_source(pack_clips(tmp_path / "a", [1, 2, 3], format=format).folder)
    two = open_source(pack_clips(tmp_path / "b", [1, 2, 3], format=format).folder)
    other = open_source(pack_clips(tmp_path / "c", [1, 2, 4], format=format).folder)
    assert one.fingerprint == two.fingerprint != other.fingerprint


def test_damage_is_noticed(packed):
    source = open_source(packed)
    entry = source.entries(1)[0]
    tar = packed / source.shards[1].name
    data = bytearray(tar.read_bytes())
    data[entry.video.offset + 5] ^= 1
    tar.write_bytes(bytes(data))
    with pytest.raises(DataError, match=r"v002\.mp4.*CRC-32.*gcg pack"):
        source.read(1, entry)
    assert source.read(0, source.entries(0)[0]).key == "v000"
    assert source.read_record(1, entry).id == "v002"


def test_a_shard_cut_short_after_opening(packed):
    source = open_source(packed)
    entry = source.entries(2)[0]
    os.truncate(packed / source.shards[2].name, entry.video.offset + 10)
    with pytest.raises(DataError, match="10 bytes"):
        source.read(2, entry)


def test_an_index_that_does_not_fit_its_shard(packed):
    tar = packed / open_source(packed).shards[1].name
    size = tar.stat().st_size
    os.truncate(tar, size - 512)
    with pytest.raises(DataError) as caught:
        open_source(packed)
    for word in (str(tar), str(size - 512), str(size), "gcg pack"):
        assert word in str(caught.value)
    tar.unlink()
    with pytest.raises(DataError, match=rf"{tar.name}: in the index but"):
        open_source(packed)


def _edit(path, change):
    body = json.loads(path.read_text())
    change(body)
    path.write_text(json.dumps(body))


def test_broken_indexes(packed, tmp_path):
    index = index_path(packed)
    sidecar = packed / open_source(packed).shards[0].entries_name
    lines = sidecar.read_text().splitlines(keepends=True)

    # As long as the tar is whole, it says what a damaged sidecar said (test_damage_table.py).
    tar = packed / open_source(packed).shards[0].name
    tar.write_bytes(tar.read_bytes()[:-1] + b"x")
    sidecar.write_text(lines[0])
    with pytest.raises(DataError, match=r"1 samples, 1 questions; index\.json says 2 and 3"):
        open_source(packed).entries(0)
    sidecar.write_text("{}\n")
    with pytest.raises(DataError, match="not a shard index"):
        open_source(packed).entries(0)
    sidecar.unlink()
    with pytest.raises(DataError, match="cannot be read"):
        open_source(packed).entries(0)

    _edit(index, lambda body: body.update(version=99))
    with pytest.raises(DataError, match="version: 99"):
        open_source(packed)
    _edit(index, lambda body: body.update(version=1, shards=[]))
    with pytest.raises(DataError, match="shards: none"):
        open_source(packed)
    for text in ("{", "[]", "{}", '{"version": 1, "input": "", "shards": [3]}'):
        index.write_text(text)
        with pytest.raises(DataError, match="not an index"):
            open_source(packed)
    with pytest.raises(DataError, match="no such folder"):
        open_source(tmp_path / "nowhere")


def test_a_tar_with_garbage_in_the_middle_is_not_indexed(tmp_path):
    packed = pack_clips(tmp_path, [1, 2, 3]).folder
    tar = packed / "shard-000000.tar"
    entry = open_source(packed).entries(0)[1]
    data = bytearray(tar.read_bytes())
    header = min(entry.video.offset, entry.record.offset) - 512
    data[header : header + 512] = b"\xa5" * 512
    tar.write_bytes(bytes(data))
    with pytest.raises(DataError):
        scan_tar(tar)
