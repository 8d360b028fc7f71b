"""Data made to reach what they should not: other files, other hosts, commands."""

from __future__ import annotations

import json
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from dataloaders.container import open_clip
from dataloaders.errors import DataError
from dataloaders.feature_pack import _file_of
from dataloaders.index import OWN_INDEX_NAME, read_entries, read_index
from dataloaders.index_folder import index_folder
from dataloaders.manifest import read_manifest, write_manifest
from dataloaders.open_source import open_source
from dataloaders.scan_tar import scan_tar
from dataloaders.shards import QUARANTINE_NAME, pack
from dataloaders.storage.options import StorageOptions
from dataloaders.storage.web import is_refused
from tests.dataloaders.foreign_shards import pairs, write_tar
from tests.dataloaders.s3_server import forget_clients, http_server
from tests.dataloaders.shard_fixtures import clip_bytes, needs_mds, pack_clips, video


@contextmanager
def web(
    location: str | None = None, logins: list[str | None] | None = None
) -> Iterator[tuple[str, list[str]]]:
    """A server that notes what it is asked for, and in ``logins`` by whom; answers 404, or sends
    elsewhere."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            if logins is not None:
                logins.append(self.headers.get("Authorization"))
            self.send_response(404 if location is None else 302)
            if location is not None:
                self.send_header("Location", location)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
    finally:
        forget_clients()
        server.shutdown()
        server.server_close()
        thread.join()


PLAYLISTS = {
    "hls.m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\n{url}/seg.ts\n#EXT-X-ENDLIST\n",
    "hls.mp4": "#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\n{url}/seg.ts\n#EXT-X-ENDLIST\n",
    "file.m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\n{file}\n#EXT-X-ENDLIST\n",
    "concat.mp4": "ffconcat version 1.0\nfile '{url}/a.mp4'\n",
    "stream.sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\n"
    "m=video 9 RTP/AVP 96\na=rtpmap:96 H264/90000\n",
}


@pytest.mark.parametrize("name", PLAYLISTS)
def test_a_playlist_opens_nothing(tmp_path: Path, name: str):
    """FFmpeg's demuxers would ask the server, or read the file, that a "clip" names."""
    file = tmp_path / "other.ts"
    file.write_bytes(clip_bytes(0))
    with web() as (url, asked):
        data = PLAYLISTS[name].format(url=url, file=file.as_uri()).encode()
        with pytest.raises(DataError, match="that no demuxer opens"), open_clip(data, name):
            pass
        assert asked == []


def test_a_manifest_names_files_alone(tmp_path: Path):
    rows = [
        video(n).model_copy(update={"path": path})
        for n, path in enumerate(["", "http://169.254.169.254/latest/meta-data", "pipe:touch ran",
                                  "https://host/clip.mp4?sig=c4nary", "file:///etc/passwd"])
    ]  # fmt: skip
    rows[0] = video(0)
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / "v000.mp4").write_bytes(clip_bytes(0))
    write_manifest(tmp_path / "m.jsonl", rows)
    report = pack(list(read_manifest(tmp_path / "m.jsonl")), tmp_path / "out", root=tmp_path)
    assert report.num_samples == 1
    listed = (tmp_path / "out" / QUARANTINE_NAME).read_text()
    assert "https://host/clip.mp4?\\u2026" in listed
    assert "c4nary" not in listed
    reasons = [json.loads(line)["reason"] for line in listed.splitlines()]
    assert [("a URL; only files are packed" in reason) for reason in reasons] == [
        True, False, True, True,
    ]  # fmt: skip
    assert reasons[1] == "no such file"
    assert not list(tmp_path.rglob("ran"))


