"""Verifying packed folders, and packing anew what is good of a damaged one."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from dataloaders.container import VideoInfo
from dataloaders.errors import DataError
from dataloaders.index import read_index
from dataloaders.inspect_shards import inspect_shards
from dataloaders.left_out import QUARANTINE_NAME
from dataloaders.repair import repair
from dataloaders.shard_source import ShardSource
from launcher.cli import main
from tests.dataloaders import test_damage_table as damage
from tests.dataloaders.loader_fixtures import asked, budget, make, take
from tests.dataloaders.shard_fixtures import pack_clips

NUM_CLIPS = 8


@pytest.fixture
def packed(tmp_path) -> Path:
    return pack_clips(tmp_path, [1] * NUM_CLIPS).folder


def keys(folder: Path) -> list[str]:
    with ShardSource(folder) as source:
        return [e.key for n in range(len(source.shards)) for e in source.entries(n)]


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
        [(None, "index.json says"), ("v003", "99 bytes")],
    ),
    "lost": (damage.lose_shard, {"v002", "v003"}, [(None, "all its 2 samples are lost")]),
    "no sidecar": (damage.lose_sidecar, set(), [(None, "index.jsonl: cannot be read")]),
    "half a sidecar": (damage.lose_line_of_sidecar, set(), [(None, "1 samples, 1 questions")]),
    "other checksum": (damage.other_checksum, set(), [("v002", "another place, size or checksum")]),
    "other offset": (damage.other_offset, set(), [("v002", "another place, size or checksum")]),
    "sidecar and tar": (
        damage.lose_sidecar_and_cut,
        {"v002", "v003"},
        [(None, "cannot be read"), (None, "index.json says"), (None, "")],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("quick", [False, True])
def test_faults_are_listed_and_the_rest_is_packed_anew(packed, tmp_path, name, quick):
    change, lost, expected = CASES[name]
    change(packed)
    before = {path.name: path.read_bytes() for path in packed.iterdir()}
    done: list[int] = []
    found = inspect_shards(packed, quick=quick, progress=done.append)
    assert sum(done) == NUM_CLIPS
    assert [fault.key for fault in found.faults] == [key for key, _ in expected]
    for fault, (_, words) in zip(found.faults, expected, strict=True):
        assert fault.shard == "shard-000001.tar"
        assert words in fault.reason
        assert "\n" not in fault.reason
    good = [f"v{n:03d}" for n in range(NUM_CLIPS) if f"v{n:03d}" not in lost]
    assert [entry.key for entries in found.good for entry in entries] == good
    assert found.codecs == {"h264": len(good)}

    repaired = repair(found, tmp_path / "new")
    assert (repaired.num_samples, repaired.num_left_out) == (len(good), len(lost))
    assert repaired.same == (not lost)
    assert keys(tmp_path / "new") == good
    assert not inspect_shards(tmp_path / "new").faults
    rows = [json.loads(x) for x in (tmp_path / "new" / QUARANTINE_NAME).read_text().splitlines()]
    assert [(row["stage"], row["data"], row["shard"], row["key"]) for row in rows] == [
        ("repair", str(packed), "shard-000001.tar", key) for key, _ in expected
    ]
    assert before == {path.name: path.read_bytes() for path in packed.iterdir()}


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


def test_a_clip_that_does_not_decode_and_one_that_hangs(tmp_path, packed, monkeypatch):
    """Both have the right checksums, so ``quick`` does not see them."""
    release = threading.Event()
    from dataloaders import inspect_shards as module

    decode_test = module.decode_test

    def stuck(data: bytes, *, name: str) -> VideoInfo:
        if name == "v005.mp4":
            release.wait()
        return decode_test(data, name=name)

    monkeypatch.setattr(module, "decode_test", stuck)
    try:
        found = inspect_shards(packed, decode_timeout_s=2.0)
    finally:
        release.set()
    ((shard, key, reason),) = [(f.shard, f.key, f.reason) for f in found.faults]
    assert (shard, key) == ("shard-000002.tar", "v005")
    assert "--decode-timeout = 2 s" in reason
    assert not inspect_shards(packed, quick=True).faults


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


def test_the_command(packed, tmp_path, capsys):
    assert main(["inspect", str(packed)]) == 0
    assert "4 shards, 8 clips, 8 decode (8 h264); 0 faults" in capsys.readouterr().out
    damage.bit_in_a_record(packed)
    assert main(["inspect", str(packed), "--quick"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("shard-000001.tar: (shard): SHA-256")
    assert lines[1].startswith("shard-000001.tar: v002: v002.json: ")
    assert "--repair OUT" in lines[-1]
    new = tmp_path / "new"
    assert main(["inspect", str(packed), "--repair", str(new), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["samples"], facts["good"], len(facts["faults"])) == (8, 7, 2)
    assert facts["repaired"] == {
        "folder": str(new), "num_samples": 7, "num_left_out": 1, "same": False
    }  # fmt: skip
    assert main(["inspect", str(packed), "--repair", str(new)]) == 2
    assert "holds a data set already" in capsys.readouterr().err
    assert main(["inspect", str(packed), "--repair", str(tmp_path / "other")]) == 0
    assert f"gcg label {tmp_path / 'other'}" in capsys.readouterr().out
    assert main(["inspect", str(packed), str(new), "--repair", str(new)]) == 2
    assert "one packed folder" in capsys.readouterr().err
    assert main(["inspect", str(packed), "--quick", "--repair", str(new)]) == 2
    assert main(["inspect", str(tmp_path / "clips")]) == 2
    assert "not a complete packed data set" in capsys.readouterr().err
    assert main(["inspect", str(new), str(packed), "--quick"]) == 1
