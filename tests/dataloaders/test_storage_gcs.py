"""Data at gs://: gcsfs against an emulator of Google Cloud Storage, and what can go wrong."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dataloaders.errors import DataError, StorageError
from dataloaders.labels import LabelSet
from dataloaders.open_source import open_source
from dataloaders.shard_source import ShardSource
from dataloaders.storage.check import check_reachable
from dataloaders.storage.folder import open_folder
from dataloaders.storage.options import StorageOptions
from tests.conftest import ROOT
from tests.dataloaders.gcs_server import BUCKET, GCS, gcs_server
from tests.dataloaders.loader_fixtures import COUNTS, FRAMES, assert_same, make, take
from tests.dataloaders.shard_fixtures import clip_bytes, label_all, pack_clips
from tests.dataloaders.storage_checks import READ_ONE, all_of, assert_reads_as, read_all

WHERE = "docs/data.md, Data at a URL, says how to run these"
pytest.importorskip("gcsfs", reason=f"needs gcsfs: {WHERE}")
pytest.importorskip("gcp_storage_emulator", reason=f"needs gcp-storage-emulator: {WHERE}")

SHARD = "shard-000001.tar"
# The request for its bytes; another asks for its size before.
BYTES = f"/download/storage/v1/b/{BUCKET}/o/set%2F{SHARD}"


@pytest.fixture(scope="module")
def gcs() -> Iterator[GCS]:
    with gcs_server() as server:
        yield server


@pytest.fixture(scope="module")
def packed(tmp_path_factory) -> Path:
    folder = pack_clips(tmp_path_factory.mktemp("data"), [1, 2, 3, 4, 5]).folder
    label_all(ShardSource(folder), 4)
    return folder


@pytest.fixture(scope="module")
def uploaded(gcs: GCS, packed: Path) -> str:
    return gcs.upload(packed, "set")


@pytest.fixture
def place(gcs: GCS, uploaded: str) -> str:
    gcs.proxy.clear()
    return uploaded


@pytest.fixture
def options(tmp_path: Path) -> StorageOptions:
    return StorageOptions(cache_dir=tmp_path / "cache", retries=3, backoff_s=0.001, timeout_s=5)


def test_a_bucket_reads_as_a_folder_does(place: str, packed: Path, options: StorageOptions):
    assert_reads_as(packed, place, options)
    assert_reads_as(packed, place.replace("gs://", "gcs://"), options)
    with open_source(place, options) as source:
        check_reachable(source, options)


@pytest.mark.parametrize("suffix", [SHARD, "index.json", "shard-000000.index.jsonl"])
@pytest.mark.parametrize(
    ("kind", "status"), [("status", 500), ("status", 502), ("status", 429), ("truncate", 0)]
)
def test_what_passes_is_tried_again(
    gcs: GCS, place: str, options: StorageOptions, suffix: str, kind: str, status: int
):
    fault = gcs.proxy.inject(suffix, kind, times=2, status=status)
    clips = [sample.video_bytes for sample in read_all(place, options)]
    assert clips == [clip_bytes(i) for i in range(5)]
    assert fault.times == 0


def test_a_silent_server_is_given_up_and_tried_again(gcs: GCS, place: str, tmp_path: Path):
    options = StorageOptions(cache_dir=tmp_path / "cache", retries=1, backoff_s=0, timeout_s=0.5)
    fault = gcs.proxy.inject(SHARD, "silence")
    assert len(read_all(place, options)) == 5
    assert fault.met.is_set()


@pytest.mark.parametrize("kind", ["corrupt", "short"])
def test_other_bytes_are_refused_and_fetched_again(
    gcs: GCS, place: str, options: StorageOptions, kind: str
):
    gcs.proxy.inject(BYTES, kind)
    assert len(read_all(place, options)) == 5
    assert not list(options.cache_dir.glob("*.partial"))


def test_a_try_that_fails_keeps_its_claim_on_the_cache(
    gcs: GCS, place: str, options: StorageOptions
):
    """It is one file from the first byte on: with another, the lock on it would be lost."""
    hangs_up = gcs.proxy.inject(BYTES, "silence")
    with open_source(place, options) as source:
        source.prefetch([1], [])
        assert hangs_up.met.wait(30)
        (partial,) = options.cache_dir.glob(f"*-{SHARD}.*.partial")
        claimed = partial.stat().st_ino
        hangs_up.release.set()
        source.read(*all_of(source)[2])
        (whole,) = options.cache_dir.glob(f"*-{SHARD}")
        assert whole.stat().st_ino == claimed


def test_a_server_that_stays_broken(gcs: GCS, place: str, options: StorageOptions, caplog):
    gcs.proxy.inject(SHARD, "status", times=99, status=500)
    with pytest.raises(StorageError, match=rf"{SHARD}: cannot be fetched.*4 tries; check the net"):
        read_all(place, options)
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize("status", [401, 403])
def test_what_never_helps_is_not_tried_again(
    gcs: GCS, place: str, options: StorageOptions, status: int
):
    fault = gcs.proxy.inject(BYTES, "status", times=99, status=status)
    with pytest.raises(StorageError, match=r"access denied.*GOOGLE_APPLICATION_CREDENTIALS"):
        read_all(place, options)
    assert fault.times == 98
    gcs.proxy.inject("index.json", "status", times=99, status=status)
    with pytest.raises(StorageError, match=r"index\.json: cannot be read: access denied.*anon"):
        open_source(place, options)


def test_what_is_not_there(gcs: GCS, packed: Path, options: StorageOptions):
    place = gcs.upload(packed, "gone")
    gcs.proxy.clear()
    with open_source(place, options) as source:
        entries = all_of(source)
        gcs.delete(f"gone/{SHARD}")
        with pytest.raises(StorageError, match=rf"{SHARD}: cannot be fetched: nothing there"):
            source.read(*entries[2])
        assert source.read(*entries[0]).key == "v000"
    with pytest.raises(DataError, match=r"gs://no-such-bucket/set/index\.json: missing"):
        open_source("gs://no-such-bucket/set", options)


def test_credentials_that_are_not_there(
    place: str, options: StorageOptions, tmp_path: Path, monkeypatch
):
    import fsspec.config

    missing = tmp_path / "key.json"
    monkeypatch.setitem(fsspec.config.conf, "gs", {"token": str(missing)})
    with pytest.raises(StorageError, match=r"key\.json.*gcloud auth application-default login"):
        open_source(place, options)
    missing.write_text("{}")
    with pytest.raises(StorageError, match="gcloud auth application-default login"):
        open_source(place, options)


def test_writing_to_a_bucket(gcs: GCS, place: str, options: StorageOptions):
    folder = open_folder(f"gs://{BUCKET}/new", options)
    folder.remove("a/b.txt")
    for text in (b"one", b"two"):
        gcs.proxy.inject(f"/upload/storage/v1/b/{BUCKET}/o", "status", times=1, status=503)
        folder.write("a/b.txt", text)
        assert folder.read("a/b.txt") == text
    folder.remove("a/b.txt")
    with pytest.raises(FileNotFoundError):
        folder.read("a/b.txt")


def test_the_same_batches_as_from_a_folder(
    gcs: GCS, options: StorageOptions, tmp_path_factory: pytest.TempPathFactory
):
    folder = pack_clips(tmp_path_factory.mktemp("loader"), COUNTS).folder
    label_all(ShardSource(folder), FRAMES)
    place = gcs.upload(folder, "loader")
    gcs.proxy.inject(".tar", "status", times=3, status=500)
    near, far = (LabelSet(f"{where}/labels/test", options) for where in (folder, place))
    with make(folder, labels=near) as local, make(place, storage=options, labels=far) as remote:
        steps = local.plan.steps_per_epoch(0) + 2
        assert_same(take(remote, steps), take(local, steps))


def test_a_process_with_nothing_but_its_environment(gcs: GCS, place: str, options: StorageOptions):
    done = subprocess.run(
        [sys.executable, "-c", READ_ONE, place, str(options.cache_dir)],
        cwd=ROOT, env=os.environ | gcs.env(), capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.split() == ["v000"]
