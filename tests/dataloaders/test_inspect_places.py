"""Verifying what `gcg index` made readable, what lies at a URL, compressed shards, features."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from dataloaders.errors import DataError, StorageError
from dataloaders.features import VideoFeatures, pack_features, pack_unreadable
from dataloaders.index import read_entries, read_index
from dataloaders.index_folder import index_folder
from dataloaders.inspect_shards import Inspection, inspect_shards
from dataloaders.manifest import write_manifest
from dataloaders.repair import repair
from dataloaders.storage.options import StorageOptions
from launcher.cli import main
from tests.dataloaders import test_damage_table as damage
from tests.dataloaders.clips import clip, packet_positions
from tests.dataloaders.s3_server import http_server
from tests.dataloaders.shard_fixtures import FORMATS, clip_bytes, needs_mds, pack_clips, video
from tests.dataloaders.test_index_folder import write_mds, write_tar
from tests.dataloaders.test_inspect_shards import content, samples_of

NUM_CLIPS = 6


def foreign_tars(folder: Path, clips: list[bytes]) -> None:
    """Two samples in a tar, with a member more than ours have."""
    for number in range(0, len(clips), 2):
        members = [
            member
            for n in (number, number + 1)
            for member in ((f"a/v{n:03d}.txt", b"a title"), (f"a/v{n:03d}.mp4", clips[n]))
        ]
        write_tar(folder / f"part-{number // 2}.tar", members)


def foreign_mds(folder: Path, clips: list[bytes]) -> None:
    """Other columns than ours, two samples in a shard."""
    rows = [{"id": f"v{n:03d}", "clip": data, "label": n} for n, data in enumerate(clips)]
    limit = max(map(len, clips)) * 2 + 1500
    write_mds(folder, {"id": "str", "clip": "bytes", "label": "int"}, rows, size_limit=limit)


@pytest.fixture(params=["wds", pytest.param("mds", marks=needs_mds)])
def write(request) -> Callable[[Path, list[bytes]], None]:
    return foreign_tars if request.param == "wds" else foreign_mds


@pytest.fixture
def manifest(tmp_path) -> Path:
    path = tmp_path / "rows.jsonl"
    write_manifest(path, [video(number) for number in range(NUM_CLIPS)])
    return path


def index(folder: Path, manifest: Path) -> None:
    from dataloaders.foreign import Names

    index_folder(folder, records=manifest, names=Names(video="clip" if _is_mds(folder) else ""))


def _is_mds(folder: Path) -> bool:
    return bool(list(folder.glob("*.mds*")))


@pytest.fixture
def foreign(tmp_path, write, manifest) -> Path:
    folder = tmp_path / "foreign"
    write(folder, [clip_bytes(number) for number in range(NUM_CLIPS)])
    index(folder, manifest)
    assert len(read_index(folder).shards) >= 3
    return folder


def told(found: Inspection) -> list[tuple[str | None, str]]:
    return [(fault.key, fault.reason) for fault in found.faults]


def ids(folder: Path) -> list[str]:
    return [sample.record.id for sample in samples_of(folder)]


def test_foreign_shards_that_are_whole(foreign, tmp_path):
    found = inspect_shards(foreign)
    assert (found.faults, found.num_good) == ([], NUM_CLIPS)
    repaired = repair(found, tmp_path / "new")
    assert repaired.num_left_out == 0
    old, new = samples_of(foreign), samples_of(tmp_path / "new")
    assert [(s.video_bytes, s.record) for s in new] == [(s.video_bytes, s.record) for s in old]
    assert read_index(tmp_path / "new").format == read_index(foreign).format
    assert not inspect_shards(tmp_path / "new").faults


@pytest.mark.parametrize("change", [damage.garbage_in_the_middle, damage.cut_shard])
def test_foreign_shards_that_are_damaged(foreign, tmp_path, change):
    second = read_entries(foreign, read_index(foreign).shards[1])
    if change is damage.cut_shard:
        bad = second[1]
        os.truncate(damage.second_shard(foreign), bad.video.offset + 99)
    else:
        bad = second[0]
        path = damage.second_shard(foreign)
        data = bytearray(path.read_bytes())
        data[bad.video.offset : bad.video.offset + 300] = b"\xa5" * 300
        path.write_bytes(data)
    found = inspect_shards(foreign)
    (shard, _), (key, reason) = told(found)
    assert (shard, key) == (None, bad.key)
    assert "CRC-32" in reason
    assert found.num_good == NUM_CLIPS - 1
    assert not found.stale
    before = content(foreign)
    repair(found, tmp_path / "new")
    lost = bad.key.rpartition("/")[2]
    assert ids(tmp_path / "new") == [f"v{n:03d}" for n in range(NUM_CLIPS) if lost != f"v{n:03d}"]
    assert content(foreign) == before


def one_bad_frame() -> bytes:
    """VP9 whose frame 20 of 64 is spoilt behind its header: it is not one of the four that are
    decoded for an index, nor of their groups."""
    settings = {"g": "8", "deadline": "realtime", "cpu-used": "8"}
    data = bytearray(clip("libvpx-vp9", frames=64, options=settings, container="webm"))
    begin, size = packet_positions(bytes(data))[20]
    data[begin + 10 : begin + size] = bytes(size - 10)
    return bytes(data)


def test_foreign_clips_that_only_a_full_decode_shows(tmp_path, write, manifest):
    """`gcg index` decodes a few frames; what it leaves out is no fault of the shard."""
    clips = [clip_bytes(number) for number in range(NUM_CLIPS)]
    clips[2], clips[3] = one_bad_frame(), damage.audio_only()
    folder = tmp_path / "foreign"
    write(folder, clips)
    index(folder, manifest)
    assert "v003" not in ids(folder)
    assert not inspect_shards(folder, quick=True).faults
    found = inspect_shards(folder)
    ((key, reason),) = told(found)
    assert key is not None
    assert key.endswith("v002")
    assert "decoding fails after" in reason
    repair(found, tmp_path / "new")
    assert ids(tmp_path / "new") == ["v000", "v001", "v004", "v005"]


def lose_records(folder: Path) -> None:
    (folder / read_index(folder).shards[1].records_name).unlink()


def change_records(folder: Path) -> None:
    path = folder / read_index(folder).shards[1].records_name
    data = bytearray(path.read_bytes())
    data[10] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    "change", [damage.lose_sidecar, damage.other_offset, lose_records, change_records]
)
def test_what_index_can_make_anew_is_not_left_out(foreign, tmp_path, manifest, change):
    """The shards are whole: a repair would throw samples away that are there."""
    whole = content(foreign)
    change(foreign)
    found = inspect_shards(foreign, quick=True)
    name = read_index(foreign).shards[1].name
    assert found.stale == [name]
    assert found.num_good < NUM_CLIPS
    assert any(fault.shard == name and "`gcg index`" in fault.reason for fault in found.faults)
    with pytest.raises(DataError, match=rf"{name} is whole.* run `gcg index {foreign}` first"):
        repair(found, tmp_path / "new")
    index(foreign, manifest)
    assert not inspect_shards(foreign).faults
    unequal = {name for name, data in content(foreign).items() if data != whole.get(name)}
    assert unequal == {"gcg.index.journal.jsonl"}


# At a URL ---------------------------------------------------------------------------------------


@pytest.fixture
def options(tmp_path) -> StorageOptions:
    return StorageOptions(cache_dir=tmp_path / "cache", retries=0, backoff_s=0.001, timeout_s=5)


@pytest.mark.parametrize("format", FORMATS)
def test_at_a_url_damaged_and_whole(tmp_path, options, format):
    folder = pack_clips(tmp_path, [1] * 8, format=format).folder
    names = [shard.name for shard in read_index(folder).shards]
    with http_server(tmp_path) as proxy:
        place = f"{proxy.url}/{folder.name}"
        found = inspect_shards(place, options)
        assert (found.faults, found.num_good, found.place) == ([], 8, place)
        assert [proxy.gets(name) for name in names] == [1] * 4
        # Training finds the shards in the cache.
        assert len(list(options.cache_dir.glob("*-shard*"))) == 4

        damage.garbage_in_the_middle(folder)
        os.truncate(folder / names[2], read_entries(folder, read_index(folder).shards[2])[1]
                    .video.offset + 99)  # fmt: skip
        (folder / names[3]).unlink()
        fresh = StorageOptions(cache_dir=tmp_path / "other", retries=0, timeout_s=5)
        found = inspect_shards(place, fresh)
        assert [(f.shard, f.key) for f in found.faults] == [
            (names[1], None), (names[1], "v002"), (names[2], None), (names[2], "v005"),
            (names[3], None),
        ]  # fmt: skip
        assert found.faults[-1].reason.startswith("nothing there: all its 2 samples are lost")
        repaired = repair(found, tmp_path / "new")
        assert (repaired.num_samples, repaired.num_left_out) == (4, 4)
    assert ids(tmp_path / "new") == ["v000", "v001", "v003", "v004"]
    assert not inspect_shards(tmp_path / "new").faults


def test_a_copy_in_the_cache_that_went_bad_is_fetched_again(tmp_path, options):
    folder = pack_clips(tmp_path, [1] * 4).folder
    with http_server(tmp_path) as proxy:
        place = f"{proxy.url}/{folder.name}"
        inspect_shards(place, options, quick=True)
        (copy,) = options.cache_dir.glob("*-shard-000001.tar")
        data = bytearray(copy.read_bytes())
        data[len(data) // 2] ^= 1
        copy.write_bytes(data)
        assert not inspect_shards(place, options).faults
        assert proxy.gets("shard-000001.tar") == 2


def test_a_server_that_is_down_is_no_damage(tmp_path, options):
    folder = pack_clips(tmp_path, [1] * 4).folder
    with http_server(tmp_path) as proxy:
        place = f"{proxy.url}/{folder.name}"
        proxy.inject("shard-000001.tar", "status", times=99, status=503)
        with pytest.raises(StorageError, match=r"shard-000001\.tar: .*503"):
            inspect_shards(place, options)


def test_the_command_at_a_url(tmp_path, capsys):
    folder = pack_clips(tmp_path, [1] * 4).folder
    with http_server(tmp_path) as proxy:
        place, cache = f"{proxy.url}/{folder.name}", ["--cache-dir", str(tmp_path / "cache")]
        assert main(["inspect", place, *cache]) == 0
        assert f"{place}: 2 shards, 4 clips, 4 decode (4 h264)" in capsys.readouterr().out
        assert main(["inspect", place, *cache, "--repair", str(tmp_path / "new")]) == 0
        assert "the data are the same" in capsys.readouterr().out
        assert main(["inspect", place, *cache, "--cache-gb", "0"]) == 2
        assert main(["inspect", f"{proxy.url}/nowhere", *cache]) == 2
        assert "not a complete packed data set" in capsys.readouterr().err


# Compressed, and features -----------------------------------------------------------------------


@needs_mds
# streaming leaves closing the compressed file to the garbage collector.
@pytest.mark.filterwarnings("ignore:unclosed file .*mds.zstd:ResourceWarning")
@pytest.mark.parametrize("at_url", [False, True])
def test_compressed_mds(tmp_path, manifest, options, at_url):
    folder = tmp_path / "mds"
    rows = [{"id": f"v{n:03d}", "clip": clip_bytes(n), "label": n} for n in range(NUM_CLIPS)]
    columns = {"id": "str", "clip": "bytes", "label": "int"}
    write_mds(folder, columns, rows, compression="zstd", hashes=["sha1"])
    index(folder, manifest)
    archives = sorted(folder.glob("*.mds.zstd"))
    lost = [shard.num_samples for shard in read_index(folder).shards][1]
    with http_server(tmp_path) as proxy:
        place = f"{proxy.url}/{folder.name}" if at_url else str(folder)
        assert not inspect_shards(place, options).faults
        archives[1].write_bytes(archives[1].read_bytes()[:-20])
        fresh = StorageOptions(cache_dir=tmp_path / "other" / "shards", retries=0)
        found = inspect_shards(place, fresh)
        ((key, reason),) = told(found)
        assert key is None
        assert "cannot be fetched and unpacked" in reason
        assert found.num_good == NUM_CLIPS - lost
        repaired = repair(found, tmp_path / "new")
    assert repaired.num_left_out == lost
    assert len(ids(tmp_path / "new")) == NUM_CLIPS - lost
    assert list((tmp_path / "new").glob("*.mds"))


def test_feature_shards(tmp_path):
    import torch

    from dataloaders.feature_info import FeatureInfo
    from dataloaders.index import DatasetIndex, write_index
    from dataloaders.ingest import Clip
    from dataloaders.shard_writer import TarShardWriter

    folder = tmp_path / "features"
    folder.mkdir()
    writer = TarShardWriter(folder, 1 << 20)
    frames = VideoFeatures(torch.ones(4, 1, 6), None, torch.arange(4).double())
    wide = VideoFeatures(torch.ones(4, 1, 7), None, torch.arange(4).double())
    members = [pack_features(frames, "fp16"), pack_unreadable("torn"), pack_features(wide, "fp16")]
    for number, data in enumerate(members):
        record = video(number).model_copy(update={"frame_count": 4})
        writer.add(Clip(f"v{number:03d}", "safetensors", data, record))
    writer.finish()
    info = FeatureInfo(tokens=1, width=6, embedding_width=6, dtype="fp16", encoder="mine")
    write_index(folder, DatasetIndex(tuple(writer.shards), "", features=info))
    assert not inspect_shards(folder, quick=True).faults
    found = inspect_shards(folder)
    assert [key for key, _ in told(found)] == ["v001", "v002"]
    assert found.codecs == {"features": 1}
    repair(found, tmp_path / "new")
    assert read_index(tmp_path / "new").features == info
    assert ids(tmp_path / "new") == ["v000"]
