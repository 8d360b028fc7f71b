"""What is taken for a description, and what is not: texts that small models really wrote."""

from __future__ import annotations

import pytest

from gcg.description_check import Written, judge
from gcg.description_prompt import EXAMPLES

ACCEPTED = [
    (
        "What happens right after the blue star moves down?",
        "the yellow ring moves right",
        "The yellow ring moves right after the blue star moves down.",
    ),
    ("how many children are in the video", "three", "Three children are in the video."),
    ("how many children are in the video", "3", "Three children are in the video."),
    (
        "how does the man react after the boy in brown bib passes him the book",
        "take it from him",
        "After the boy in brown bib passes him the book, the man takes it from him.",
    ),
    (
        "why does the baby cry after falling from the chair",
        "in pain",
        "The baby cries after falling from the chair because it is in pain.",
    ),
    ("does the girl carry the bag", "no", "The girl does not carry the bag."),
    (
        "why are there high chairs on the stage",
        "for guitarists to sit comfortably",
        "The high chairs on the stage are for guitarists to sit comfortably.",
    ),
]
REJECTED = [
    ("why is he running", "late", "   \n ", "empty"),
    ("why is he running", "late", '""', "empty"),
    ("why is he running", "late", "He is late.\nHe is running.", "several lines"),
    ("What does the ring do?", "splits", "The ring does what?", "repeats the question"),
    ("what is he doing", "running home", "What is he doing.", "repeats the question"),
    ("what is he doing", "running", "Answer: he is running", "repeats the prompt"),
    (
        "What happens right before the purple two pulses?",
        "the yellow seven pulses",
        "The girl runs to the dog after opening the gate.",
        "repeats the prompt",
    ),
    (
        "why did the man in black swing his hips",
        "golf technique",
        "The man in black is swinging his hips.",
        "leaves out the answer",
    ),
    ("Which object sparkles?", "the purple seven", "The purple seven.", "leaves out the question"),
    (
        "Which object moves right?",
        "the white three",
        "The white three is not moving right.",
        "denies the answer",
    ),
    (
        "Which object pulses?",
        "the yellow circle",
        "The yellow circle pulses when the ball is thrown.",
        "adds what was not said",
    ),
    (
        "What happens right before the purple circle sparkles?",
        "the red four sparkles",
        "The purple circle sparkles right before the red four sparkles.",
        "changes what comes before and after",
    ),
    (
        "what does the lady do after she leaned forward",
        "starts talking",
        "The lady who leaned forward starts talking.",
        "changes what comes before and after",
    ),
    (
        "what is the dog doing",
        "barking",
        "The dog is barking and barking and barking and barking and barking and barking.",
        "too long",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("question", "answer", "text"), ACCEPTED)
def test_accepted(question: str, answer: str, text: str) -> None:
    assert judge(Written(text, True), question, answer) == (text, None)


@pytest.mark.parametrize(("question", "answer", "text", "reason"), REJECTED)
def test_rejected(question: str, answer: str, text: str, reason: str) -> None:
    assert judge(Written(text, True), question, answer) == ("", reason)


def test_quotes_spaces_and_the_full_stop_are_put_right() -> None:
    found = judge(Written(' "the dog  barks!" \n', True), "what does the dog do", "barks")
    assert found == ("The dog barks.", None)


def test_a_text_that_does_not_end_is_refused() -> None:
    found = judge(Written("The dog barks", False), "what does the dog do", "barks")
    assert found.reason == "too long"


def test_the_prompts_own_examples_pass_but_for_being_the_prompts() -> None:
    for question, answer, sentence in EXAMPLES:
        assert judge(Written(sentence, True), question, answer).reason == "repeats the prompt"
        other = sentence.replace(".", " now.")
        assert judge(Written(other, True), question, answer) == (other, None)
