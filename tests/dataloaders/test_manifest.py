"""The manifest: what goes in comes out, and every fault is named with its place."""

from __future__ import annotations

import json

import pytest

from dataloaders.errors import DataError
from dataloaders.manifest import read_manifest, write_manifest
from tests.dataloaders.shard_fixtures import video

ROW = {
    "id": "a",
    "path": "a.mp4",
    "questions": [
        {"id": "1", "question": "what", "answer": "x", "options": ["x", "y"], "answer_index": 0}
    ],
}


def _question(**changes):
    fields = {**ROW["questions"][0], **changes}
    return {**ROW, "questions": [{k: v for k, v in fields.items() if v != "DROP"}]}


def test_round_trip(tmp_path):
    videos = [video(0), video(1, 3, options=False)]
    path = tmp_path / "deep" / "m.jsonl"
    assert write_manifest(path, videos) == 2
    assert list(read_manifest(path)) == videos


def test_unknown_facts_are_none_and_empty_lines_are_skipped(tmp_path):
    path = tmp_path / "m.jsonl"
    path.write_text("\n" + json.dumps(ROW) + "\n\n")
    (row,) = read_manifest(path)
    assert row.duration is None
    assert row.frame_count is None
    assert row.questions[0].spans is None


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({k: v for k, v in ROW.items() if k != "path"}, ["path", "required"]),
        ({**ROW, "id": 5}, ["id", "5", "string"]),
        ({**ROW, "colour": "red"}, ["colour", "not permitted"]),
        ({**ROW, "width": 0}, ["width", "0", "greater"]),
        ({**ROW, "questions": []}, ["questions", "at least 1"]),
        (_question(answer="DROP"), ["questions[0].answer", "required"]),
        (_question(answer_index=2), ["questions[0]", "answer_index 2", "0..1"]),
        (_question(answer_index="DROP"), ["questions[0]", "needs answer_index"]),
        (_question(options="DROP"), ["questions[0]", "answer_index needs options"]),
        (_question(options=["x"]), ["questions[0]", "at least 2"]),
        (_question(answer="y"), ["questions[0]", "'y'", "'x'"]),
        (_question(spans=[[2.0, 1.0]]), ["questions[0].spans", "start <= end"]),
        (_question(spans=[[-1.0, 1.0]]), ["spans", "0 <= start"]),
        ({**ROW, "questions": ROW["questions"] * 2}, ["questions", "'1'", "twice"]),
    ],
)
def test_a_fault_is_named_with_file_line_field_and_rule(tmp_path, row, words):
    path = tmp_path / "m.jsonl"
    path.write_text(json.dumps({**ROW, "id": "first"}) + "\n" + json.dumps(row) + "\n")
    with pytest.raises(DataError) as caught:
        list(read_manifest(path))
    message = str(caught.value)
    assert message.startswith(f"{path}:2: ")
    assert "\n" not in message
    for word in words:
        assert word in message


@pytest.mark.parametrize("text", ["{", "[1]", "nonsense", '{"id": NaN}'])
def test_a_line_that_is_no_object(tmp_path, text):
    path = tmp_path / "m.jsonl"
    path.write_text(text + "\n")
    with pytest.raises(DataError, match=r"m\.jsonl:1: "):
        list(read_manifest(path))


def test_several_faults_are_counted(tmp_path):
    path = tmp_path / "m.jsonl"
    path.write_text(json.dumps({"id": "a", "questions": []}) + "\n")
    with pytest.raises(DataError, match="1 more in this row"):
        list(read_manifest(path))


def test_a_video_is_one_row(tmp_path):
    path = tmp_path / "m.jsonl"
    path.write_text((json.dumps(ROW) + "\n") * 2)
    with pytest.raises(DataError, match=r":2: id: 'a' is already on line 1"):
        list(read_manifest(path))
    with pytest.raises(DataError, match="twice"):
        write_manifest(tmp_path / "n.jsonl", [video(0), video(0)])


def test_missing_empty_and_binary_files(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        list(read_manifest(tmp_path / "none.jsonl"))
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(DataError, match="no rows"):
        list(read_manifest(tmp_path / "empty.jsonl"))
    (tmp_path / "binary.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="not UTF-8"):
        list(read_manifest(tmp_path / "binary.jsonl"))
