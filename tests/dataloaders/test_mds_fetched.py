"""MDS at a URL, and compressed: fetched or unpacked once, into a bounded cache."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from dataloaders.errors import DataError, StorageError
from dataloaders.index import INDEX_NAME, OWN_INDEX_NAME
from dataloaders.open_source import open_source
from dataloaders.storage.check import check_reachable
from dataloaders.storage.options import StorageOptions
from dataloaders.storage.work_folder import remove_dead, work_folder
from tests.dataloaders.mds_fixtures import packed, read_all, read_all_of, served
from tests.dataloaders.shard_fixtures import needs_mds, pack_clips

__all__ = ["packed", "served"]  # fixtures
pytestmark = needs_mds


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


def test_nothing_there(served, tmp_path):
    url, folder, _ = served
    options = StorageOptions(tmp_path / "cache", retries=0)
    (folder / INDEX_NAME).unlink()
    with pytest.raises(DataError, match=rf"{INDEX_NAME}: cannot be read"):
        open_source(url, options)
    (folder / OWN_INDEX_NAME).unlink()
    with pytest.raises(DataError, match=rf"{INDEX_NAME}: missing.*gcg pack"):
        open_source(url, options)
