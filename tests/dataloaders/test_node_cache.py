"""The cache a node's processes share: one download, a bound, nothing left by a killed process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dataloaders.errors import StorageError
from dataloaders.shard_source import ShardSource
from dataloaders.storage.cache import CacheFullError, NodeCache, RemoteFile
from dataloaders.storage.options import StorageOptions
from tests.conftest import ROOT
from tests.dataloaders.s3_server import S3
from tests.dataloaders.shard_fixtures import pack_clips
from tests.dataloaders.storage_checks import READ_ONE

SHARD = "shard-000000.tar"


def file(name: str, size: int = 10, version: str = "a") -> RemoteFile:
    return RemoteFile(f"s3://b/{name}", size, version * 64)


def writer(size: int, calls: list | None = None):
    def download(path: Path) -> None:
        if calls is not None:
            calls.append(path)
        path.write_bytes(b"x" * size)

    return download


def shards_in(folder: Path) -> set[str]:
    return {path.name[33:] for path in folder.iterdir() if path.name != ".lock"}


def get(cache: NodeCache, name: str, size: int = 10) -> None:
    os.close(cache.open(file(name, size), writer(size)))


@pytest.fixture
def cache(tmp_path: Path) -> NodeCache:
    return NodeCache(tmp_path / "cache", 30, patience=1)


def test_the_bound_is_kept_and_the_least_recently_used_goes(cache: NodeCache, tmp_path: Path):
    times = iter(range(1_000, 2_000))

    def use(name: str) -> None:
        get(cache, name)
        (path,) = (tmp_path / "cache").glob(f"*-{name}")
        os.utime(path, (now := next(times), now))  # the clock may be coarser than this test

    for name in ("a", "b", "c", "a", "d"):
        use(name)
        total = sum(path.stat().st_size for path in (tmp_path / "cache").iterdir())
        assert total <= 30
    assert shards_in(tmp_path / "cache") == {"a", "c", "d"}


def test_what_is_open_stays(cache: NodeCache, tmp_path: Path):
    held = [cache.open(file(name), writer(10)) for name in ("a", "b")]
    for name in ("c", "d", "e"):
        get(cache, name)
    assert shards_in(tmp_path / "cache") == {"a", "b", "e"}
    held.append(cache.open(file("e"), writer(10)))
    with pytest.raises(CacheFullError) as caught:
        get(cache, "f")
    for word in ("data.cache_gb = 3e-08", "s3://b/f", "raise data.cache_gb", "block_shards"):
        assert word in str(caught.value)
    assert [os.pread(fd, 10, 0) for fd in held] == [b"x" * 10] * 3
    for fd in held:
        os.close(fd)
    get(cache, "f")
    with pytest.raises(CacheFullError, match="other shards in use on this node 0 GB"):
        get(cache, "big", 31)


def test_versions_and_places_do_not_mix(cache: NodeCache):
    calls: list[Path] = []
    for one in (file("a"), file("a", version="b"), RemoteFile("s3://c/a", 10, "a" * 64)):
        os.close(cache.open(one, writer(10, calls)))
        os.close(cache.open(one, writer(10, calls)))
    assert len(calls) == len(set(calls)) == 3


def test_a_failed_download_leaves_nothing(cache: NodeCache, tmp_path: Path):
    def broken(path: Path) -> None:
        path.write_bytes(b"half")
        raise StorageError("no")

    with pytest.raises(StorageError, match="no"):
        cache.open(file("a"), broken)
    assert shards_in(tmp_path / "cache") == set()


def test_threads_that_want_the_same_file_fetch_it_once(cache: NodeCache):
    calls: list[Path] = []
    begun, go = threading.Event(), threading.Event()

    def slow(path: Path) -> None:
        begun.set()
        assert go.wait(60)
        writer(10, calls)(path)

    with ThreadPoolExecutor(8) as pool:
        first = pool.submit(cache.open, file("a"), slow)
        assert begun.wait(60)
        others = [pool.submit(cache.open, file("a"), slow) for _ in range(7)]
        go.set()
        fds = [future.result() for future in (first, *others)]
    assert len(calls) == 1
    for fd in fds:
        os.close(fd)


def test_one_that_finds_no_room_waits_for_what_is_on_its_way(tmp_path: Path):
    begun, go = threading.Event(), threading.Event()

    def slow(path: Path) -> None:
        begun.set()
        assert go.wait(60)
        writer(20)(path)

    cache = NodeCache(tmp_path / "cache", 30)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(lambda: os.close(cache.open(file("a", 20), slow)))
        assert begun.wait(60)
        second = pool.submit(
            lambda: os.close(cache.open(file("b", 20), writer(20), let_go=lambda: None))
        )
        go.set()
        first.result()
        second.result()
    assert shards_in(tmp_path / "cache") == {"b"}


def test_other_files_in_the_folder_are_left_alone(cache: NodeCache, tmp_path: Path):
    mine = tmp_path / "cache" / "thesis.partial"
    mine.write_bytes(b"x" * 100)
    for name in ("a", "b", "c", "d"):
        get(cache, name)
    assert mine.exists()


def test_a_folder_that_cannot_be_used(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"data\.cache_dir = .*file/cache: cannot be used"):
        NodeCache(tmp_path / "file" / "cache", 30)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk(s3: S3, tmp_path: Path):
    place = s3.upload(pack_clips(tmp_path, [1]).folder, "full")
    options = StorageOptions(cache_dir=tmp_path / "cache", retries=3, backoff_s=0)
    with ShardSource(place, options) as source:
        files = source._files
        download = files._download  # type: ignore[attr-defined]
        with pytest.raises(StorageError, match=r"no space left.*data\.cache_dir"):
            download(files._shards[0], Path("/dev/full"))  # type: ignore[attr-defined]
    assert s3.proxy.gets(SHARD) == 1


def start(s3: S3, place: str, cache: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", READ_ONE, place, str(cache)],
        cwd=ROOT, env={**os.environ, **s3.env()}, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_processes_of_a_node_fetch_once(s3: S3, tmp_path: Path):
    place = s3.upload(pack_clips(tmp_path, [1, 1]).folder, "once")
    s3.proxy.clear()
    fault = s3.proxy.inject(SHARD, "half")
    processes = [start(s3, place, tmp_path / "cache") for _ in range(2)]
    assert fault.met.wait(60)  # one is in the middle of it; the other may come before or after
    fault.release.set()
    assert [process.communicate()[0] for process in processes] == ["v000\n"] * 2
    assert s3.proxy.gets(SHARD) == 1


def test_a_process_killed_while_downloading_leaves_nothing(s3: S3, tmp_path: Path):
    place = s3.upload(pack_clips(tmp_path, [1, 1, 1, 1]).folder, "killed")
    s3.proxy.clear()
    fault = s3.proxy.inject(SHARD, "half")
    victim = start(s3, place, tmp_path / "cache")
    assert fault.met.wait(60)
    options = StorageOptions(cache_dir=tmp_path / "cache")
    with ShardSource(place, options) as source, ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(source.read, 0, source.entries(0)[0])
        victim.send_signal(signal.SIGKILL)
        victim.communicate()
        fault.release.set()
        assert waiting.result().key == "v000"
        # Nobody wants what this one left: whoever makes room removes it.
        left = tmp_path / "cache" / f"{'0' * 32}-other.tar.999.partial"
        left.write_bytes(b"half")
        source.read(1, source.entries(1)[0])
    assert shards_in(tmp_path / "cache") == {SHARD, "shard-000001.tar"}
    assert s3.proxy.gets(SHARD) == 2
