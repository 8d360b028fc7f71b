"""MDS beside tar: the same batches, readable by StreamingDataset, fetched into a bounded cache."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from dataloaders.errors import DataError
from dataloaders.index import INDEX_NAME, OWN_INDEX_NAME, read_index
from dataloaders.mds_source import MdsSource
from dataloaders.open_source import open_source
from dataloaders.shard_writer import open_writer
from dataloaders.shards import pack
from dataloaders.source import Source
from dataloaders.storage.options import StorageOptions
from tests.dataloaders.loader_fixtures import COUNTS, assert_same, make, take
from tests.dataloaders.shard_fixtures import (
    clip_bytes,
    needs_mds,
    pack_clips,
    video,
    write_clips,
)

pytestmark = needs_mds


@pytest.fixture(scope="module")
def packed(tmp_path_factory) -> Path:
    return pack_clips(tmp_path_factory.mktemp("mds"), COUNTS, format="mds").folder


def read_all(source: Source) -> list:
    return [
        source.read(number, entry)
        for number in range(len(source.shards))
        for entry in source.entries(number)
    ]


def test_tar_and_mds_of_a_manifest_give_the_same_batches(packed, tmp_path):
    tars = pack_clips(tmp_path, COUNTS).folder
    one, two = open_source(tars), open_source(packed)
    assert [s.question_counts for s in one.shards] == [s.question_counts for s in two.shards]
    assert read_all(one) == read_all(two)
    for rank, world_size in ((0, 1), (1, 2)):
        with (
            make(tars, rank=rank, world_size=world_size, micro_batch=1) as a,
            make(packed, rank=rank, world_size=world_size, micro_batch=1) as b,
        ):
            steps = a.plan.steps_per_epoch(0) + 2
            assert_same(take(a, steps), take(b, steps))


PLAIN_READER = """
import hashlib, json, sys
from streaming import StreamingDataset
data = StreamingDataset(local=sys.argv[1], batch_size=1, shuffle=False, validate_hash="sha256")
rows = [data[i] for i in range(len(data))]
print(json.dumps([[r["key"], r["suffix"], json.loads(r["record"])["id"],
                   hashlib.sha256(r["video"]).hexdigest()] for r in rows]))
