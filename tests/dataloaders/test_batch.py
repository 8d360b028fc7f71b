"""Collation: shapes, padding, options, prompts, and the model's keyword arguments."""

from __future__ import annotations

import pytest
import torch

from dataloaders.batch import VisitData
from dataloaders.labels import Label
from dataloaders.seeds import noise_seed
from gcg.answering import IGNORED
from gcg.errors import ModelError
from gcg.questions import PromptTemplate
from gcg.text_codes import RoleTokens
from tests.dataloaders.shard_fixtures import collator, encode, question, video

FRAMES, SIZE = 4, 6


def visit(number: int, questions, *, labelled: bool = False) -> VisitData:
    labels = [
        Label(video=f"v{number}", question=q.id, description=f"{q.id} happens",
              moments=(0, 2), similarity=(0.0,) * FRAMES)
        for q in questions
    ]  # fmt: skip
    return VisitData(
        video=video(number).model_copy(update={"duration": 1.0 + number}),
        questions=questions,
        labels=labels if labelled else None,
        pixels=torch.full((FRAMES, 3, SIZE, SIZE), float(number)),
        times=torch.arange(FRAMES, dtype=torch.float64),
        group=number // 2,
        position=number + 6,
    )


def text(row: torch.Tensor) -> str:
    return "".join(chr(i - 3) for i in row.tolist() if i > 2)


def test_shapes_and_order():
    visits = [visit(0, [question(1), question(22)], labelled=True),
              visit(1, [question(333)], labelled=True)]  # fmt: skip
    batch = collator(seed=5)(visits, epoch=3)
    assert batch.pixels.shape == (2, FRAMES, 3, SIZE, SIZE)
    assert batch.pixels[1].eq(1).all()
    assert batch.video_index.tolist() == [0, 0, 1]
    assert batch.num_pairs == 3
    assert [text(row) for row in batch.question_ids] == [
        "what happens at 1", "what happens at 22", "what happens at 333",
    ]  # fmt: skip
    assert batch.question_mask.sum(1).tolist() == [19, 20, 21]
    assert batch.question_ids.shape == batch.question_mask.shape == (3, 21)
    assert batch.question_ids[0, 19:].eq(0).all()
    assert torch.equal(batch.qformer_ids, batch.question_ids)
    assert batch.description_ids is not None
    assert [text(row) for row in batch.description_ids] == [
        "q1 happens", "q22 happens", "q333 happens",
    ]  # fmt: skip
    assert batch.moments is not None
    assert batch.moments.tolist() == [[0, 2]] * 3
    assert batch.contrast_group.tolist() == [0, 0]
    assert batch.positions.tolist() == [6, 7]
    expected = [noise_seed(5, 3, v, q) for v, q in
                [("v000", "q1"), ("v000", "q22"), ("v001", "q333")]]  # fmt: skip
    assert batch.noise_seeds.tolist() == expected
    assert batch.meta.videos == ("v000", "v000", "v001")
    assert batch.meta.questions == ("q1", "q22", "q333")
    assert batch.meta.durations == (1.0, 1.0, 2.0)
    assert batch.meta.spans[0] == ((0.25, 1.0),)
    assert batch.meta.times.shape == (2, FRAMES)


def test_prompts_answers_and_options():
    batch = collator()([visit(0, [question(1), question(2)])], epoch=0)
    assert text(batch.prompt_ids[0]) == (
        "Question: what happens at 1 Options: (A) thing 1 (B) thing 2 (C) thing 3 Answer:"
    )
    assert [text(row) for row in batch.answer_ids] == ["thing 2", "thing 4"]
    assert batch.option_ids is not None
    assert batch.option_ids.shape[:2] == (2, 3)
    assert [text(row) for row in batch.option_ids[1]] == ["thing 2", "thing 3", "thing 4"]
    assert torch.equal(batch.option_ids[0, 1, : batch.answer_ids.shape[1]], batch.answer_ids[0])
    assert batch.description_ids is None
    assert batch.description_mask is None
    assert batch.moments is None


def test_open_ended_pairs():
    only = collator()([visit(0, [question(1, options=False)])], epoch=0)
    assert only.option_ids is None
    assert text(only.prompt_ids[0]) == "Question: what happens at 1 Answer:"
    assert text(only.answer_ids[0]) == "thing 1"
    two = question(5).model_copy(update={"options": ["a", "b"], "answer": "b", "answer_index": 1})
    mixed = collator()([visit(0, [question(1, options=False), question(2), two])], epoch=0)
    assert mixed.option_ids is not None
    assert mixed.option_ids.shape[:2] == (3, 3)
    assert mixed.option_ids[0].eq(IGNORED).all()
    assert not mixed.option_ids[1].eq(IGNORED).all(-1).any()
    assert mixed.option_ids[2].eq(IGNORED).all(-1).tolist() == [False, False, True]
    assert mixed.meta.options == (None, ("thing 2", "thing 3", "thing 4"), ("a", "b"))
    assert mixed.meta.answer_indices == (None, 2, 1)
    assert [text(row) for row in mixed.answer_ids] == ["thing 1", "thing 4", "b"]


