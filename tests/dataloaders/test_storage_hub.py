"""Data at hf://: the real huggingface_hub against a small double of the hub (hub_server.py).

The hub itself cannot be run here: that it behaves as the double does was not tried.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import fsspec.config
import pytest
from huggingface_hub import HfFileSystem

from dataloaders.errors import DataError, StorageError
from dataloaders.labels import LabelSet
from dataloaders.open_source import open_source
from dataloaders.shard_source import ShardSource
from dataloaders.storage.check import check_reachable
from dataloaders.storage.options import StorageOptions
from tests.conftest import ROOT
from tests.dataloaders.hub_server import REPO, TOKEN, Hub, hub_server
from tests.dataloaders.loader_fixtures import COUNTS, FRAMES, assert_same, make, take
from tests.dataloaders.shard_fixtures import clip_bytes, label_all, pack_clips
from tests.dataloaders.storage_checks import READ_ONE, all_of, assert_reads_as, read_all

SHARD = "shard-000001.tar"
LOGIN = r"set HF_TOKEN or run `hf auth login`"


@pytest.fixture(scope="module")
def packed(tmp_path_factory) -> Path:
    folder = pack_clips(tmp_path_factory.mktemp("data"), [1, 2, 3, 4, 5]).folder
    label_all(ShardSource(folder), 4)
    return folder


@pytest.fixture
def hub(packed: Path, tmp_path: Path) -> Iterator[Hub]:
    """With the packed set below ``set``."""
    shutil.copytree(packed, tmp_path / "hub" / "set")
    with hub_server(tmp_path / "hub") as server:
        yield server


@pytest.fixture
def options(tmp_path: Path) -> StorageOptions:
    return StorageOptions(cache_dir=tmp_path / "cache", retries=3, backoff_s=0.001)


@pytest.fixture
def place(hub: Hub) -> str:
    return f"hf://datasets/{REPO}/set"


# What writing calls asks the environment for the hub's address, at import.
WRITE = """
import sys
from dataloaders.storage.folder import open_folder

folder = open_folder(sys.argv[1])
folder.remove("labels/new/meta.json")
for text in (b"one", b"two"):
    folder.write("labels/new/meta.json", text)
    assert folder.read("labels/new/meta.json") == text
folder.remove("labels/new/meta.json")
try:
    folder.read("labels/new/meta.json")
except FileNotFoundError:
    print("gone")
