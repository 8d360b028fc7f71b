"""A table of one's own into rows of a manifest: CSV, TSV, JSON Lines, and their faults."""

from __future__ import annotations

from pathlib import Path

import pytest

from dataloaders.errors import DataError
from dataloaders.importers import Files, read_asked
from dataloaders.importers.asked import Asked
from dataloaders.manifest import Question

from .test_importers import imported, questions, write

CSV = (
    "video,id,question,answer,type,a0,a1,a2,start,end,split\n"
    "pan.mp4,x,what,1,do,flip,stir,,1,2.5,train\n"
    "pan.mp4,y,who,2,,man,dog,cat,,,\n"
)
JSONL = (
    '{"video": "pan.mp4", "id": "x", "question": "what", "answer": 1, "type": "do", '
    '"options": ["flip", "stir"], "spans": [[1, 2.5]], "split": "train"}\n\n'
    '{"video": "pan.mp4", "id": "y", "question": "who", "answer": "cat", '
    '"options": ["man", "dog", "cat"]}\n'
)


@pytest.mark.parametrize(
    ("name", "text"),
    [("test.csv", CSV), ("test.tsv", CSV.replace(",", "\t")), ("test.jsonl", JSONL)],
)
def test_ones_own_table(tmp_path: Path, name: str, text: str) -> None:
    found = questions(imported("table", write(tmp_path / name, text), "pan.mp4"))
    assert found == [
        Question(id="x", question="what", answer="stir", options=["flip", "stir"], answer_index=1,
                 type="do", split="train", spans=[(1.0, 2.5)]),
        Question(id="y", question="who", answer="cat", options=["man", "dog", "cat"],
                 answer_index=2, split="test"),
    ]  # fmt: skip


def test_a_table_of_open_questions_numbers_them(tmp_path: Path) -> None:
    path = write(tmp_path / "my.csv", "video,question,answer\na,q,yes\nb,q,no\na,r,3\n")
    asked: list[Asked] = read_asked("table", Files(path))
    assert [(a.key, a.answer, a.options, a.split) for a in asked] == [
        ("a_0", "yes", None, None), ("b_0", "no", None, None), ("a_1", "3", None, None),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("t.csv", "video,question\na,q\n", r"t\.csv:1: no column 'answer'"),
        ("t.csv", "video,question,answer,answer\na,q,b,c\n", r"t\.csv:1: column 'answer' .* twice"),
        ("t.csv", "video,question,answer\n,q,b\n", r"t\.csv:2: video: empty"),
        ("t.csv", "video,question,answer\na,,b\n", r"t\.csv:2: question: empty"),
        ("t.csv", "video,question,answer\na,q\n", r"t\.csv:2: another number of cells"),
        ("t.csv", "video,question,answer\n", r"t\.csv: has no rows"),
        ("t.csv", "video,question,answer,start,end\na,q,b,1,x\n", r"t\.csv:2: end: 'x'"),
        ("t.csv", "video,question,answer,spans\na,q,b,[1\n", r"t\.csv:2: spans: not JSON"),
        ("t.csv", "video,question,answer,options\na,q,b,7\n", r"t\.csv:2: options: not a list"),
        ("t.csv", "video,question,answer,a0,a1,a2\na,q,b,a,,b\n", r"t\.csv:2: a1: empty"),
        ("t.csv", "video,question,answer,id\na,q,b,1\na,r,b,1\n", r"t\.csv:3: id: '1' of a is alr"),
        ("t.jsonl", '{"video": "a"\n', r"t\.jsonl:1: not JSON"),
        ("t.jsonl", "[1]\n", r"t\.jsonl:1: not an object"),
        ("t.jsonl", '{"video": "a", "question": "q", "answer": "b", "spans": [1]}\n', "not pairs"),
        ("t.jsonl", "\n", "has no rows"),
    ],
)  # fmt: skip
def test_faults_of_a_table_name_line_and_column(
    tmp_path: Path, name: str, text: str, said: str
) -> None:
    with pytest.raises(DataError, match=said):
        read_asked("table", Files(write(tmp_path / name, text)))


def test_answers_that_are_no_option_are_faults_of_their_question(tmp_path: Path) -> None:
    text = (
        '{"video": "a", "question": "q", "answer": 2, "options": ["x", "y"]}\n'
        '{"video": "a", "question": "q", "answer": -1, "options": ["x", "y"]}\n'
        '{"video": "a", "question": "q", "answer": "z", "options": ["x", "y"]}\n'
        '{"video": "a", "question": "q", "answer": "", "options": ["x", "y"]}\n'
    )
    asked = read_asked("table", Files(write(tmp_path / "t.jsonl", text)))
    assert ["not in 0..1" in (a.fault or "") for a in asked] == [True, True, False, False]
    assert "not one of the options" in (asked[2].fault or "")
    assert "answer: empty" in (asked[3].fault or "")