"""


def test_a_plain_streaming_dataset_reads_the_folder(packed, tmp_path):
    # In a process and with temporary files of its own: it leaves shared memory and locks.
    done = subprocess.run(
        [sys.executable, "-c", PLAIN_READER, str(packed)],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert json.loads(done.stdout) == [
        [f"v{i:03d}", "mp4", f"v{i:03d}", hashlib.sha256(clip_bytes(i)).hexdigest()]
        for i in range(len(COUNTS))
    ]


def test_packing_again_and_in_another_format(tmp_path):
    videos = [video(i) for i in range(4)]
    write_clips(tmp_path, videos)
    first = pack(videos, tmp_path / "out", root=tmp_path, format="mds")
    assert pack(videos, tmp_path / "out", root=tmp_path, format="mds").reused
    with pytest.raises(DataError, match="--overwrite"):
        pack(videos, tmp_path / "out", root=tmp_path)
    tars = pack(videos, tmp_path / "out", root=tmp_path, overwrite=True)
    assert not list((tmp_path / "out").glob("*.mds"))
    assert not (tmp_path / "out" / OWN_INDEX_NAME).exists()
    assert open_source(tmp_path / "out").fingerprint == read_index(tmp_path / "out").fingerprint
    again = pack(videos, tmp_path / "out", root=tmp_path, format="mds", overwrite=True)
    assert again.shards == first.shards != tars.shards
    assert not list((tmp_path / "out").glob("*.tar"))


def test_an_interrupted_pack_is_no_data_set_and_is_made_again(tmp_path):
    videos = [video(i) for i in range(5)]
    write_clips(tmp_path, videos)
    out = tmp_path / "out"

    def stop(done: int, total: int) -> None:
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pack(videos, out, root=tmp_path, shard_bytes=1, format="mds", progress=stop)
    assert list(out.glob("shard.*.mds"))
    with pytest.raises(DataError, match="not a complete packed data set"):
        open_source(out)
    report = pack(videos, out, root=tmp_path, format="mds")
    assert len(report.shards) == 1
    assert sorted(path.name for path in out.iterdir()) == [
        OWN_INDEX_NAME, INDEX_NAME, "quarantine.jsonl", "shard.00000.index.jsonl",
        "shard.00000.mds",
    ]  # fmt: skip


def test_shards_too_big_for_the_format(tmp_path):
    with pytest.raises(DataError, match=r"shard_bytes: 4294967296: at most .*--format wds"):
        open_writer("mds", tmp_path, 1 << 32)


def test_a_folder_of_another_writer_says_what_to_do(packed, tmp_path):
    shutil.copytree(packed, tmp_path / "bare")
    (tmp_path / "bare" / OWN_INDEX_NAME).unlink()
    with pytest.raises(DataError, match=r"index of another library.*gcg index"):
        open_source(tmp_path / "bare")


@pytest.fixture
def served(packed, tmp_path) -> Iterator[tuple[str, Path, list[str]]]:
    """A web server of a copy of the data set: its address, the copy, the paths it was asked for."""
    folder = tmp_path / "served"
    shutil.copytree(packed, folder)
    asked: list[str] = []

    class Handler(SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path.lstrip("/"))
            super().do_GET()

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Handler, directory=str(folder))
    )
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", folder, asked
    server.shutdown()
    thread.join()
    server.server_close()


def shards_in(cache: Path) -> list[Path]:
    return list(cache.glob("mds/*/*.mds"))


def test_shards_are_fetched_once_and_the_cache_is_bounded(served, packed, tmp_path):
    url, _, asked = served
    local = MdsSource(packed)
    sizes = [shard.bytes for shard in local.shards]
    limit = 2 * max(sizes) + 10
    source = MdsSource(url, StorageOptions(tmp_path / "cache", limit))
    assert source.fingerprint == local.fingerprint
    assert source.name == url
    wanted = [(i, e) for i in range(len(sizes)) for e in source.entries(i)]
    with ThreadPoolExecutor(4) as pool:  # in shard order, so each is fetched once
        samples = list(pool.map(lambda pair: source.read(*pair), wanted))
    assert samples == read_all(local)
    assert sum(path.stat().st_size for path in shards_in(tmp_path / "cache")) <= limit
    first = local.shards[0].name
    assert asked.count(first) == 1
    read_all(source)
    assert asked.count(first) == 2  # it was dropped in between
    asked.clear()
    last = len(sizes) - 1
    again = MdsSource(url, StorageOptions(tmp_path / "cache", limit))
    again.read(last, again.entries(last)[0])
    assert set(asked) == {OWN_INDEX_NAME, INDEX_NAME}  # the index anew, the shard from the cache
    with pytest.raises(DataError, match=r"data.cache_gb: 1e-08: the biggest shard"):
        MdsSource(url, StorageOptions(tmp_path / "cache", 10))


def test_a_damaged_copy_is_fetched_again_and_a_damaged_origin_is_named(served, tmp_path):
    url, folder, asked = served
    source = MdsSource(url, StorageOptions(tmp_path / "cache"))
    entry = source.entries(1)[0]
    expected = source.read(1, entry)
    (copy,) = shards_in(tmp_path / "cache")
    _flip(copy, entry.video.offset + 7)
    asked.clear()
    assert source.read(1, entry) == expected
    assert asked == [copy.name]
    os.truncate(copy, 100)
    assert source.read(1, entry) == expected
    sidecar = copy.parent / "index" / source.shards[1].entries_name
    sidecar.write_text("{}\n")
    assert MdsSource(url, StorageOptions(tmp_path / "cache")).entries(1) == source.entries(1)
    _flip(folder / copy.name, entry.video.offset + 7)
    copy.unlink()
    with pytest.raises(DataError, match=rf"{copy.name}: fetched .* SHA-256 .* damaged where"):
        source.read(1, entry)
    assert not copy.exists()
    os.truncate(folder / copy.name, 100)
    with pytest.raises(DataError, match=copy.name):
        source.read(1, entry)


def _flip(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(bytes(data))


def test_a_changed_origin_has_a_cache_of_its_own(served, tmp_path):
    url, folder, _ = served
    before = MdsSource(url, StorageOptions(tmp_path / "cache"))
    before.read(0, before.entries(0)[0])
    shutil.rmtree(folder)
    shutil.copytree(pack_clips(tmp_path / "other", [2, 3], format="mds").folder, folder)
    after = MdsSource(url, StorageOptions(tmp_path / "cache"))
    assert after.fingerprint != before.fingerprint
    assert [len(s.record.questions) for s in read_all(after)] == [2, 3]


def test_nothing_there(served, tmp_path):
    url, folder, _ = served
    (folder / OWN_INDEX_NAME).unlink()
    with pytest.raises(DataError, match=rf"{OWN_INDEX_NAME}: missing.*gcg pack"):
        MdsSource(url, StorageOptions(tmp_path / "cache"), retries=0)
    assert list((tmp_path / "cache" / "mds").iterdir()) == []


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux's /proc")
def test_reading_and_fetching_take_no_shared_memory(packed, tmp_path):
    def shared() -> list[str]:
        lines = Path("/proc/self/maps").read_text().splitlines()
        return sorted(line.split()[-1] for line in lines if "/dev/shm/" in line)

    before = shared()
    source = MdsSource(f"file://{packed}", StorageOptions(tmp_path / "cache"))
    assert len(read_all(source)) == len(COUNTS)
    assert shared() == before
