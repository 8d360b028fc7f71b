"""Chat templates cut into constants: the pieces put together again are the template's own text."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from gcg.chat import chat_frame
from gcg.errors import ModelError
from tests.gcg.weights.checkpoints import llm_tokenizer

CHATML = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful assistant<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    "{% if enable_thinking is defined and enable_thinking is false %}"
    "{{ '<think>\n\n</think>\n\n' }}{% endif %}{% endif %}"
)
DATED = (
    "{{ bos_token }}{% if not date_string is defined %}"
    "{% set date_string = strftime_now('%d %b %Y') %}{% endif %}"
    "{{ '<|start|>system\nToday Date: ' + date_string + '<|eot|>' }}"
    "{% for message in messages %}"
    "{{ '<|start|>' + message['role'] + '\n' + message['content'] | trim + '<|eot|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|start|>assistant\n' }}{% endif %}"
)
BRACKETS = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}"
    "{{ '[INST] ' + message['content'] + ' [/INST]' }}{% elif message['role'] == 'assistant' %}"
    "{{ ' ' + message['content'] + ' ' + eos_token }}{% else %}"
    "{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"
)
BARE = "{% for message in messages %}{{ message['role'] + ': ' + message['content'] }}{% endfor %}"


def tokenizer(template: str, *special: str) -> PreTrainedTokenizerFast:
    made = llm_tokenizer("llama", template)
    made.add_special_tokens({"additional_special_tokens": list(special)})
    return made


def chatml() -> PreTrainedTokenizerFast:
    return tokenizer(CHATML, "<|im_start|>", "<|im_end|>")


@pytest.mark.parametrize("system", [None, "", "Answer in a word."])
def test_the_pieces_make_the_templates_own_turn(system: str | None) -> None:
    made, question = chatml(), "What does the boy do?"
    frame = chat_frame(made, "it", system)
    ids: Any = made(question, add_special_tokens=False)["input_ids"]
    said = [] if system is None else [{"role": "system", "content": system}]
    whole: Any = made.apply_chat_template(
        [*said, {"role": "user", "content": question}],
        add_generation_prompt=True,
        enable_thinking=False,
    )
    assert [*frame.head, *ids, *frame.tail] == whole
    assert frame.end == made.convert_tokens_to_ids("<|im_end|>")
    assert made.decode(list(frame.tail)).endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")


def test_a_begin_mark_is_the_templates() -> None:
    made = tokenizer(DATED, "<|start|>", "<|eot|>")
    frame = chat_frame(made, "it")
    assert frame.head[0] == made.bos_token_id
    assert made.bos_token_id not in frame.head[1:]
    assert frame.end == made.convert_tokens_to_ids("<|eot|>")


def test_a_template_that_writes_the_date_writes_the_same_one_every_day() -> None:
    frame = chat_frame(made := tokenizer(DATED, "<|start|>", "<|eot|>"), "it")
    assert "Today Date: 26 Jul 2024" in made.decode(list(frame.head))


def test_an_assistants_turn_may_end_with_the_end_of_text() -> None:
    made = tokenizer(BRACKETS)
    frame = chat_frame(made, "it")
    assert frame.end == made.eos_token_id
    assert made.decode(list(frame.tail)) == " [/INST]"
    unmarked = tokenizer(BARE)
    assert chat_frame(unmarked, "it").end == unmarked.eos_token_id


@pytest.mark.parametrize(
    ("template", "system", "message"),
    [
        (BRACKETS, "Be brief.", r"it refuses a plain question \(Only user.*llm\.system=null"),
        (BARE.replace("message['content']", "message['content'] | upper"), None, "comes out 0"),
        (BARE + BARE, None, r"comes out 2 times\); set model\.llm\.chat=never"),
        (CHATML.replace("message['content']", "''"), None, "does not hand on what is said"),
        (
            "{% for m in messages if m['role'] != 'system' %}{{ m['content'] }}{% endfor %}",
            "Be brief.",
            r"llm\.system = 'Be brief\.': the chat template of it leaves it out",
        ),
    ],
)
def test_a_template_that_does_not_fit_is_refused(
    template: str, system: str | None, message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        chat_frame(tokenizer(template), "it", system)
