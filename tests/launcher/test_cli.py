"""The command line: good input does its stage, bad input is one clear line and exit code 2."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from dataloaders.manifest import read_manifest
from dataloaders.shard_source import ShardSource
from launcher.cli import main
from tests.launcher.conftest import run_tree

Run = Callable[..., list[str]]


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command that must be refused; the lines it says why in."""

    def run(*arguments: object) -> list[str]:
        capsys.readouterr()
        assert main([str(argument) for argument in arguments]) == 2
        lines = capsys.readouterr().err.splitlines()
        errors = [line for line in lines if line.startswith("error: ")]
        assert errors
        assert not any("Traceback" in line for line in lines)
        return errors

    return run


def write_config(packed: Path, tmp_path: Path, **sections: dict) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(run_tree(packed, tmp_path / "runs", **sections)))
    return path


def test_from_sample_data_to_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    corpus = tmp_path / "corpus"
    assert main(["sample-data", str(corpus), "--videos", "4", "--questions-per-video", "2"]) == 0
    manifests = [str(corpus / f"{split}.jsonl") for split in ("train", "val", "test")]
    shards = tmp_path / "shards"
    assert main(["pack", *manifests, str(shards), "--min-shards", "2"]) == 0
    assert main(["label", str(shards / "train"), str(shards / "val")]) == 0
    said = capsys.readouterr().out
    assert f"{shards / 'train'}: packed 2 videos, 4 questions, 2 shards; 0 clips left out" in said
    assert f"{shards / 'train' / 'labels' / 'topk'}: 4 labels" in said
    # Again: everything is kept.
    assert main(["pack", *manifests, str(shards), "--min-shards", "2"]) == 0
    assert main(["label", str(shards / "train")]) == 0
    said = capsys.readouterr().out
    assert "already packed" in said
    assert "there already" in said