def test_letters_as_answers():
    template = PromptTemplate(answer="({letter})", option="{letter}: {option}", separator="\n")
    assert template.options(question(1)) == ["(A)", "(B)", "(C)"]
    assert template.right(question(1)) == "(B)"
    assert "A: thing 1\nB: thing 2" in template.prompt(question(1))


def test_long_texts_are_cut_and_keep_their_end_token():
    batch = collator(clip=5, answer=3)([visit(0, [question(1)])], epoch=0)
    assert batch.question_ids.tolist() == [[1, 3 + ord("w"), 3 + ord("h"), 3 + ord("a"), 2]]
    assert batch.answer_ids[0, -1] == 2
    no_marks = RoleTokens(encode, pad_id=0, max_length=2)
    assert no_marks.rows(["abc"]) == [[3 + ord("a"), 3 + ord("b")]]


def test_a_long_text_is_cut_between_what_stands_around_it():
    coder = RoleTokens(encode, pad_id=0, max_length=6, prefix=(1, 9), suffix=(8, 7, 2))
    assert coder.rows(["abc", ""]) == [[1, 9, 3 + ord("a"), 8, 7, 2], [1, 9, 8, 7, 2]]
    with pytest.raises(ModelError, match="no room for a text between 2 tokens before and 3 after"):
        RoleTokens(encode, pad_id=0, max_length=5, prefix=(1, 9), suffix=(8, 7, 2))


def test_model_inputs_are_all_tensors_but_the_options():
    coding = collator(answer_texts=True)
    batch = coding([visit(0, [question(1)], labelled=True)], epoch=0)
    inputs = batch.model_inputs()
    assert set(inputs) == {
        "pixel_values", "frame_tokens", "frame_embeddings",
        "video_index", "question_ids", "question_mask", "description_ids",
        "description_mask", "qformer_ids", "qformer_mask", "prompt_ids", "prompt_mask",
        "answer_ids", "option_text_ids", "option_text_mask", "answer_text_ids",
        "answer_text_mask", "answer_index", "moments", "similarity", "noise_seeds",
        "contrast_group", "positions",
    }  # fmt: skip
    features = {"frame_tokens", "frame_embeddings"}
    assert all((v is None) == (name in features) for name, v in inputs.items())
    moved = batch.to("meta")
    assert moved.pixels.device.type == "meta"
    assert moved.option_ids is not None
    assert moved.option_ids.device.type == "meta"
    assert moved.meta is batch.meta
    unlabelled = collator()([visit(0, [question(1)])], epoch=0).to("cpu")
    assert unlabelled.moments is None


@pytest.mark.parametrize(
    ("field", "template"),
    [("multiple_choice", "{query}"), ("open_ended", "{"), ("option", "{0}"), ("answer", "{text}")],
)
def test_templates_are_checked(field, template):
    with pytest.raises(ModelError, match=rf"prompt\.{field}: .*it may use"):
        PromptTemplate(**{field: template})


def test_noise_seeds_fit_and_differ():
    seeds = {
        noise_seed(run, epoch, v, q)
        for run in (0, 1) for epoch in (0, 1) for v, q in (("a", "bc"), ("ab", "c"))
    }  # fmt: skip
    assert len(seeds) == 8
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert noise_seed(0, 0, "a", "b") == 4845180826904033552


def test_answer_texts_go_to_clip_only_when_asked_for():
    plain = collator()([visit(0, [question(1)])], epoch=0)
    assert plain.option_text_ids is None
    assert plain.answer_text_ids is None
    asked = [question(1), question(2).model_copy(update={"options": None, "answer_index": None})]
    batch = collator(answer_texts=True)([visit(0, asked)], epoch=0)
    assert batch.answer_index.tolist() == [1, -1]
    assert batch.answer_text_ids is not None
    assert [text(row) for row in batch.answer_text_ids] == ["thing 2", asked[1].answer]
    assert batch.option_text_ids is not None
    assert batch.option_text_mask is not None
    assert [text(row) for row in batch.option_text_ids[0]] == ["thing 1", "thing 2", "thing 3"]
    assert batch.option_text_mask[1].sum() == 0


def test_similarities_come_with_the_labels():
    batch = collator()([visit(0, [question(1)], labelled=True)], epoch=0)
    assert batch.similarity is not None
    assert batch.similarity.shape == (1, FRAMES)