"""


def with_token(monkeypatch: pytest.MonkeyPatch, hub: Hub, token: str) -> None:
    HfFileSystem.clear_instance_cache()
    monkeypatch.setitem(fsspec.config.conf, "hf", {"endpoint": hub.proxy.url, "token": token})


def run(hub: Hub, *argv: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", *argv], cwd=ROOT, env={**os.environ, **hub.env(), **env},
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_a_data_set_reads_as_a_folder_does(
    hub: Hub, place: str, packed: Path, options: StorageOptions
):
    assert_reads_as(packed, place, options)
    # One request for a shard, redirected once, and none for the listing of its folder.
    assert hub.proxy.gets(f"resolve/main/set/{SHARD}") == 1
    assert hub.proxy.gets(f"/large/set/{SHARD}") == 1
    assert hub.proxy.gets("/tree/main/set") == 0
    with open_source(place, options) as source:
        check_reachable(source, options)
    assert_reads_as(packed, f"hf://datasets/{REPO}@v1/set", options)


@pytest.mark.parametrize(
    ("suffix", "kind"),
    [
        (f"resolve/main/set/{SHARD}", "status"),
        (f"/large/set/{SHARD}", "status"),
        (f"/large/set/{SHARD}", "truncate"),
        (f"/large/set/{SHARD}", "corrupt"),
        ("/index.json", "status"),
        ("/index.json", "truncate"),
        ("shard-000000.index.jsonl", "status"),
        ("shard-000000.index.jsonl", "truncate"),
    ],
)
def test_what_passes_is_tried_again(
    hub: Hub, place: str, options: StorageOptions, suffix: str, kind: str
):
    fault = hub.proxy.inject(suffix, kind, times=2, status=429)
    clips = [sample.video_bytes for sample in read_all(place, options)]
    assert clips == [clip_bytes(i) for i in range(5)]
    assert fault.times == 0


def test_the_hub_fails_once(hub: Hub, place: str, options: StorageOptions):
    """huggingface_hub itself tries again, after a second."""
    fault = hub.proxy.inject(f"/large/set/{SHARD}", "status", status=500)
    asked = hub.proxy.inject(f"/api/datasets/{REPO}", "status", times=2, status=500)
    assert len(read_all(place, options)) == 5
    assert (fault.times, asked.times) == (0, 0)


def test_what_is_not_there(hub: Hub, place: str, options: StorageOptions):
    with open_source(place, options) as source:
        entries = all_of(source)
        (hub.folder / "set" / SHARD).unlink()
        with pytest.raises(StorageError, match=rf"{SHARD}: cannot be fetched: nothing there"):
            source.read(*entries[2])
        assert source.read(*entries[0]).key == "v000"
    with pytest.raises(DataError, match=r"none/index\.json: missing.*gcg pack"):
        open_source(f"hf://datasets/{REPO}/none", options)


@pytest.mark.parametrize("where", ["someone/else", f"{REPO}@v2"])
def test_no_such_data_set_or_revision(hub: Hub, where: str, options: StorageOptions):
    with pytest.raises(StorageError, match=rf"no such repository or revision.*{LOGIN}"):
        open_source(f"hf://datasets/{where}/set", options)


def test_a_private_data_set(hub: Hub, place: str, packed: Path, options, monkeypatch):
    hub.private = True
    for token in ("", "hf_wrong"):
        if token:
            with_token(monkeypatch, hub, token)
        with pytest.raises(StorageError, match=rf"index\.json.*or a private one.*{LOGIN}"):
            open_source(place, options)
    with_token(monkeypatch, hub, TOKEN)
    assert_reads_as(packed, place, options)


def test_terms_that_were_not_accepted(hub: Hub, place: str, options: StorageOptions):
    hub.gated = True
    with pytest.raises(StorageError, match=rf"access denied.*{LOGIN}, and accept the data set's"):
        open_source(place, options)


def test_offline_mode(hub: Hub, place: str, options: StorageOptions):
    done = run(hub, READ_ONE, place, str(options.cache_dir), HF_HUB_OFFLINE="1")
    assert "HF_HUB_OFFLINE" in done.stderr.splitlines()[-1]
    assert "retry 1 of" not in done.stderr


def test_a_process_with_nothing_but_its_environment(hub: Hub, place: str, options: StorageOptions):
    hub.private = True
    done = run(hub, READ_ONE, place, str(options.cache_dir), HF_TOKEN=TOKEN)
    assert done.stdout.split() == ["v000"], done.stderr


def test_writing_to_the_hub(hub: Hub, place: str):
    done = run(hub, WRITE, place, HF_TOKEN=TOKEN)
    assert done.stdout.split() == ["gone"], done.stderr
    done = run(hub, WRITE.replace('folder.remove("labels/new/meta.json")', "", 1), place)
    said = done.stderr.splitlines()[-1]
    for word in ("DeniedError", "cannot be written: access denied", "set HF_TOKEN"):
        assert word in said


def test_the_same_batches_as_from_a_folder(
    hub: Hub, options: StorageOptions, tmp_path_factory: pytest.TempPathFactory
):
    folder = pack_clips(tmp_path_factory.mktemp("loader"), COUNTS).folder
    label_all(ShardSource(folder), FRAMES)
    shutil.copytree(folder, hub.folder / "loader")
    place = f"hf://datasets/{REPO}/loader"
    hub.proxy.inject(".tar", "status", times=3, status=429)
    near, far = (LabelSet(f"{where}/labels/test", options) for where in (folder, place))
    with make(folder, labels=near) as local, make(place, storage=options, labels=far) as remote:
        steps = local.plan.steps_per_epoch(0) + 2
        assert_same(take(remote, steps), take(local, steps))
