from __future__ import annotations

import pytest

from gcg.description import describe


@pytest.mark.parametrize(
    ("question", "answer", "sentence"),
    [
        ("What does the red circle do?", "moves left", "The red circle moves left."),
        ("Which object moves left?", "the red circle", "The red circle moves left."),
        (
            "What happens right after the red circle moves left?",
            "the green star pulses",
            "The green star pulses right after the red circle moves left.",
        ),
        (
            "how does the man cycling try to sell the watch",
            "show him the watch",
            "The man cycling try to sell the watch show him the watch.",
        ),
        ("who  sings?", "a boy", "A boy sings."),
        ("is it raining", "yes", "Is it raining yes."),
    ],
)
def test_forms(question: str, answer: str, sentence: str) -> None:
    assert describe(question, answer) == sentence


@pytest.mark.parametrize(("question", "answer"), [("", "a"), ("what?", " "), ("?", "x")])
def test_empty_parts_are_refused(question: str, answer: str) -> None:
    with pytest.raises(ValueError, match="may be empty"):
        describe(question, answer)


def test_real_questions_all_get_a_sentence(shared) -> None:
    import csv

    with (shared / "annotations" / "nextqa" / "val.csv").open() as lines:
        for row in csv.DictReader(lines):
            answer = row[f"a{row['answer']}"]
            sentence = describe(row["question"], answer)
            assert " ".join(answer.split()).rstrip("?!. ").lower() in sentence.lower()
            assert sentence.endswith(".")
