"""Chat templates as constants: what stands before, after and at the end of one question's turn.

A template is rendered once with a sentinel for the question and cut there, so that the soft-prompt
tokens can stand inside the user's turn, before the question's words:
``[head][soft][question][tail][answer][end]``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gcg.errors import ModelError

_QUESTION, _ANSWER = "QuestionGoesHere7", "AnswerGoesHere7"
# Some templates (Llama 3) write today's date into the system message: training would not be the
# same tomorrow. This is the date that those templates fall back to.
_DATE = "26 Jul 2024"


@dataclass(frozen=True)
class ChatFrame:
    """Token ids around a question: ``head`` up to its user turn's words, ``tail`` from there to the
    beginning of the assistant's, ``end`` of the assistant's turn."""

    head: tuple[int, ...]
    tail: tuple[int, ...]
    end: int


def chat_frame(tokenizer: Any, name: str, system: str | None = None) -> ChatFrame:
    """Cut a tokenizer's chat template into its constants.

    Args:
        tokenizer: a Hugging Face tokenizer that has a chat template.
        name: of the LLM, for messages.
        system: text of the system message; None: whatever the template puts in by itself.

    Raises:
        ModelError: the template takes no such messages, or changes what is said in them.
    """
    user = [] if system is None else [{"role": "system", "content": system}]
    user.append({"role": "user", "content": _QUESTION})
    asked = _rendered(tokenizer, name, user, add_generation_prompt=True)
    head, tail = _cut(asked, _QUESTION, name)
    if system is not None and system.strip() not in head:
        raise ModelError(
            f"model.llm.system = {system!r}: the chat template of {name} leaves it out; "
            "set model.llm.system=null"
        )
    turns = [*user, {"role": "assistant", "content": _ANSWER}]
    _, rest = _cut(_rendered(tokenizer, name, turns), _ANSWER, name)
    return ChatFrame(_ids(tokenizer, head), _ids(tokenizer, tail), _end(tokenizer, rest, name))


def _rendered(tokenizer: Any, name: str, messages: list[dict[str, str]], **options: Any) -> str:
    from jinja2.exceptions import TemplateError

    try:
        return tokenizer.apply_chat_template(
            messages,
            tokenize=False,
            enable_thinking=False,  # Qwen3: an answer, not a line of thought before it
            date_string=_DATE,
            **options,
        )
    except TemplateError as error:
        remedy = "model.llm.chat=never"
        if messages[0]["role"] == "system":
            remedy = f"model.llm.system=null, or {remedy}"
        raise ModelError(
            f"model.llm.chat = auto: the chat template of {name} refuses a plain question "
            f"({error}); set {remedy}"
        ) from None


def _cut(text: str, sentinel: str, name: str) -> tuple[str, str]:
    if text.count(sentinel) != 1:
        raise ModelError(
            f"model.llm.chat = auto: the chat template of {name} does not hand on what is said "
            f"({sentinel!r} comes out {text.count(sentinel)} times); set model.llm.chat=never"
        )
    before, _, after = text.partition(sentinel)
    return before, after


def _ids(tokenizer: Any, text: str) -> tuple[int, ...]:
    return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])


def _end(tokenizer: Any, rest: str, name: str) -> int:
    """The special token that closes an assistant's turn; else the tokenizer's end of text."""
    special = {id for id, token in tokenizer.added_tokens_decoder.items() if token.special}
    ids = _ids(tokenizer, rest.strip())
    if ids and ids[0] in special:
        return ids[0]
    if tokenizer.eos_token_id is None:
        raise ModelError(
            f"model.llm.name = {name}: its tokenizer has no token that ends an answer; "
            "choose another LLM"
        )
    return tokenizer.eos_token_id
