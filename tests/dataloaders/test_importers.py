"""Benchmarks' annotation files, written here in their official formats, into rows of a manifest."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest

from dataloaders.bad_questions import BadQuestions
from dataloaders.errors import DataError
from dataloaders.importers import Files, import_videos, read_asked
from dataloaders.manifest import Question, Video, read_manifest, write_manifest

HEADER = "video_id,frame_count,width,height,question,answer,qid,type,a0,a1,a2,a3,a4"


def write(path: Path, value: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path


def imported(name: str, annotations: Path, *videos: str, **files: Any) -> list[Video]:
    """The rows of a benchmark whose videos are these files, through a manifest and back."""
    folder = annotations.parent / "videos"
    for video in videos:
        write(folder / video, "x")
    found, missing = import_videos(name, Files(annotations, **files), folder)
    assert missing == []
    assert len({q.id for v in found for q in v.questions}) > 0
    write_manifest(annotations.parent / "m.jsonl", found)
    assert list(read_manifest(annotations.parent / "m.jsonl")) == found
    return found


def questions(videos: list[Video]) -> list[Question]:
    return [question for video in videos for question in video.questions]


def test_nextgqa_finds_its_spans_beside_the_questions(tmp_path: Path) -> None:
    write(tmp_path / "gsub_test.json", {"11": {"duration": 40, "location": {"3": [[0, 1.5]]}}})
    rows = "\n11,40,64,48,why,b,3,CW,a,b,c,d,e\n11,40,64,48,how,a,4,CH,a,b,c,d,e\n"
    (video,) = imported("nextgqa", write(tmp_path / "test.csv", HEADER + rows), "deep/11.mp4")
    assert [q.spans for q in video.questions] == [[(0.0, 1.5)], None]
    assert [q.answer_index for q in video.questions] == [1, 0]
    assert {q.split for q in video.questions} == {"test"}
    # train has no gold spans; a split can be given another name.
    (video,) = imported("nextgqa", write(tmp_path / "train.csv", HEADER + rows), split="half")
    assert all(q.spans is None for q in video.questions)
    assert {q.split for q in video.questions} == {"half"}


def test_intentqa_has_more_columns(tmp_path: Path) -> None:
    rows = ",action,lemma,lemma_id\n11,40,64,48,why,4,3,CW,a,b,c,d,e,left,leave,130\n"
    (video,) = imported("intentqa", write(tmp_path / "val.csv", HEADER + rows), "11.mp4")
    assert video.questions[0].answer == "e"
    assert video.frame_count == 40


def test_nextoe_gives_repeated_numbers_one_of_their_own(tmp_path: Path) -> None:
    text = "video,frame_count,width,height,question,answer,qid,type\n"
    text += "11,1,64,48,is it,yes,1,DB\n11,1,64,48,who,man,1,DO\n"
    path = write(tmp_path / "train.csv", text)
    (video,) = imported("nextoe", path, "11.mp4")
    assert [(q.id, q.answer, q.options) for q in video.questions] == [
        ("1", "yes", None), ("1-2", "man", None),
    ]  # fmt: skip
    asked = read_asked("nextoe", Files(path))
    assert [(a.key, a.shared_key) for a in asked] == [("11_1", None), ("11_1-2", "11_1")]


def test_causal_vidqa_asks_six_questions_in_the_order_of_its_results(tmp_path: Path) -> None:
    kinds = ("descriptive", "explanatory", "predictive", "counterfactual")
    for video in ("a_1", "b_2"):
        text: dict[str, Any] = {k: {"question": f"{k}?", "answer": list("abcde")} for k in kinds}
        right: dict[str, Any] = {k: {"answer": n} for n, k in enumerate(kinds)}
        for kind in kinds[2:]:
            text[kind]["reason"], right[kind]["reason"] = list("vwxyz"), 4
        write(tmp_path / "QA" / video / "text.json", text)
        write(tmp_path / "QA" / video / "answer.json", right)
    (tmp_path / "valid.pkl").write_bytes(pickle.dumps(["b_2"]))
    (video,) = imported("causalvidqa", tmp_path / "QA", "b_2.mp4", ids=tmp_path / "valid.pkl")
    assert [(q.id, q.type, q.answer) for q in video.questions] == [
        ("0", "description", "a"), ("1", "explanation", "b"), ("2", "predictive-answer", "c"),
        ("3", "predictive-reason", "z"), ("4", "counterfactual-answer", "d"),
        ("5", "counterfactual-reason", "z"),
    ]  # fmt: skip
    assert video.questions[3].question == "predictive?"
    assert {q.split for q in video.questions} == {"val"}
    keys = [asked.key for asked in read_asked("causalvidqa", Files(tmp_path / "QA"))]
    assert keys == [f"{v}_{n}" for v in ("a_1", "b_2") for n in range(6)]
    (tmp_path / "evil.pkl").write_bytes(b"cos\nsystem\n(S'touch ran'\ntR.")
    with pytest.raises(DataError, match=r"evil\.pkl: not a list of videos"):
        read_asked("causalvidqa", Files(tmp_path / "QA", ids=tmp_path / "evil.pkl"))
    write(tmp_path / "up.txt", "../QA/a_1\n")
    with pytest.raises(DataError, match="is a path"):
        read_asked("causalvidqa", Files(tmp_path / "QA", ids=tmp_path / "up.txt"))


def test_star_has_the_moment_and_its_choices_in_their_own_order(tmp_path: Path) -> None:
    item = {
        "question_id": "Sequence_T3_9", "video_id": "6H78U", "start": 11.1, "end": 19.6,
        "question": "Which?", "answer": "The bag.", "question_program": [], "situations": {},
        "choices": [
            {"choice_id": 1, "choice": "The bag.", "choice_program": []},
            {"choice_id": 0, "choice": "The dog.", "choice_program": []},
        ],
    }  # fmt: skip
    path = write(tmp_path / "STAR_val.json", [item])
    (question,) = questions(imported("star", path, "Charades_v1_480/6H78U.mp4"))
    assert (question.id, question.type, question.split) == ("Sequence_T3_9", "Sequence", "val")
    assert (question.options, question.answer_index) == (["The dog.", "The bag."], 1)
    assert question.spans == [(11.1, 19.6)]
    # The test split has no answers: each question is a fault of its own.
    write(tmp_path / "STAR_test.json", [item, {**item, "answer": None}])
    bad = BadQuestions(0.5)
    found, _ = import_videos(
        "star", Files(tmp_path / "STAR_test.json"), tmp_path / "videos", bad=bad
    )
    assert [q.split for q in questions(found)] == ["test"]
    assert bad.found[0].reason.startswith("answer: empty")


@pytest.mark.parametrize(
    ("name", "video", "file"),
    [
        ("msvdqa", 1201, "vid1201.avi"),
        ("msvdqa", 1201, "YouTubeClips/mv89_33_46.avi"),
        ("msrvttqa", 7010, "TrainValVideo/video7010.mp4"),
        ("msrvttqa", "video7010.mp4", "video7010.mp4"),
    ],
)
def test_msvd_and_msrvtt(tmp_path: Path, name: str, video: Any, file: str) -> None:
    write(tmp_path / "youtube_mapping.txt", "mv89_33_46 vid1201\nother vid1\n")
    item = {"video_id": video, "question": "who runs?", "answer": "man", "id": 30933}
    path = write(tmp_path / "test_qa.json", [{**item, "category_id": 3}])
    (found,) = imported(name, path, file)
    assert found.path.endswith(file)
    (question,) = found.questions
    assert (question.id, question.type, question.split) == ("30933", "who", "test")
    csv = f"video,width,height,question,answer,qid\n{video},1280,720,who runs?,man,30933\n"
    assert questions(imported(name, write(tmp_path / "test.csv", csv), file)) == [question]


@pytest.mark.parametrize("letter", ["q", "a"])
def test_activitynet_has_questions_and_answers_apart(tmp_path: Path, letter: str) -> None:
    write(tmp_path / "train_q.json", [
        {"video_name": "TIE-z", "question": "is it", "question_id": "v_TIE-z_2"},
        {"video_name": "TIE-z", "question": "where", "question_id": "v_TIE-z_3"},
    ])  # fmt: skip
    answers = [
        {"answer": "yes", "type": 3, "question_id": "v_TIE-z_2"},
        {"answer": "left", "type": 1, "question_id": "v_TIE-z_3"},
    ]
    write(tmp_path / "train_a.json", answers)
    (video,) = imported("activitynetqa", tmp_path / f"train_{letter}.json", "v_TIE-z.mp4")
    assert [(q.id, q.type, q.answer, q.split) for q in video.questions] == [
        ("v_TIE-z_2", "yes-no", "yes", "train"), ("v_TIE-z_3", "spatial", "left", "train"),
    ]  # fmt: skip
    write(tmp_path / "train_a.json", answers[:1])
    with pytest.raises(DataError, match=r"train_q\.json\[1\]: v_TIE-z_3: has no answer"):
        read_asked("activitynetqa", Files(tmp_path / "train_q.json"))


BAD = [
    ("star", "STAR_val.json", {"a": 1}, "holds a dict; a list of questions is needed"),
    ("star", "STAR_val.json", [{"question_id": "x"}], r"\[0\]: not a STAR question"),
    ("star", "STAR_val.json", [], "has no questions"),
    ("msvdqa", "val_qa.json", [1], r"val_qa\.json\[0\]: not a question"),
    ("msvdqa", "val_qa.json", [{"id": 1, "video_id": 2, "question": ""}], "question: empty"),
    ("activitynetqa", "val.json", [], r"neither \*_q\.json nor \*_a\.json"),
    ("activitynetqa", "val_a.json", [], r"val_q\.json: cannot be read"),
    ("causalvidqa", "QA", "x", "no such folder"),
    ("nextqa", "val.csv", "a,b\n1,2\n", "val.csv:1: no column 'video'"),
]


@pytest.mark.parametrize(("benchmark", "name", "value", "said"), BAD)
def test_files_that_are_not_the_benchmarks(
    tmp_path: Path, benchmark: str, name: str, value: Any, said: str
) -> None:
    with pytest.raises(DataError, match=said):
        read_asked(benchmark, Files(write(tmp_path / name, value)))


def test_options_of_other_benchmarks_and_no_video_at_all(tmp_path: Path) -> None:
    path = write(tmp_path / "val.csv", HEADER + "\n11,40,64,48,why,b,3,CW,a,b,c,d,e\n")
    with pytest.raises(DataError, match=r"--spans .*: intentqa has no such file"):
        read_asked("intentqa", Files(path, spans=path))
    with pytest.raises(DataError, match=r"--ids .*: nextqa has no such file"):
        read_asked("nextqa", Files(path, ids=path))
    (tmp_path / "videos").mkdir()
    with pytest.raises(DataError, match=r"none of the 1 videos .* looked for 11 with"):
        import_videos("nextqa", Files(path), tmp_path / "videos")
    with pytest.raises(DataError, match="none: no such folder"):
        import_videos("nextqa", Files(path), tmp_path / "none")


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("map_vid_vidorID.json", {"11": "../secret"}, "leaves the videos' folder"),
        ("map_vid_vidorID.json", {"11": "/etc/secret"}, "leaves the videos' folder"),
        ("map_vid_vidorID.json", {"11": 7}, "a value that is no text"),
        ("youtube_mapping.txt", "a b c\n", r"youtube_mapping\.txt:1: 3 words"),
    ],
)
def test_a_mapping_stays_in_the_folder(tmp_path: Path, name: str, value: Any, said: str) -> None:
    path = write(tmp_path / "val.csv", HEADER + "\n11,40,64,48,why,b,3,CW,a,b,c,d,e\n")
    write(tmp_path / "secret.mp4", "x")
    write(tmp_path / "videos" / name, value)
    with pytest.raises(DataError, match=said):
        import_videos("nextqa", Files(path), tmp_path / "videos")


REAL = {
    "nextqa": ("nextqa/val.csv", 4996),
    "nextoe": ("nextoe/train.csv", 37523),
    "nextgqa": ("nextgqa/val.csv", 3358),
    "intentqa": ("intentqa/val.csv", 2044),
    "msvdqa": ("msvdqa/val.csv", 6415),
    "activitynetqa": ("activitynetqa/val_q.json", 18000),
}


@pytest.mark.parametrize("name", REAL)
def test_the_real_files(shared: Path, name: str) -> None:
    path, count = shared / "annotations" / REAL[name][0], REAL[name][1]
    if not path.is_file():
        pytest.skip(f"no real annotations: {path} is absent")
    asked = read_asked(name, Files(path))
    assert len(asked) == count
    assert not any(each.fault for each in asked)
    assert len({each.key for each in asked}) == count
    assert {each.split for each in asked} == {"train" if "train" in path.name else "val"}
    assert sum(each.spans is not None for each in asked) == (3358 if name == "nextgqa" else 0)