def test_inspect_prints_json(packed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    video = next(iter(read_manifest(packed / "raw" / "train.jsonl")))
    assert main(["inspect", str(packed / "raw" / video.path), "--frames", "5", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["frame_count"] == video.frame_count
    assert (facts["width"], facts["height"]) == (video.width, video.height)
    assert len(facts["indices"]) == len(facts["sha256"]) == 5
    assert main(["inspect", str(packed / "raw" / video.path)]) == 0
    assert "frame_count" in capsys.readouterr().out


def test_inspect_of_no_video(refused: Run, tmp_path: Path) -> None:
    garbage = tmp_path / "clip.mp4"
    garbage.write_bytes(b"no video" * 100)
    for path in (garbage, tmp_path / "missing.mp4"):
        (line,) = refused("inspect", path, "--json")
        assert str(path) in line


def test_a_manifest_row_without_its_video(
    packed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One missing clip is left out and listed; the others are packed."""
    raw = packed / "raw"
    rows = [json.loads(line) for line in (raw / "val.jsonl").read_text().splitlines()]
    there = json.loads((raw / "train.jsonl").read_text().splitlines()[0])
    rows[0]["path"] = "videos/lost.mp4"
    manifest = raw / "one-lost.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in (rows[0], there)))
    out = tmp_path / "out"
    assert main(["pack", str(manifest), str(out)]) == 0
    assert "packed 1 videos" in capsys.readouterr().out
    (bad,) = (json.loads(line) for line in (out / "quarantine.jsonl").read_text().splitlines())
    assert "no such file" in json.dumps(bad)


def test_a_manifest_where_options_are_missing(refused: Run, packed: Path, tmp_path: Path) -> None:
    row = json.loads((packed / "raw" / "val.jsonl").read_text().splitlines()[0])
    row["questions"][0]["options"] = None
    manifest = tmp_path / "broken.jsonl"
    manifest.write_text(json.dumps(row) + "\n")
    (line,) = refused("pack", manifest, tmp_path / "out", "--max-bad-questions", "0")
    assert f"{manifest}:1" in line
    assert "answer_index needs options" in line
    assert "a share, 0 to 1" in refused("pack", manifest, tmp_path, "--max-bad-questions", "5")[0]


def test_pack_leaves_out_a_question_and_transcodes(
    refused: Run, packed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw, out = packed / "raw", tmp_path / "out"
    row = json.loads((raw / "val.jsonl").read_text().splitlines()[0])
    row["path"] = str((raw / row["path"]).absolute())
    del row["questions"][0]["answer"]
    manifest = tmp_path / "some.jsonl"
    manifest.write_text(json.dumps(row) + "\n")
    arguments = ["pack", str(manifest), str(out), "--transcode", "short-side=32,gop=8"]
    assert main(arguments) == 0
    assert "0 clips left out, 1 questions left out, see" in capsys.readouterr().out
    (bad,) = (json.loads(line) for line in (out / "quarantine.jsonl").read_text().splitlines())
    assert (bad["place"], bad["question"]) == (f"{manifest}:1", row["questions"][0]["id"])
    with ShardSource(out) as source:
        record = source.read_record(0, source.entries(0)[0])
    assert min(record.width or 0, record.height or 0) == 32
    assert (record.transcoded or "").startswith("short-side=32,gop=8,codec=h264")
    assert len(record.questions) == len(row["questions"]) - 1
    assert "must be even" in refused("pack", manifest, out, "--transcode", "short-side=33")[0]


def test_pack_without_what_it_needs(refused: Run, tmp_path: Path) -> None:
    assert "MANIFEST" in refused("pack", tmp_path / "out")[0]
    assert "--annotations" in refused("pack", tmp_path / "out", "--from", "nextqa")[0]
    given = ["--spans", tmp_path / "gold.json"]
    assert "--from nextqa" in refused("pack", tmp_path / "m.jsonl", tmp_path / "out", *given)[0]


def test_nextqa_lists_missing_videos(
    packed: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clip = next((packed / "raw" / "videos").glob("*.mp4"))
    videos = tmp_path / "videos"
    videos.mkdir()
    shutil.copy(clip, videos / "4010069381.mp4")
    annotations = tmp_path / "val.csv"
    annotations.write_text(
        "video,frame_count,width,height,question,answer,qid,type,a0,a1,a2,a3,a4\n"
        "4010069381,369,640,480,how do they play,0,6,CH,roll,tap,strum,hit,pat\n"
        "4882821564,2697,640,480,why did he move,2,1,CW,a,b,c,d,e\n"
    )
    out = tmp_path / "out"
    arguments = ["--from", "nextqa", "--annotations", str(annotations), "--videos", str(videos)]
    assert main(["pack", str(out), *arguments]) == 0
    assert "1 of 2 videos are not there: 4882821564" in caplog.text
    assert (out / "index.json").is_file()
    gold = tmp_path / "gsub_val.json"
    gold.write_text(json.dumps({"4010069381": {"location": {"6": [[1.5, 2]]}}}))
    assert main(["pack", str(tmp_path / "spans"), *arguments, "--spans", str(gold)]) == 0
    with ShardSource(tmp_path / "spans") as source:
        (question,) = source.read_record(0, source.entries(0)[0]).questions
    assert question.spans == [(1.5, 2.0)]


@pytest.mark.parametrize(
    ("sections", "parts"),
    [
        ({"optim": {"step": 5}}, ["optim.step", "steps"]),
        ({"model": {"num_moments": 9}}, ["num_moments", "9", "K <= T"]),
        ({"scale": {"num_workers": 3}}, ["scale.num_workers = 3", "data.streams = 2"]),
        ({"data": {"train": "/no/such/data"}}, ["data.train = /no/such/data", "gcg pack"]),
        ({"data": {"labels": "others"}}, ["data.labels = others", "gcg label"]),
        ({"model": {"num_moments": 3}}, ["num_moments", "3", "gcg label"]),
        ({"model": {"num_frames": 9}}, ["num_frames", "9", "gcg label"]),
    ],
)
def test_a_run_that_cannot_be(
    refused: Run, packed: Path, tmp_path: Path, sections: dict, parts: list[str]
) -> None:
    lines = refused("train", write_config(packed, tmp_path, **sections))
    assert any(all(part in line for part in parts) for line in lines), lines


def test_all_errors_at_once(refused: Run, packed: Path, tmp_path: Path) -> None:
    config = write_config(packed, tmp_path, optim={"step": 5, "lr": -1}, engine={"zero": 7})
    assert len(refused("train", config)) >= 3


def test_labels_of_another_encoder(refused: Run, packed: Path, tmp_path: Path) -> None:
    data = tmp_path / "train"
    shutil.copytree(packed / "train", data)
    meta = data / "labels" / "topk" / "meta.json"
    meta.write_text(json.dumps({**json.loads(meta.read_text()), "encoder": "tiny-0123"}))
    lines = refused("train", write_config(packed, tmp_path, data={"train": str(data)}))
    assert any("tiny-0123" in line and "gcg label" in line for line in lines)


def test_an_index_that_does_not_fit_its_tar(refused: Run, packed: Path, tmp_path: Path) -> None:
    data = tmp_path / "train"
    shutil.copytree(packed / "train", data)
    tar = sorted(data.glob("*.tar"))[0]
    tar.write_bytes(tar.read_bytes()[:-512])
    lines = refused("train", write_config(packed, tmp_path, data={"train": str(data)}))
    assert any(tar.name in line and "gcg pack" in line for line in lines)


def test_a_folder_without_shards(refused: Run, packed: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    config = write_config(packed, tmp_path, data={"train": str(tmp_path / "empty")})
    assert any("gcg pack" in line for line in refused("train", config))


def test_eval_of_what_is_no_run(refused: Run, tmp_path: Path) -> None:
    lines = refused("eval", tmp_path / "a", tmp_path / "b")
    assert len(lines) == 2
    assert "gcg train" in lines[0]


def test_override_without_a_run_file(refused: Run, packed: Path) -> None:
    assert "--config" in refused("label", packed / "val", "--set", "model.num_frames=4")[0]
