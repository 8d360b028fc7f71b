"""NExT-QA style annotations: joining with files, answers by index or text, gold spans."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from dataloaders.bad_questions import BadQuestions
from dataloaders.errors import DataError
from dataloaders.importers.nextqa import read_nextqa
from dataloaders.manifest import read_manifest, write_manifest

HEADER = "video,frame_count,width,height,question,answer,qid,type,a0,a1,a2,a3,a4\n"
ROWS = (
    "11,369,640,480,how many,0,6,CH,two,three,four,five,six\n"
    '11,369,640,480,"what, then",4,7,TN,a,b,c,d,e\n'
    "22,100,320,240,why,2,0,CW,a,b,c,d,e\n"
)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "videos" / "deep").mkdir(parents=True)
    (tmp_path / "videos" / "deep" / "11.mp4").write_bytes(b"x")
    (tmp_path / "val.csv").write_text(HEADER + ROWS)
    return tmp_path


def test_videos_are_joined_and_missing_ones_listed(folder):
    videos, missing = read_nextqa(folder / "val.csv", folder / "videos", split="val")
    assert missing == ["22"]
    (video,) = videos
    assert video.path == str(folder / "videos" / "deep" / "11.mp4")
    assert (video.frame_count, video.width, video.height) == (369, 640, 480)
    assert [q.id for q in video.questions] == ["6", "7"]
    assert video.questions[1].question == "what, then"
    assert video.questions[1].answer == "e"
    assert video.questions[1].answer_index == 4
    assert {q.split for q in video.questions} == {"val"}
    write_manifest(folder / "m.jsonl", videos)
    assert list(read_manifest(folder / "m.jsonl")) == videos


@pytest.mark.parametrize("place", ["annotations", "videos"])
def test_the_mapping_to_vidor_paths_is_found(folder, place):
    (folder / "videos" / "0101").mkdir()
    (folder / "videos" / "0101" / "22xx.mkv").write_bytes(b"x")
    mapping = folder / ("" if place == "annotations" else "videos") / "map_vid_vidorID.json"
    mapping.write_text(json.dumps({"22": "0101/22xx"}))
    videos, missing = read_nextqa(folder / "val.csv", folder / "videos")
    assert missing == []
    assert videos[1].path.endswith("0101/22xx.mkv")


def test_spans_of_nextgqa(folder):
    gold = {"11": {"duration": 34, "location": {"7": [[1.2, 5.8], [7, 9]]}}}
    (folder / "gsub.json").write_text(json.dumps(gold))
    videos, _ = read_nextqa(folder / "val.csv", folder / "videos", grounding=folder / "gsub.json")
    assert videos[0].questions[0].spans is None
    assert videos[0].questions[1].spans == [(1.2, 5.8), (7.0, 9.0)]
    (folder / "gsub.json").write_text(json.dumps({"33": gold["11"]}))
    with pytest.raises(DataError, match=r"gsub\.json: has spans of none.*the same split"):
        read_nextqa(folder / "val.csv", folder / "videos", grounding=folder / "gsub.json")


def test_answers_as_text_even_where_one_is_a_number(folder):
    (folder / "val.csv").write_text(
        HEADER.replace("video,", "video_id,")
        + "11,1,1,1,how many,2,6,CH,1,2,3,4,5\n11,1,1,1,who,b,7,CH,a,b,c,d,e\n"
    )
    videos, _ = read_nextqa(folder / "val.csv", folder / "videos")
    assert [q.answer_index for q in videos[0].questions] == [1, 1]


def test_open_ended_files_and_repeated_numbers(folder):
    (folder / "oe.csv").write_text(
        "video,frame_count,width,height,question,answer,qid,type\n"
        "11,1,1,1,how,by hand,3,CH\n11,1,1,1,who,him,3,CH\n"
    )
    videos, _ = read_nextqa(folder / "oe.csv", folder / "videos")
    assert [q.id for q in videos[0].questions] == ["3", "3-2"]
    assert videos[0].questions[0].options is None
    assert videos[0].questions[0].answer == "by hand"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("video,question,answer\n1,2,3\n", [":1:", "'qid'"]),
        ("question,answer,qid,type\na,b,c,d\n", [":1:", "'video'"]),
        (HEADER, ["no rows"]),
        (HEADER + "11,1,1,1,q,0,6\n", [":2:", "cells"]),
        (HEADER + ROWS + "11,1,1,1,q,5,8,CH,a,b,c,d,e\n", [":5:", "answer: 5", "0..4"]),
        (HEADER + "11,1,1,1,q,zzz,6,CH,a,b,c,d,e\n", [":2:", "'zzz'", "options"]),
        (HEADER + "11,1,1,1,,0,6,CH,a,b,c,d,e\n", [":2:", "question"]),
        (HEADER + ",1,1,1,q,0,6,CH,a,b,c,d,e\n", [":2:", "video: empty"]),
    ],
)
def test_faults_are_named_with_their_line(folder, text, words):
    (folder / "bad.csv").write_text(text)
    with pytest.raises(DataError) as caught:
        read_nextqa(folder / "bad.csv", folder / "videos")
    for word in [str(folder / "bad.csv"), *words]:
        assert word in str(caught.value)


def test_missing_inputs(folder):
    with pytest.raises(DataError, match="no such folder"):
        read_nextqa(folder / "val.csv", folder / "none")
    with pytest.raises(DataError, match="cannot be read"):
        read_nextqa(folder / "none.csv", folder / "videos")
    (folder / "list.json").write_text("[]")
    with pytest.raises(DataError, match="an object by video id"):
        read_nextqa(folder / "val.csv", folder / "videos", mapping=folder / "list.json")


def test_the_real_annotations(shared, tmp_path):
    """All of NExT-QA val against a folder that has every file, and one that has one."""
    annotations = shared / "annotations" / "nextqa" / "val.csv"
    _, missing = read_nextqa(annotations, tmp_path)
    assert len(missing) == 570
    for video_id in missing:
        (tmp_path / f"{video_id}.mp4").touch()
    videos, missing = read_nextqa(annotations, tmp_path, split="val")
    assert missing == []
    questions = [q for video in videos for q in video.questions]
    assert len(questions) == 4996
    assert Counter(q.type for q in questions)["CW"] == 1924
    assert all(q.options is not None and len(q.options) == 5 for q in questions)

    gold = shared / "annotations" / "nextgqa"
    videos, missing = read_nextqa(gold / "val.csv", tmp_path, grounding=gold / "gsub_val.json")
    assert missing == []
    assert len(videos) == 567
    assert sum(q.spans is not None for v in videos for q in v.questions) == 3358


def test_every_other_real_file_reads(shared, tmp_path):
    folder = shared / "annotations"
    expected = {"nextoe/train.csv": 37523, "nextoe/val.csv": 5343, "intentqa/val.csv": 2044}
    for name, total in expected.items():
        _, missing = read_nextqa(folder / name, tmp_path)
        for video_id in missing:
            (tmp_path / f"{video_id}.mp4").touch()
        videos, _ = read_nextqa(folder / name, tmp_path)
        assert sum(len(v.questions) for v in videos) == total


def test_questions_without_a_usable_answer_are_left_out_and_listed(folder):
    text = HEADER + ROWS + "11,1,1,1,q,5,8,CH,a,b,c,d,e\n11,1,1,1,q,,9,CH,a,b,c,d,e\n"
    (folder / "some.csv").write_text(text)
    bad = BadQuestions()
    videos, _ = read_nextqa(folder / "some.csv", folder / "videos", split="some", bad=bad)
    whole, _ = read_nextqa(folder / "val.csv", folder / "videos", split="some")
    assert videos == whole
    assert [(b.place, b.video, b.question) for b in bad.found] == [
        (f"{folder / 'some.csv'}:5", "11", "8"),
        (f"{folder / 'some.csv'}:6", "11", "9"),
    ]
    assert "0..4" in bad.found[0].reason
    assert "answer: empty" in bad.found[1].reason
    with pytest.raises(DataError, match=r"2 of 5 questions"):
        read_nextqa(folder / "some.csv", folder / "videos", bad=BadQuestions(0.005))
