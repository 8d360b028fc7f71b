"""Verifying packed folders of each format, and packing anew what is good of a damaged one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dataloaders.errors import DataError
from dataloaders.index import INDEX_NAME, DatasetIndex, index_path, read_index, write_index
from dataloaders.ingest import Clip
from dataloaders.inspect_shards import inspect_shards
from dataloaders.left_out import QUARANTINE_NAME
from dataloaders.open_source import open_source
from dataloaders.repair import repair
from dataloaders.shard_writer import open_writer
from launcher.cli import main
from tests.dataloaders import damage
from tests.dataloaders.clips import endless_clip
from tests.dataloaders.loader_fixtures import asked, budget, make, take
from tests.dataloaders.shard_fixtures import FORMATS, clip_bytes, needs_mds, pack_clips, video

NUM_CLIPS = 8
by_format = pytest.mark.parametrize("format", FORMATS)


@pytest.fixture(params=FORMATS)
def packed(tmp_path, request) -> Path:
    return pack_clips(tmp_path, [1] * NUM_CLIPS, format=request.param).folder


def samples_of(folder: Path) -> list:
    with open_source(folder) as source:
        return [
            source.read(n, entry) for n in range(len(source.shards)) for entry in source.entries(n)
        ]


def keys(folder: Path) -> list[str]:
    return [sample.key for sample in samples_of(folder)]


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# name -> (damage, keys of the samples that are lost, (key, words) of each fault)
CASES = {
    "garbage in the middle": (
        damage.garbage_in_the_middle,
        {"v002"},
        [(None, "SHA-256"), ("v002", "CRC-32")],
    ),
    "a bit of a record": (
        damage.bit_in_a_record, {"v002"}, [(None, "SHA-256"), ("v002", "v002.json: ")],
    ),
    "cut short": (
        damage.cut_shard,
        {"v003"},
        [(None, "bytes, the index says"), ("v003", "99 bytes")],
    ),
    "lost": (damage.lose_shard, {"v002", "v003"}, [(None, "all its 2 samples are lost")]),
    "no sidecar": (damage.lose_sidecar, set(), [(None, "index.jsonl: cannot be read")]),
    "half a sidecar": (damage.lose_line_of_sidecar, set(), [(None, "1 samples, 1 questions")]),
    "other checksum": (damage.other_checksum, set(), [("v002", "another place, size or checksum")]),
    "other offset": (damage.other_offset, set(), [("v002", "another place, size or checksum")]),
    "sidecar and shard": (
        damage.lose_sidecar_and_cut,
        {"v002", "v003"},
        [(None, "cannot be read"), (None, "the index says"), (None, "")],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("quick", [False, True])
def test_faults_are_listed_and_the_rest_is_packed_anew(packed, tmp_path, name, quick):
    change, lost, expected = CASES[name]
    shard = read_index(packed).shards[1].name
    whole = content(packed)
    change(packed)
    before = content(packed)
    done: list[int] = []
    found = inspect_shards(packed, quick=quick, progress=done.append)
    assert sum(done) == NUM_CLIPS
    assert [fault.key for fault in found.faults] == [key for key, _ in expected]
    for fault, (_, words) in zip(found.faults, expected, strict=True):
        assert fault.shard == shard
        assert words in fault.reason
        assert "\n" not in fault.reason
    good = [f"v{n:03d}" for n in range(NUM_CLIPS) if f"v{n:03d}" not in lost]
    assert [entry.key for entries in found.good for entry in entries] == good
    assert found.codecs == {"h264": len(good)}
    assert not found.stale

    new = tmp_path / "new"
    repaired = repair(found, new)
    assert (repaired.num_samples, repaired.num_left_out) == (len(good), len(lost))
    assert repaired.same == (not lost)
    assert keys(new) == good
    if not lost:  # the shards and their sidecars again, to the byte
        ours = index_path(new).name
        assert content(new).keys() == whole.keys()
        for file, data in content(new).items():
            assert data == whole[file] or file in (ours, QUARANTINE_NAME)
    assert not inspect_shards(new).faults
    rows = [json.loads(line) for line in (new / QUARANTINE_NAME).read_text().splitlines()]
    assert [(row["stage"], row["data"], row["shard"], row["key"]) for row in rows] == [
        ("repair", str(packed), shard, key) for key, _ in expected
    ]
    assert before == content(packed)


@by_format
@pytest.mark.parametrize("name", damage.CLIPS)
def test_clips_that_are_whole_in_the_shard_but_do_not_decode(tmp_path, format, name):
    """Their checksums are right, so ``quick`` does not see them."""
    folder, (bad, words) = tmp_path / "packed", damage.CLIPS[name]
    folder.mkdir()
    writer = open_writer(format, folder, 1 << 20)
    for number in range(4):
        data = bad() if number == 2 else clip_bytes(number)
        record = video(number, 1).model_copy(update={"frame_count": 16})
        writer.add(Clip(f"v{number:03d}", "mp4", data, record))
    writer.finish()
    write_index(folder, DatasetIndex(tuple(writer.shards), "", format))
    assert not inspect_shards(folder, quick=True).faults
    found = inspect_shards(folder)
    ((shard, key, reason),) = [(f.shard, f.key, f.reason) for f in found.faults]
    assert (shard, key) == (writer.shards[0].name, "v002")
    assert words in reason
    repair(found, tmp_path / "new")
    assert keys(tmp_path / "new") == ["v000", "v001", "v003"]
    assert not inspect_shards(tmp_path / "new").faults


@by_format
def test_a_clip_that_decodes_for_too_long(tmp_path, capsys, format):
    """By the command, with the decoder that inspecting has: the clip is a minute's work."""
    folder = tmp_path / "packed"
    folder.mkdir()
    writer = open_writer(format, folder, 1 << 30)
    for number in range(3):
        data = endless_clip() if number == 1 else clip_bytes(number)
        record = video(number, 1).model_copy(update={"frame_count": 16})
        writer.add(Clip(f"v{number:03d}", "mp4", data, record))
    writer.finish()
    write_index(folder, DatasetIndex(tuple(writer.shards), "", format))
    command = ["inspect", str(folder), "--decode-timeout", "2"]
    assert main(command) == 1
    fault, total, _ = capsys.readouterr().out.splitlines()
    assert fault.startswith(f"{writer.shards[0].name}: v001: v001.mp4: decoding took longer than ")
    assert "--decode-timeout = 2 s" in fault
    assert "3 clips, 2 decode" in total
    assert main([*command, "--repair", str(tmp_path / "new")]) == 0
    assert keys(tmp_path / "new") == ["v000", "v002"]


