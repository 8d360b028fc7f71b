"""Answers of encoder-decoder and decoder-only LLMs: layout, losses, scores, generation."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from gcg.answering import IGNORED, Answerer, CausalAnswerer, Seq2SeqAnswerer, build_answerer
from tests.gcg.llms import CONFIGS, END, PAD, VOCABULARY, WIDTH, small_llm

KINDS = [*CONFIGS, "gpt2"]
CAUSAL = [kind for kind in KINDS if kind != "t5"]
PREFIX = (7, 9, 11)
SOFT = 4
# Rounding: matrices of another size are multiplied in another order.
CLOSE: dict[str, Any] = {"atol": 2e-5, "rtol": 1e-4}


def answerer(kind: str, **llm: Any) -> Answerer:
    return build_answerer(small_llm(kind, **llm), PREFIX, (END,))


def texts(lengths: list[int], seed: int, end: bool = False) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    rows = [torch.randint(3, VOCABULARY, (n,), generator=generator).tolist() for n in lengths]
    return [[*row, END] if end else row for row in rows]


def padded(rows: list[list[int]], fill: int, extra: int = 0) -> Tensor:
    longest = max(map(len, rows)) + extra
    return torch.tensor([row + [fill] * (longest - len(row)) for row in rows])


def batch(prompts: list[list[int]], extra: int = 0) -> tuple[Tensor, Tensor]:
    return padded(prompts, PAD, extra), padded([[1] * len(row) for row in prompts], 0, extra)


PROMPTS = texts([5, 2, 7], seed=1)
ANSWERS = texts([1, 4, 2], seed=2, end=True)
OPTIONS = [texts([2, 1, 3], seed=3 + i, end=True) for i in range(3)]


def soft_prompt(num_pairs: int = 3) -> Tensor:
    return torch.randn(num_pairs, SOFT, WIDTH, generator=torch.Generator().manual_seed(8))


def option_ids(extra: int = 0) -> Tensor:
    rows = [row for options in OPTIONS for row in options]
    return padded(rows, IGNORED, extra).unflatten(0, (3, 3))


def until_end(tokens: list[int]) -> list[int]:
    return tokens[: tokens.index(END) + 1] if END in tokens else tokens


def test_each_kind_has_its_answerer() -> None:
    assert isinstance(answerer("t5"), Seq2SeqAnswerer)
    assert all(isinstance(answerer(kind), CausalAnswerer) for kind in CAUSAL)


@pytest.mark.parametrize("kind", KINDS)
def test_loss_of_one_row_is_hugging_faces_own(kind: str) -> None:
    model, llm = answerer(kind), small_llm(kind)
    prompt, answer, soft = PROMPTS[0], ANSWERS[0], soft_prompt(1)
    words = llm.get_input_embeddings()
    row = [words(torch.tensor([PREFIX])), soft, words(torch.tensor([prompt]))]
    if kind == "t5":
        expected = llm(inputs_embeds=torch.cat(row, dim=1), labels=torch.tensor([answer])).loss
    else:
        row.append(words(torch.tensor([answer])))
        labels = [IGNORED] * (len(PREFIX) + SOFT + len(prompt)) + answer
        expected = llm(inputs_embeds=torch.cat(row, 1), labels=torch.tensor([labels])).loss
    loss = model.loss(soft, *batch([prompt]), torch.tensor([answer]))
    torch.testing.assert_close(loss[0], expected, **CLOSE)


@pytest.mark.parametrize("kind", KINDS)
def test_padding_and_neighbours_change_nothing(kind: str) -> None:
    model, soft = answerer(kind), soft_prompt()
    together = model.loss(soft, *batch(PROMPTS), padded(ANSWERS, IGNORED))
    scores = model.option_scores(soft, *batch(PROMPTS), option_ids())
    tokens = model.generate(soft, *batch(PROMPTS), 4)
    for pair in range(3):
        prompt = batch([PROMPTS[pair]], extra=3)
        own = soft[pair : pair + 1]
        alone = model.loss(own, *prompt, padded([ANSWERS[pair]], IGNORED, extra=2))
        torch.testing.assert_close(alone[0], together[pair], **CLOSE)
        options = option_ids(extra=1)[pair : pair + 1]
        torch.testing.assert_close(
            model.option_scores(own, *prompt, options)[0], scores[pair], **CLOSE
        )
        alone = model.generate(own, *prompt, 4)[0].tolist()
        assert until_end(alone) == until_end(tokens[pair].tolist())


@pytest.mark.parametrize("kind", KINDS)
def test_scores_from_the_cache_are_those_of_the_full_pass(kind: str) -> None:
    """One pass over the question, re-used, against a row of its own for each option."""
    model, soft, options = answerer(kind), soft_prompt(), option_ids()
    options[1, 2] = IGNORED
    scores = model.option_scores(soft, *batch(PROMPTS), options)
    assert scores[1, 2] == -torch.inf
    for number in range(3):
        there = [pair for pair in range(3) if (pair, number) != (1, 2)]
        labels = options[there, number]
        prompts = batch([PROMPTS[pair] for pair in there])
        losses = model.loss(soft[there], *prompts, labels) * (labels != IGNORED).sum(dim=1)
        torch.testing.assert_close(scores[there, number], -losses, **CLOSE)
    assert scores[0].std() > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_generation_is_the_likeliest_token_again_and_again(kind: str) -> None:
    model, soft = answerer(kind), soft_prompt()
    tokens = model.generate(soft, *batch(PROMPTS), 5)
    for pair, row in enumerate(tokens.tolist()):
        row = until_end(row)
        for length in range(len(row)):
            every = torch.tensor([[[*row[:length], token]] for token in range(VOCABULARY)])
            scores = model.option_scores(
                soft[pair : pair + 1],
                *batch([PROMPTS[pair]]),
                every.transpose(0, 1),
            )
            assert scores[0].argmax() == row[length]
    assert len({tuple(row) for row in tokens.tolist()}) > 1


def test_generation_ends_with_an_end_token() -> None:
    """Whichever token comes first, once it is named as an end nothing follows."""
    llm, soft = small_llm("llama"), soft_prompt()
    tokens = build_answerer(llm, PREFIX, (END,)).generate(soft, *batch(PROMPTS), 5)
    end = int(tokens[0, 0])
    stopped = build_answerer(llm, PREFIX, (END, end)).generate(soft, *batch(PROMPTS), 5)
    assert stopped[0, 0] == end
    assert (stopped[0, 1:] == PAD).all()


@pytest.mark.parametrize("kind", KINDS)
def test_prefix_and_soft_tokens_are_read(kind: str) -> None:
    model, other = answerer(kind), build_answerer(small_llm(kind), (8,), (END,))
    asked = *batch(PROMPTS), padded(ANSWERS, IGNORED)
    losses = model.loss(soft_prompt(), *asked)
    assert (losses != other.loss(soft_prompt(), *asked)).all()
    assert (losses != model.loss(-soft_prompt(), *asked)).all()


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_pass_a_frozen_llm_and_leave_none_in_it(kind: str) -> None:
    model, soft = answerer(kind, train="frozen"), soft_prompt().requires_grad_()
    model.train()
    model.loss(soft, *batch(PROMPTS), padded(ANSWERS, IGNORED)).sum().backward()
    assert soft.grad is not None
    assert soft.grad.abs().sum(dim=(1, 2)).min() > 0
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_frozen_llm_drops_nothing_out_while_the_model_trains(kind: str) -> None:
    asked = soft_prompt(), *batch(PROMPTS), padded(ANSWERS, IGNORED)
    frozen = answerer(kind, train="frozen")
    expected = frozen.eval().loss(*asked)
    assert torch.equal(frozen.train().loss(*asked), expected)
    adapted = answerer(kind, train="lora", lora={"rank": 2, "dropout": 0.5}).train()
    dropping = [name for name, module in adapted.named_modules() if module.training]
    assert all("lora_dropout" in name for name in dropping if name)
    assert sum(isinstance(m, torch.nn.Dropout) and m.training for m in adapted.modules()) > 0
    adapted.eval()
    assert not any(module.training for module in adapted.modules())


def test_an_llm_trained_in_full_does_drop_out() -> None:
    asked = soft_prompt(), *batch(PROMPTS), padded(ANSWERS, IGNORED)
    model = answerer("t5", train="full")
    assert not torch.equal(model.train().loss(*asked), model.eval().loss(*asked))


@pytest.mark.parametrize("kind", ["t5", "llama"])
def test_blocks_of_a_frozen_llm_can_be_checkpointed(kind: str) -> None:
    """Activation checkpointing asks blocks for training mode, and changes no gradient."""
    gradients = []
    for checkpointed in (False, True):
        model, soft = answerer(kind, train="frozen"), soft_prompt().requires_grad_()
        calls = 0
        if checkpointed:
            model.llm.gradient_checkpointing_enable({"use_reentrant": False})
        model.train()
        for block in [m for m in model.modules() if getattr(m, "_gradient_checkpointing_func", 0)]:
            inner = block._gradient_checkpointing_func

            def counted(*args: Any, inner: Any = inner, **kwargs: Any) -> Any:
                nonlocal calls
                calls += 1
                return inner(*args, **kwargs)

            block._gradient_checkpointing_func = counted  # type: ignore[assignment]
        model.loss(soft, *batch(PROMPTS), padded(ANSWERS, IGNORED)).sum().backward()
        assert bool(calls) == checkpointed
        gradients.append(soft.grad)
    torch.testing.assert_close(gradients[0], gradients[1], **CLOSE)
