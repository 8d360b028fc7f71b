"""`gcg extract`: what it writes, and what it keeps of what is there."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from dataloaders.errors import DataError
from dataloaders.index import read_index
from dataloaders.labels import LabelSet
from dataloaders.open_source import open_source
from launcher.cli import main
from launcher.config import dump, load_run_config
from launcher.extract import extract
from launcher.labelling.label import label_data

from .conftest import MODEL
from .feature_runs import assert_same_but_frames, clips_config, micro_batches


def test_shards_mirror_the_clips_and_labels_come_along(packed: Path, extracted: Path):
    with open_source(packed / "train") as clips, open_source(extracted / "half") as features:
        assert [s.name for s in clips.shards] == [s.name for s in features.shards]
        for number in range(len(clips.shards)):
            keys = [entry.key for entry in clips.entries(number)]
            assert [entry.key for entry in features.entries(number)] == keys
            assert clips.read_record(number, clips.entries(number)[0]) == features.read_record(
                number, features.entries(number)[0]
            )
        labels = LabelSet(extracted / "half" / "labels" / "topk")
        labels.check(data=features.fingerprint)
        stem = clips.shards[0].stem
        assert dict(labels.for_shard(stem)) == dict(
            LabelSet(packed / "train" / "labels" / "topk").for_shard(stem)
        )


def test_labels_of_features_are_those_of_the_clips(packed: Path, extracted: Path, tmp_path: Path):
    copy = shutil.copytree(extracted / "val", tmp_path / "val")
    shutil.rmtree(copy / "labels")
    config = clips_config(packed, tmp_path).model
    folder = label_data(copy, config).folder
    ours, theirs = LabelSet(folder), LabelSet(packed / "val" / "labels" / "topk")
    assert ours.meta.encoder == theirs.meta.encoder
    with open_source(copy) as source:
        for shard in source.shards:
            rows, expected = ours.for_shard(shard.stem), theirs.for_shard(shard.stem)
            assert {k: v.moments for k, v in rows.items()} == {
                k: v.moments for k, v in expected.items()
            }


def test_what_is_there_is_not_made_again(packed: Path, extracted: Path, tmp_path: Path):
    out = shutil.copytree(extracted / "train", tmp_path / "out")
    config = clips_config(packed, tmp_path)
    before = read_index(out)
    assert extract(config, "train", out, dtype="fp32").made == 0
    victim = min(out.glob("*.tar"))
    lost = len(victim.with_name(f"{victim.stem}.index.jsonl").read_text().splitlines())
    victim.unlink()
    (out / "index.json").unlink()
    victim.with_name(f"{victim.name}.partial").write_bytes(b"cut short")
    assert extract(config, "train", out, dtype="fp32").made == lost
    assert read_index(out) == before
    with pytest.raises(DataError, match="--overwrite"):
        extract(config, "train", out)
    assert extract(config, "train", out, overwrite=True).made > lost


def test_parts_together_make_the_whole(packed: Path, extracted: Path, tmp_path: Path):
    config, out = clips_config(packed, tmp_path), tmp_path / "out"
    assert extract(config, "train", out, dtype="fp32", part=(2, 2)).num_bytes is None
    assert extract(config, "train", out, dtype="fp32", part=(1, 2)).num_bytes is not None
    assert read_index(out) == read_index(extracted / "train")


def test_a_bad_clip_keeps_its_place_and_is_a_bad_sample(packed: Path, tmp_path: Path):
    data = shutil.copytree(packed / "train", tmp_path / "data")
    with open_source(data) as source:
        entry = source.entries(0)[1]
        tar = data / source.shards[0].name
        damaged = bytearray(tar.read_bytes())
        damaged[entry.video.offset + entry.video.size // 2] ^= 0xFF
        tar.write_bytes(bytes(damaged))
    out = tmp_path / "out"
    sections: dict[str, Any] = {"model": {**MODEL, "mode": "uniform"}}
    sections["data"] = {"train": str(data), "max_bad_share": 1.0}
    clips = clips_config(packed, tmp_path, **sections)
    assert extract(clips, "train", out).bad == 1
    model = {**sections["model"], "input": "features"}
    features = clips_config(
        packed, tmp_path, data={"train": str(out), "max_bad_share": 1.0}, model=model
    )
    kept = []
    for name, config in {"clips": clips, "features": features}.items():
        kept.append(micro_batches(config, tmp_path / name, 12)[1])
    for one, other in zip(*kept, strict=True):
        assert_same_but_frames(one, other)
    clips_bad, features_bad = (
        (tmp_path / name / "quarantine.jsonl").read_text().splitlines()
        for name in ("clips", "features")
    )
    assert len(clips_bad) == len(features_bad) > 0
    assert all("could not be read" in line for line in features_bad)


def test_the_command(packed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run = tmp_path / "run.yaml"
    run.write_text(dump(clips_config(packed, tmp_path)))
    out = tmp_path / "out"
    assert main(["extract", str(run), str(out), "--split", "val"]) == 0
    said = capsys.readouterr().out
    assert "carried over" in said
    assert "model.input=features" in said
    assert main(["extract", str(run), str(tmp_path / "x"), "--part", "3/2"]) == 2
    again = ["extract", str(run), str(tmp_path / "x"), "--set", f"data.train={out}"]
    assert main(again) == 2
    assert "holds features already" in capsys.readouterr().err
    assert load_run_config(run).model.input == "video"