def change_index(folder: Path, **changes: object) -> None:
    path = index_path(folder)
    body = json.loads(path.read_text())
    body["shards"][1] |= changes
    path.write_text(json.dumps(body))


def test_an_index_that_disagrees(packed, tmp_path):
    shard = read_index(packed).shards[1].name
    whole = index_path(packed).read_bytes()
    for changes, words, samples in (
        ({"bytes": 5}, "bytes, the index says 5", NUM_CLIPS),
        ({"sha256": "0" * 64}, "SHA-256 is not the one in the index", NUM_CLIPS),
        ({"num_samples": 7}, "the index says 7 samples and 2 questions", NUM_CLIPS + 5),
        ({"question_counts": {"1": 3}}, "2 samples, 2 questions; ", NUM_CLIPS),
    ):
        change_index(packed, **changes)
        found = inspect_shards(packed, quick=True)
        assert any(f.shard == shard and words in f.reason for f in found.faults), found.faults
        assert (found.num_samples, found.num_good) == (samples, NUM_CLIPS)
        index_path(packed).write_bytes(whole)
    assert not inspect_shards(packed, quick=True).faults


@needs_mds
def test_streamings_own_index_is_held_against_ours(tmp_path):
    """Training reads by ours, a StreamingDataset by its own."""
    folder = pack_clips(tmp_path, [1] * NUM_CLIPS, format="mds").folder
    path, whole = folder / INDEX_NAME, (folder / INDEX_NAME).read_text()

    def reasons() -> list[str]:
        found = inspect_shards(folder, quick=True)
        assert found.num_good == NUM_CLIPS
        assert {fault.shard for fault in found.faults} == {INDEX_NAME}
        return [fault.reason for fault in found.faults]

    body = json.loads(whole)
    body["shards"][1]["samples"] = 1
    body["shards"][2]["raw_data"]["hashes"]["sha256"] = "0" * 64
    del body["shards"][3]
    path.write_text(json.dumps(body))
    few, other, lost = reasons()
    assert few.startswith("shard.00001.mds: 1 samples and ")
    assert other == "shard.00002.mds: has another SHA-256 than our index"
    assert lost.startswith("has no shard.00003.mds")
    path.write_text(whole[:-40])
    (damaged,) = reasons()
    assert "not an MDS index" in damaged
    path.unlink()
    (missing,) = reasons()
    assert "cannot be read" in missing
    assert repair(inspect_shards(folder), tmp_path / "new").same
    assert (tmp_path / "new" / INDEX_NAME).read_text() == whole


