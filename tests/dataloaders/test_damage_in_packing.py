"""Clips and questions that packing leaves out, or refuses. ``docs/data.md`` has the table."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dataloaders.bad_questions import BadQuestions
from dataloaders.errors import DataError
from dataloaders.index import read_index
from dataloaders.left_out import QUARANTINE_NAME
from dataloaders.manifest import Video, read_manifest, write_manifest
from dataloaders.shards import pack
from launcher.cli import main
from tests.dataloaders.clips import endless_clip
from tests.dataloaders.damage import CLIPS
from tests.dataloaders.shard_fixtures import video, write_clips


def listed_by_pack(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / QUARANTINE_NAME).read_text().splitlines()]


@pytest.mark.parametrize("name", [*CLIPS, "missing"])
def test_clips_that_packing_leaves_out(tmp_path, name):
    rows = [video(number, 2) for number in range(3)]
    write_clips(tmp_path, rows)
    path = tmp_path / rows[1].path
    if name == "missing":
        path.unlink()
        words = "no such file"
    else:
        make, words = CLIPS[name]
        path.write_bytes(make())
    report = pack(rows, tmp_path / "out", root=tmp_path)
    assert report.num_samples == 2
    (row,) = listed_by_pack(report.folder)
    assert (row["data"], row["stage"], row["key"]) == (str(report.folder), "pack", "v001")
    assert (row["path"], row["num_questions"]) == (rows[1].path, 2)
    assert words in row["reason"]


def test_a_clip_that_decodes_for_too_long_in_packing(tmp_path):
    """By the command, with the decoder that packing has: the clip is a minute's work."""
    rows = [video(number, 2) for number in range(3)]
    write_clips(tmp_path, rows)
    (tmp_path / rows[1].path).write_bytes(endless_clip())
    manifest, out = tmp_path / "train.jsonl", tmp_path / "out"
    write_manifest(manifest, rows)
    assert main(["pack", str(manifest), str(out), "--decode-timeout", "2"]) == 0
    assert sum(shard.num_samples for shard in read_index(out).shards) == 2
    (row,) = listed_by_pack(out)
    assert row["key"] == "v001"
    assert "--decode-timeout = 2 s" in row["reason"]


QUESTIONS = {
    "no answer": ({"answer": None}, "answer: None"),
    "an answer left out": ({"answer": "DROP"}, "answer: Field required"),
    "an empty answer": ({"answer": ""}, "answer: "),
    "an answer that is no option": ({"answer": "z"}, "is not options[answer_index]"),
    "answer_index past the options": ({"answer_index": 3}, "answer_index 3 not in 0..2"),
    "answer_index below 0": ({"answer_index": -1}, "answer_index -1 not in 0..2"),
    "no question": ({"question": ""}, "question: "),
}


def write_rows(path: Path, rows: list[Video], number: int, changes: dict) -> None:
    """A manifest in which the second question of row ``number`` is changed."""
    write_manifest(path, rows)
    lines = path.read_text().splitlines()
    row = json.loads(lines[number])
    row["questions"][1] |= changes
    row["questions"][1] = {k: v for k, v in row["questions"][1].items() if v != "DROP"}
    lines[number] = json.dumps(row)
    path.write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize("name", QUESTIONS)
def test_questions_that_packing_leaves_out(tmp_path, name):
    changes, words = QUESTIONS[name]
    rows = [video(number, 3) for number in range(3)]
    write_clips(tmp_path, rows)
    manifest = tmp_path / "train.jsonl"
    write_rows(manifest, rows, 1, changes)
    bad = BadQuestions()
    kept = list(read_manifest(manifest, bad))
    assert [len(row.questions) for row in kept] == [3, 2, 3]
    report = pack(kept, tmp_path / "out", root=tmp_path, bad_questions=bad.found)
    assert (report.num_samples, report.num_questions) == (3, 8)
    (row,) = listed_by_pack(report.folder)
    assert (row["key"], row["question"], row["place"]) == ("v001", "q1", f"{manifest}:2")
    assert words in row["reason"]
    again = pack(kept, tmp_path / "out", root=tmp_path, bad_questions=bad.found)
    assert again.reused
    assert again.bad_questions == report.bad_questions
    with pytest.raises(DataError, match=rf"{manifest}: 1 of 9 .*--max-bad-questions is 0 .*:2: "):
        list(read_manifest(manifest, BadQuestions(0)))
    with pytest.raises(DataError, match=rf"{manifest}:2: "):
        list(read_manifest(manifest))


def test_a_video_none_of_whose_questions_can_be_asked(tmp_path):
    manifest = tmp_path / "train.jsonl"
    rows = [video(0, 1), video(1, 2)]
    write_rows(manifest, rows, 1, {"answer": ""})
    row = json.loads(manifest.read_text().splitlines()[1])
    row["questions"] = row["questions"][1:]
    manifest.write_text(rows[0].model_dump_json() + "\n" + json.dumps(row) + "\n")
    bad = BadQuestions()
    assert [video.id for video in read_manifest(manifest, bad)] == ["v000"]
    assert [(found.video, found.question) for found in bad.found] == [("v001", "q1")]


def test_a_fault_of_the_row_itself_is_refused(tmp_path):
    manifest = tmp_path / "train.jsonl"
    write_rows(manifest, [video(0, 2)], 0, {"answer": ""})
    row = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**row, "width": -1}) + "\n")
    with pytest.raises(DataError, match=rf"{manifest}:1: width"):
        list(read_manifest(manifest, BadQuestions()))
