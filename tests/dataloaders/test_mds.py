"""MDS beside tar: the same batches, readable by StreamingDataset, fetched into a bounded cache."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from dataloaders.errors import DataError, StorageError
from dataloaders.index import INDEX_NAME, OWN_INDEX_NAME, read_index
from dataloaders.open_source import open_source
from dataloaders.shard_writer import open_writer
from dataloaders.shards import pack
from dataloaders.source import Source
from dataloaders.storage.check import check_reachable
from dataloaders.storage.options import StorageOptions
from dataloaders.storage.work_folder import remove_dead, work_folder
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


def test_at_a_url_shards_are_fetched_once_and_the_cache_is_bounded(served, packed, tmp_path):
    url, folder, asked = served
    local = open_source(packed)
    limit = 2 * max(shard.bytes for shard in local.shards) + 10
    options = StorageOptions(tmp_path / "cache", limit)
    with open_source(url, options) as source:
        assert source.fingerprint == local.fingerprint
        assert source.name == url
        assert read_all(source) == read_all(local)
        assert sum(path.stat().st_size for path in (tmp_path / "cache").iterdir()) <= limit
        assert all(asked.count(shard.name) == 1 for shard in local.shards)
        read_all(source)
        assert asked.count(local.shards[0].name) == 2  # it was dropped in between
    shutil.rmtree(folder)
    shutil.copytree(pack_clips(tmp_path / "other", [2, 3], format="mds").folder, folder)
    with open_source(url, options) as changed:  # has copies of its own
        assert [len(sample.record.questions) for sample in read_all(changed)] == [2, 3]


@pytest.fixture
def packed_small(served, packed) -> tuple[str, Path, list[str]]:
    """The served copy with its shards compressed, as ``MDSWriter`` does it."""
    import zstd

    url, folder, asked = served
    index = json.loads((folder / INDEX_NAME).read_text())
    for row in index["shards"]:
        raw = folder / row["raw_data"]["basename"]
        small = zstd.compress(raw.read_bytes())
        (folder / f"{raw.name}.zstd").write_bytes(small)
        raw.unlink()
        row["compression"] = "zstd"
        row["zip_data"] = {"basename": f"{raw.name}.zstd", "bytes": len(small), "hashes": {}}
    (folder / INDEX_NAME).write_text(json.dumps(index))
    return url, folder, asked


# streaming leaves closing the compressed file to the garbage collector.
@pytest.mark.filterwarnings("ignore:unclosed file .*mds.zstd:ResourceWarning")
def test_compressed_shards_are_unpacked_once_here_and_at_a_url(packed_small, packed, tmp_path):
    url, folder, asked = packed_small
    options = StorageOptions(tmp_path / "cache" / "shards", retries=0)
    for place in (url, folder):
        with open_source(place, options) as source:
            assert source.compressed
            check_reachable(source, options)
            assert read_all(source) == read_all(open_source(packed))
            read_all(source)
    assert max(asked.count(path.name) for path in folder.glob("*.zstd")) == 1
    assert not list((tmp_path / "cache" / "unpacking").iterdir())
    shutil.rmtree(tmp_path / "cache")
    name = source.shards[1].name
    (folder / f"{name}.zstd").write_bytes(b"no archive")
    with open_source(url, options) as source:
        assert read_all_of(source, 0)
        with pytest.raises(StorageError, match=rf"{name}: cannot be fetched and unpacked"):
            read_all_of(source, 1)


KILLED_UNPACKING = """
import os, signal, sys
from pathlib import Path
from dataloaders.open_source import open_source
from dataloaders.storage.options import StorageOptions

def watch(event, arguments):
    if event == "os.rename" and "/unpacking/" in os.fspath(arguments[1]):
        os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(watch)
with open_source(sys.argv[1], StorageOptions(Path(sys.argv[2]))) as source:
    source.read(1, source.entries(1)[0])
"""


# streaming leaves closing the compressed file to the garbage collector.
@pytest.mark.filterwarnings("ignore:unclosed file .*mds.zstd:ResourceWarning")
def test_what_a_process_that_was_killed_unpacking_left_is_removed(packed_small, tmp_path):
    """By whoever opens a set of compressed shards next, whichever it reads; not what lives."""
    _, folder, _ = packed_small
    cache = tmp_path / "cache" / "shards"
    done = subprocess.run(
        [sys.executable, "-c", KILLED_UNPACKING, str(folder), str(cache)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL, done.stderr
    unpacking = cache.parent / "unpacking"
    (left,) = unpacking.iterdir()
    assert list(left.iterdir())
    with work_folder(unpacking / "of-another-rank") as live:
        (live / "half").write_bytes(b"half of a shard")
        with open_source(folder, StorageOptions(cache)) as source:
            assert [path.name for path in unpacking.iterdir()] == ["of-another-rank"]
            assert read_all_of(source, 1)
        assert (live / "half").exists()
    assert not list(unpacking.iterdir())


def test_a_work_folder_whose_leavings_are_being_removed_is_made_anew(tmp_path):
    """One that waits for the lock must not go on in a folder that is gone."""
    path = tmp_path / "work" / "shard"
    path.mkdir(parents=True)
    (path / "left").write_bytes(b"left")
    stop, failed = threading.Event(), []

    def remove() -> None:
        while not stop.is_set():
            remove_dead(path.parent)

    thread = threading.Thread(target=remove)
    thread.start()
    try:
        for _ in range(300):
            with work_folder(path):
                if list(path.iterdir()):
                    failed.append("not empty")
                (path / "mine").write_bytes(b"mine")
                if [each.name for each in path.iterdir()] != ["mine"]:
                    failed.append("lost")
    finally:
        stop.set()
        thread.join()
    assert not failed
    assert not path.exists()


def read_all_of(source: Source, shard: int) -> list:
    return [source.read(shard, entry) for entry in source.entries(shard)]


def test_nothing_there(served, tmp_path):
    url, folder, _ = served
    options = StorageOptions(tmp_path / "cache", retries=0)
    (folder / INDEX_NAME).unlink()
    with pytest.raises(DataError, match=rf"{INDEX_NAME}: cannot be read"):
        open_source(url, options)
    (folder / OWN_INDEX_NAME).unlink()
    with pytest.raises(DataError, match=rf"{INDEX_NAME}: missing.*gcg pack"):
        open_source(url, options)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux's /proc")
def test_reading_takes_no_shared_memory(packed):
    def shared() -> list[str]:
        lines = Path("/proc/self/maps").read_text().splitlines()
        return sorted(line.split()[-1] for line in lines if "/dev/shm/" in line)

    before = shared()
    source = open_source(f"file://{packed}")
    assert len(read_all(source)) == len(COUNTS)
    assert shared() == before
