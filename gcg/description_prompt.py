"""What an instruct language model is asked for an event description: our own few-shot prompt.

As turns of a chat where the tokenizer has a template, as plain text where it has none.
"""

from __future__ import annotations

from typing import Any

# Part of every cache key: change it with anything that changes what the model is asked.
PROMPT_VERSION = "prompt-1"
_DATE = "26 Jul 2024"  # Llama 3's template would write today's, and ask another thing each day

SYSTEM = (
    "You are given a question about a video and the answer to it. Write one plain sentence that "
    "states what happens, using the words of the question and of the answer. Write nothing else."
)
# The last one weighs most with a small model: it ends every second text as that one ends.
EXAMPLES = (
    ("is the dog on a leash", "no", "The dog is not on a leash."),
    ("how many people are on the boat", "three", "Three people are on the boat."),
    ("Which animal climbs the fence?", "the grey goat", "The grey goat climbs the fence."),
    ("What does the small robot do?", "rolls away", "The small robot rolls away."),
    (
        "where does the old woman put the basket",
        "on the chair",
        "The old woman puts the basket on the chair.",
    ),
    (
        "why did the people stop walking",
        "heavy rain",
        "The people stopped walking because of heavy rain.",
    ),
    (
        "why is the man in black bending down",
        "tie his shoe",
        "The man in black is bending down to tie his shoe.",
    ),
    (
        "how does the lady react when the bird lands on her hand",
        "smile",
        "The lady smiles when the bird lands on her hand.",
    ),
    (
        "What happened before the cat jumped off the table?",
        "a cup fell",
        "A cup fell before the cat jumped off the table.",
    ),
    (
        "what does the girl do after opening the gate",
        "run to the dog",
        "The girl runs to the dog after opening the gate.",
    ),
)
LABELS = ("question:", "answer:", "sentence:")


def chat_messages(question: str, answer: str) -> list[dict[str, str]]:
    """The system message, the examples as turns, and the question to be written about."""
    turns = [{"role": "system", "content": SYSTEM}]
    for asked, said, sentence in EXAMPLES:
        turns.append({"role": "user", "content": _ask(asked, said)})
        turns.append({"role": "assistant", "content": sentence})
    return [*turns, {"role": "user", "content": _ask(question, answer)}]


def plain_prompt(question: str, answer: str) -> str:
    """The same for a tokenizer without a chat template; a line's end ends the sentence."""
    shots = [f"{_ask(q, a)}\nSentence: {sentence}\n\n" for q, a, sentence in EXAMPLES]
    return f"{SYSTEM}\n\n{''.join(shots)}{_ask(question, answer)}\nSentence:"


def _ask(question: str, answer: str) -> str:
    return f"Question: {' '.join(question.split())}\nAnswer: {' '.join(answer.split())}"


def render(tokenizer: Any, messages: list[dict[str, str]], **options: Any) -> str:
    """The text of messages by the tokenizer's chat template, the same text every day."""
    from jinja2.exceptions import TemplateError

    options |= {"tokenize": False, "enable_thinking": False, "date_string": _DATE}
    try:
        return tokenizer.apply_chat_template(messages, **options)
    except TemplateError:
        # Some templates (Gemma) have no place for a system message: it goes before the first turn.
        first = {**messages[1], "content": f"{messages[0]['content']}\n\n{messages[1]['content']}"}
        return tokenizer.apply_chat_template([first, *messages[2:]], **options)