def test_training_on_the_repaired_folder(packed, tmp_path):
    damage.garbage_in_the_middle(packed)
    repair(inspect_shards(packed), tmp_path / "new")
    with make(tmp_path / "new", quarantine=budget(max_bad_share=0.0),
              plan={"num_streams": 1, "global_batch": 7, "block_shards": 4}) as loader:  # fmt: skip
        videos = {video for video, _ in asked(take(loader, loader.plan.steps_per_epoch(0)))}
    assert videos == {f"v{n:03d}" for n in range(NUM_CLIPS)} - {"v002"}


def test_a_whole_folder(packed):
    found = inspect_shards(packed)
    assert not found.faults
    assert (found.num_samples, found.num_good) == (NUM_CLIPS, NUM_CLIPS)


def test_where_a_repair_may_not_go(packed, tmp_path):
    found = inspect_shards(packed, quick=True)
    with pytest.raises(DataError, match="the damaged folder itself"):
        repair(found, packed)
    repair(found, tmp_path / "new")
    with pytest.raises(DataError, match="holds a data set already"):
        repair(found, tmp_path / "new")
    for shard in read_index(packed).shards:
        (packed / shard.name).unlink()
    with pytest.raises(DataError, match="not one good sample"):
        repair(inspect_shards(packed), tmp_path / "newer")


def test_a_clip_that_changes_between_the_two_is_no_good_sample(packed, tmp_path):
    found = inspect_shards(packed, quick=True)
    damage.bit_in_a_record(packed)
    with pytest.raises(DataError, match=r"v002: was good and is not any more .*inspect it again"):
        repair(found, tmp_path / "new")
    with pytest.raises(DataError, match="not a complete packed data set"):
        open_source(tmp_path / "new")


def test_the_command(packed, tmp_path, capsys):
    shard = read_index(packed).shards[1].name
    assert main(["inspect", str(packed)]) == 0
    assert "4 shards, 8 clips, 8 decode (8 h264); 0 faults" in capsys.readouterr().out
    damage.bit_in_a_record(packed)
    assert main(["inspect", str(packed), "--quick"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"{shard}: (shard): SHA-256")
    assert lines[1].startswith(f"{shard}: v002: v002.json: ")
    assert "--repair OUT" in lines[-1]
    new = tmp_path / "new"
    assert main(["inspect", str(packed), "--repair", str(new), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["samples"], facts["good"], len(facts["faults"])) == (8, 7, 2)
    assert facts["format"] == read_index(new).format == read_index(packed).format
    assert facts["repaired"] == {
        "folder": str(new), "num_samples": 7, "num_left_out": 1, "same": False
    }  # fmt: skip
    assert main(["inspect", str(packed), "--repair", str(new)]) == 2
    assert "holds a data set already" in capsys.readouterr().err
    assert main(["inspect", str(packed), "--repair", str(tmp_path / "other")]) == 0
    assert f"gcg label {tmp_path / 'other'}" in capsys.readouterr().out
    assert main(["inspect", str(packed), str(new), "--repair", str(new)]) == 2
    assert "one packed folder" in capsys.readouterr().err
    assert main(["inspect", str(packed), "--repair", "s3://bucket/new"]) == 2
    assert "--repair: s3://bucket/new: is a URL" in capsys.readouterr().err
    assert main(["inspect", str(packed), "--quick", "--repair", str(new)]) == 2
    assert main(["inspect", str(tmp_path / "clips")]) == 2
    assert "not a complete packed data set" in capsys.readouterr().err
    assert main(["inspect", str(new), str(packed), "--quick"]) == 1