@pytest.mark.parametrize("place", ["pipe:touch ran", "pipe:touch ran|cat", "| touch ran"])
def test_a_command_is_a_folder_that_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
):
    """WebDataset would run what follows ``pipe:``; it gets open files from us, never a name."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="no such folder"):
        open_source(place)
    (tmp_path / "v.mp4").write_bytes(clip_bytes(0))
    pack([video(0).model_copy(update={"path": "v.mp4"})], place, root=tmp_path)
    assert (tmp_path / place / "index.json").is_file()
    assert not (tmp_path / "ran").exists()


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    pack_clips(tmp_path / "set", [1, 2, 1])
    (folder,) = (path.parent for path in (tmp_path / "set").rglob("index.json"))
    return folder


def rename_shard(folder: Path, name: str) -> None:
    index = json.loads((folder / "index.json").read_text())
    index["shards"][0]["name"] = name
    (folder / "index.json").write_text(json.dumps(index))


NAMES = [
    "../shard.tar", "/etc/passwd", "http://169.254.169.254/x.tar", "pipe:touch ran", "%2e%2e/x",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_an_index_names_shards_in_its_folder(packed: Path, tmp_path: Path, name: str):
    rename_shard(packed, name)
    with pytest.raises(DataError, match=r"index\.json: shards: .*must be a name below"):
        open_source(packed)
    with http_server(packed) as proxy:
        storage = StorageOptions(cache_dir=tmp_path / "cache", retries=0)
        with pytest.raises(DataError, match=r"index\.json: shards: .*must be a name below"):
            open_source(proxy.url, storage)
        assert {place for _, place in proxy.requests} <= {"/index.json", f"/{OWN_INDEX_NAME}"}


@pytest.mark.parametrize("field", ["key", "video", "record"])
def test_a_sidecar_names_members_below(packed: Path, field: str):
    shard = read_index(packed).shards[0]
    sidecar = packed / shard.entries_name
    row, *rest = map(json.loads, sidecar.read_text().splitlines())
    if field == "key":
        row["key"] = "../../v"
    else:
        row[field]["name"] = "/etc/v.mp4"
    sidecar.write_text("".join(json.dumps(each) + "\n" for each in [row, *rest]))
    with pytest.raises(DataError, match=r"not a shard index .*must be a name below"):
        read_entries(packed, shard)


@pytest.mark.parametrize("prefix", ["../", "/", "a/../../", "a/b\\"])
def test_members_that_would_leave_the_folder_are_left_out(tmp_path: Path, prefix: str):
    write_tar(tmp_path / "set" / "a.tar", [*pairs([0]), *pairs([1], prefix)])
    report = index_folder(tmp_path / "set")
    assert [each.key for each in report.bad] == [f"{prefix}v001"]
    assert "must " in report.bad[0].reason
    with pytest.raises(DataError, match="must "):
        scan_tar(write_tar(tmp_path / "b.tar", pairs([1], prefix)))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE])
def test_links_and_devices_are_left_out(tmp_path: Path, kind: bytes):
    path = write_tar(tmp_path / "set" / "a.tar", pairs([0]))
    with tarfile.open(path, "a") as tar:
        info = tarfile.TarInfo("v001.mp4")
        info.type, info.linkname = kind, "/etc/passwd"
        tar.addfile(info)
    report = index_folder(tmp_path / "set")
    assert [each.key for each in report.bad] == ["v001"]


@needs_mds
@pytest.mark.parametrize("part", ["raw_data", "zip_data"])
def test_rows_of_mds_name_files_in_their_folder(tmp_path: Path, part: str):
    from dataloaders.mds_compressed import read_rows
    from dataloaders.mds_library import read_mds_index
    from dataloaders.storage.folder import LocalFolder

    pack_clips(tmp_path / "set", [1, 1], format="mds")
    (place,) = (path for path in (tmp_path / "set").rglob("index.json"))
    index = json.loads(place.read_text())
    index["shards"][0][part] = {"basename": "../../shard.mds", "bytes": 1, "hashes": {}}
    place.write_text(json.dumps(index))
    for read in (read_mds_index, lambda folder: read_rows(LocalFolder(folder))):
        with pytest.raises(DataError, match=r"shards: '\.\./\.\./shard\.mds': must be a name"):
            read(place.parent)


class _Command:
    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def __reduce__(self):
        return Path.touch, (self._mark,)


@needs_mds
def test_a_column_of_pickles_is_refused(tmp_path: Path):
    from streaming import MDSWriter

    columns = {"key": "str", "video": "bytes", "extra": "pkl"}
    with MDSWriter(columns=columns, out=str(tmp_path / "set")) as writer:
        writer.write({"key": "v", "video": clip_bytes(0), "extra": _Command(tmp_path / "ran")})
    with pytest.raises(DataError, match=r"shard\.00000\.mds: .*unsafe"):
        index_folder(tmp_path / "set")
    assert not (tmp_path / "ran").exists()


def test_features_lie_in_their_folder(tmp_path: Path):
    (tmp_path / "features").mkdir()
    (tmp_path / "secret.npy").touch()
    assert _file_of(tmp_path / "features", "../secret") is None
    (tmp_path / "features" / "a b:1.npy").touch()
    (tmp_path / "features" / "v1.npy").touch()
    assert _file_of(tmp_path / "features", "v1") == tmp_path / "features" / "v1.npy"


@pytest.mark.parametrize(
    "target", ["http://169.254.169.254/latest/meta-data/iam", "http://[fd00:ec2::254]/latest"]
)
def test_a_redirection_to_metadata_is_not_followed(tmp_path: Path, target: str):
    """At once, too: nothing is tried again, and no time limit has to pass."""
    with web(target) as (url, asked):
        storage = StorageOptions(cache_dir=tmp_path, retries=3, backoff_s=60, timeout_s=120)
        with pytest.raises(DataError, match=r"metadata service's address"):
            open_source(f"{url}/data", storage)
        assert 1 <= len(asked) <= 2  # of the two names that an index may have
    with pytest.raises(DataError, match=r"metadata service's address"):
        open_source("http://169.254.169.254/data", storage)
    forget_clients()


def test_a_login_goes_to_its_host_alone(
    packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """From a file, since a URL may not hold it; a redirection elsewhere does not get it."""
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password c4nary\n")
    (tmp_path / "netrc").chmod(0o600)
    storage = StorageOptions(cache_dir=tmp_path / "cache", retries=0)
    here: list[str | None] = []
    there: list[str | None] = []
    with (
        web(logins=there) as (other, _),
        web(f"{other}/away".replace("127.0.0.1", "localhost"), here) as (url, _),
        pytest.raises(DataError, match="missing"),
    ):
        open_source(f"{url}/data", storage)
    assert set(here) == {"Basic bWU6YzRuYXJ5"}  # me:c4nary
    assert set(there) == {None}
    (tmp_path / "netrc").write_text("machine 127.0.0.1 c4nary")
    with pytest.raises(DataError, match="cannot be read as netrc") as error:
        open_source("http://127.0.0.1:9/data", storage)
    assert "c4nary" not in str(error.value)


@pytest.mark.parametrize(
    ("host", "refused"),
    [
        ("169.254.169.254", True), ("169.254.0.1", True), ("fe80::1%eth0", True),
        ("::ffff:169.254.169.254", True), ("fd00:ec2::254", True), ("100.100.100.200", True),
        ("224.0.0.1", True), ("127.0.0.1", False), ("10.1.2.3", False), ("::1", False),
        ("192.168.1.5", False), ("8.8.8.8", False), ("fd00::5", False),
    ],
)  # fmt: skip
def test_addresses(host: str, refused: bool):
    assert is_refused(host) == refused
