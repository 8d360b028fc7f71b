"""Verifying what lies at a URL, compressed shards, features."""

from __future__ import annotations

import os

import pytest

from dataloaders.errors import StorageError
from dataloaders.features import VideoFeatures, pack_features, pack_unreadable
from dataloaders.index import read_entries, read_index
from dataloaders.inspect_shards import inspect_shards
from dataloaders.repair import repair
from dataloaders.storage.options import StorageOptions
from launcher.cli import main
from tests.dataloaders import damage
from tests.dataloaders.foreign_shards import write_mds
from tests.dataloaders.inspect_fixtures import NUM_CLIPS, ids, index, manifest, told
from tests.dataloaders.s3_server import http_server
from tests.dataloaders.shard_fixtures import FORMATS, clip_bytes, needs_mds, pack_clips, video

__all__ = ["manifest"]  # fixtures

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
