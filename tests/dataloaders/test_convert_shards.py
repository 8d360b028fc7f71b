"""From tars to MDS and back: bytes, shards, labels, and what cannot be converted."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from dataloaders.convert_shards import ConvertReport, convert
from dataloaders.errors import DataError
from dataloaders.labels import LabelSet
from dataloaders.open_source import open_source
from dataloaders.shards import QUARANTINE_NAME
from tests.dataloaders.loader_fixtures import FRAMES, assert_same, damage, make, take
from tests.dataloaders.shard_fixtures import label_all, needs_mds, pack_clips

COUNTS = [1, 2, 3, 4, 5, 2, 3]


@pytest.fixture(scope="module")
def tars(tmp_path_factory) -> Path:
    folder = pack_clips(tmp_path_factory.mktemp("wds"), COUNTS).folder
    label_all(open_source(folder), FRAMES)
    return folder


def to(format: str, place: Path, out: Path, **changes) -> ConvertReport:
    source = {"wds": "mds", "mds": "wds"}[format]
    return convert(place, out, **{"source_format": source, "format": format, **changes})


def shard_bytes(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("shard-*")}


@needs_mds
def test_there_and_back_gives_the_same_bytes_and_batches(tars, tmp_path):
    seen = []
    there = to("mds", tars, tmp_path / "mds", progress=lambda *at: seen.append(at))
    assert seen == [(i + 1, len(COUNTS)) for i in range(len(COUNTS))]
    assert (there.num_samples, there.num_questions) == (len(COUNTS), sum(COUNTS))
    assert there.labels == ("test",)
    back = to("wds", tmp_path / "mds", tmp_path / "back")
    assert shard_bytes(tmp_path / "back") == shard_bytes(tars)
    assert [s.sha256 for s in back.shards] == [s.sha256 for s in open_source(tars).shards]
    sets = [LabelSet(folder / "labels" / "test") for folder in (tars, tmp_path / "mds")]
    with make(tars, labels=sets[0]) as one, make(tmp_path / "mds", labels=sets[1]) as two:
        assert_same(take(one, 4), take(two, 4))
    assert to("mds", tars, tmp_path / "mds").reused


@needs_mds
def test_damaged_samples_are_left_out_and_listed(tars, tmp_path):
    shutil.copytree(tars, tmp_path / "hurt")
    damage(tmp_path / "hurt", {"v002", "v003", "v005"})  # all of shard 1, half of shard 2
    report = to("mds", tmp_path / "hurt", tmp_path / "mds")
    assert [bad.key for bad in report.bad] == ["v002", "v003", "v005"]
    lines = (tmp_path / "mds" / QUARANTINE_NAME).read_text().splitlines()
    assert [json.loads(line)["shard"] for line in lines] == [
        "shard-000001.tar", "shard-000001.tar", "shard-000002.tar",
    ]  # fmt: skip
    labels = LabelSet(tmp_path / "mds" / "labels" / "test")
    with make(tmp_path / "mds", labels=labels) as loader:
        assert len(take(loader, 2)) == 2


@needs_mds
def test_labels_for_other_data_are_not_copied(tars, tmp_path, caplog):
    shutil.copytree(tars, tmp_path / "in")
    meta = tmp_path / "in" / "labels" / "test" / "meta.json"
    meta.write_text(meta.read_text().replace('"data": "', '"data": "other'))
    report = to("mds", tmp_path / "in", tmp_path / "mds")
    assert report.labels == ()
    assert not (tmp_path / "mds" / "labels").exists()
    assert "label set test was not copied" in caplog.text


def test_what_is_refused(tars, tmp_path):
    with pytest.raises(DataError, match="read and written at once"):
        convert(tars, tars / ".." / tars.name, source_format="wds", format="mds")
    with pytest.raises(DataError, match="holds wds, not mds; use --from wds"):
        to("wds", tars, tmp_path / "out")
    with pytest.raises(DataError, match="no such folder"):
        to("mds", tmp_path / "nowhere", tmp_path / "out")
    other = pack_clips(tmp_path, [1, 2]).folder
    with pytest.raises(DataError, match=r"made from another input.*--overwrite"):
        convert(tars, other, source_format="wds", format="wds")
    report = convert(tars, other, source_format="wds", format="wds", overwrite=True)
    assert shard_bytes(report.folder) == shard_bytes(tars)
