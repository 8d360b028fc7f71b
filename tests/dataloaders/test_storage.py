"""Data at a URL: a real S3 server, a web server, and what can go wrong with either."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path

import pytest

from dataloaders.errors import DataError, StorageError
from dataloaders.open_source import open_source
from dataloaders.shard_source import ShardSource
from dataloaders.storage.folder import open_folder
from dataloaders.storage.options import StorageOptions
from dataloaders.storage.retry import may_pass
from tests.dataloaders.s3_server import BUCKET, S3, forget_clients, http_server
from tests.dataloaders.shard_fixtures import clip_bytes, label_all, pack_clips
from tests.dataloaders.storage_checks import all_of, assert_reads_as, read_all

SHARD = "shard-000001.tar"


@pytest.fixture(scope="module")
def packed(tmp_path_factory) -> Path:
    folder = pack_clips(tmp_path_factory.mktemp("data"), [1, 2, 3, 4, 5]).folder
    label_all(ShardSource(folder), 4)
    return folder


@pytest.fixture(scope="module")
def uploaded(s3: S3, packed: Path) -> str:
    return s3.upload(packed, "set")


@pytest.fixture
def options(tmp_path: Path) -> StorageOptions:
    return StorageOptions(cache_dir=tmp_path / "cache", retries=3, backoff_s=0.001, timeout_s=5)


@pytest.fixture
def s3_set(s3: S3, uploaded: str) -> str:
    s3.proxy.clear()
    return uploaded


@pytest.fixture(params=["s3", "http", "file"])
def place(request, packed: Path):
    if request.param == "file":
        yield packed.as_uri()
    elif request.param == "http":
        with http_server(packed.parent) as proxy:
            yield f"{proxy.url}/{packed.name}"
    else:
        yield request.getfixturevalue("s3_set")


def test_a_url_reads_as_a_folder_does(place: str, packed: Path, options: StorageOptions):
    assert_reads_as(packed, place, options)


@pytest.mark.parametrize("suffix", [SHARD, "/index.json", "shard-000000.index.jsonl"])
@pytest.mark.parametrize(
    ("kind", "status"), [("status", 500), ("status", 503), ("status", 429), ("truncate", 0)]
)
def test_what_passes_is_tried_again(
    s3: S3, s3_set: str, options: StorageOptions, suffix: str, kind: str, status: int
):
    fault = s3.proxy.inject(suffix, kind, times=2, status=status)
    clips = [sample.video_bytes for sample in read_all(s3_set, options)]
    assert clips == [clip_bytes(i) for i in range(5)]
    assert fault.times == 0
    assert s3.proxy.gets(suffix) == 3


def test_a_silent_server_is_given_up_and_tried_again(s3: S3, s3_set: str, tmp_path: Path):
    options = StorageOptions(cache_dir=tmp_path / "cache", retries=1, backoff_s=0, timeout_s=0.5)
    fault = s3.proxy.inject(SHARD, "silence")
    assert len(read_all(s3_set, options)) == 5
    assert fault.met.is_set()
    assert s3.proxy.gets(SHARD) == 2


@pytest.mark.parametrize("kind", ["corrupt", "short"])
def test_other_bytes_are_refused_and_fetched_again(
    s3: S3, s3_set: str, packed: Path, options: StorageOptions, kind: str
):
    s3.proxy.inject(SHARD, kind)
    assert len(read_all(s3_set, options)) == 5
    assert s3.proxy.gets(SHARD) == 2
    shutil.rmtree(options.cache_dir)
    # S3's client has a checksum of its own; a web server's has none.
    with http_server(packed.parent) as proxy:
        place = f"{proxy.url}/{packed.name}"
        fault = proxy.inject(SHARD, kind, times=99)
        with pytest.raises(StorageError) as caught:
            read_all(place, options)
        assert proxy.gets(SHARD) == 4
        fault.times = 1
        assert len(read_all(place, options)) == 5
    said = {"corrupt": "SHA-256", "short": "bytes arrived"}[kind]
    for word in (f"{place}/{SHARD}", said, "4 tries", "upload it again"):
        assert word in str(caught.value)
    assert not list(options.cache_dir.glob("*.partial"))


def test_a_shard_that_was_replaced(s3: S3, packed: Path, options: StorageOptions):
    place = s3.upload(packed, "replaced")
    data = bytearray((packed / SHARD).read_bytes())
    data[700] ^= 1
    s3.client.put_object(Bucket=BUCKET, Key=f"replaced/{SHARD}", Body=bytes(data))
    with pytest.raises(StorageError, match=rf"{SHARD}: arrived with SHA-256.*upload it again"):
        read_all(place, options)


def test_a_server_that_stays_broken(s3: S3, s3_set: str, options: StorageOptions):
    s3.proxy.inject(SHARD, "status", times=99, status=500)
    with pytest.raises(StorageError, match=rf"{SHARD}: cannot be fetched.*4 tries; check the net"):
        read_all(s3_set, options)


def test_what_never_helps_is_not_tried_again(s3: S3, s3_set: str, options: StorageOptions):
    s3.proxy.inject(SHARD, "status", times=99, status=403)
    with pytest.raises(StorageError, match=r"access denied.*AWS_ACCESS_KEY_ID"):
        read_all(s3_set, options)
    assert s3.proxy.gets(SHARD) == 1
    with pytest.raises(DataError, match=r"s3://no-such-bucket/set/index\.json: missing"):
        open_source("s3://no-such-bucket/set", options)


def test_a_bucket_that_may_not_be_listed(s3: S3, s3_set: str, options: StorageOptions):
    """S3 then answers 403 where a file is missing, as our own index is beside packed tars."""
    s3.proxy.inject("/gcg.index.json", "status", times=99, status=403)
    assert len(read_all(s3_set, options)) == 5
    s3.proxy.inject("/index.json", "status", times=99, status=403)
    with pytest.raises(StorageError, match=r"/index\.json: cannot be read: access denied"):
        open_source(s3_set, options)
    s3.proxy.clear()


def test_a_shard_that_disappears(s3: S3, packed: Path, options: StorageOptions):
    place = s3.upload(packed, "gone")
    with open_source(place, options) as source:
        entries = all_of(source)
        source.read(*entries[0])
        s3.delete(f"gone/{SHARD}")
        s3.proxy.clear()
        with pytest.raises(StorageError, match=rf"{SHARD}: cannot be fetched: nothing there"):
            source.read(*entries[2])
        assert s3.proxy.gets(SHARD) == 1
        assert source.read(*entries[1]).key == "v001"  # in the cache already


def test_no_credentials(s3: S3, s3_set: str, options: StorageOptions, monkeypatch, tmp_path):
    forget_clients()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    with pytest.raises(StorageError, match=r"no credentials.*AWS_PROFILE.*FSSPEC_S3_ANON"):
        open_source(s3_set, options)
    forget_clients()


def test_protocols_that_cannot_be_read(options: StorageOptions):
    with pytest.raises(StorageError, match=r"not read from nosuch://.*s3://, gs://"):
        open_source("nosuch://a/b", options)


def test_writing_to_a_url(s3: S3, options: StorageOptions):
    folder = open_folder(f"s3://{BUCKET}/new", options)
    folder.remove("a/b.txt")
    folder.write("a/b.txt", b"one")
    folder.write("a/b.txt", b"two")
    assert folder.read("a/b.txt") == b"two"
    folder.remove("a/b.txt")
    with pytest.raises(FileNotFoundError):
        folder.read("a/b.txt")


def test_a_web_server_is_only_for_reading(packed: Path, options: StorageOptions):
    with http_server(packed) as proxy:
        folder = open_folder(proxy.url, options)
        with pytest.raises(StorageError, match=r"http:// is only for reading; work on a copy"):
            folder.remove("labels/test/meta.json")


def test_a_copy_that_went_bad_on_this_disk_is_fetched_again(
    s3: S3, s3_set: str, options: StorageOptions, caplog
):
    caplog.set_level(logging.WARNING)
    with open_source(s3_set, options) as source:
        number, entry = all_of(source)[2]
        good = source.read(number, entry)
        source.prefetch([number], [])
        (copy,) = options.cache_dir.glob(f"*-{SHARD}")
        data = bytearray(copy.read_bytes())
        data[entry.video.offset] ^= 1
        copy.write_bytes(bytes(data))
        assert source.read(number, entry) == good
        (copy,) = options.cache_dir.glob(f"*-{SHARD}")
        os.truncate(copy, 10)
        source.close()
        assert source.read(number, entry) == good
    assert s3.proxy.gets(SHARD) == 3
    assert "10 bytes, must be" in caplog.text


def test_which_failures_may_pass():
    class Answer(Exception):
        def __init__(self, status):
            self.status = status

    assert [may_pass(Answer(s)) for s in (500, 503, 429, 408, 400, 401, 404)] == [True] * 4 + [
        False
    ] * 3
    assert may_pass(ConnectionResetError())
    assert may_pass(TimeoutError())
    assert not may_pass(OSError(28, "No space left on device"))
    assert not may_pass(TypeError())
