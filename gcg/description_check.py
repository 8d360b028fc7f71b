"""Whether what a language model wrote can be an event description (step 2).

A small model echoes, rambles or answers the question. The checks refuse too much rather than too
little: what they refuse is written by the template of ``gcg.description``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple

from gcg.description_prompt import EXAMPLES, LABELS, SYSTEM

# Named in what labels were made by: other checks, other descriptions.
CHECK_VERSION = "check-1"
_EMPTY_WORDS = frozenset({
    "a", "an", "the", "this", "that", "these", "those", "it", "its", "he", "his", "him", "she",
    "her", "they", "their", "them", "is", "are", "was", "were", "be", "been", "do", "does", "did",
    "to", "of", "in", "on", "at", "by", "for", "from", "into", "with", "and", "or", "not", "as",
    "what", "which", "who", "whom", "whose", "why", "how", "when", "where", "yes", "no", "s",
    "happen", "happens", "happened", "because", "so", "while", "after", "before",
})  # fmt: skip
_NUMBERS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten",
    "eleven", "twelve",
)  # fmt: skip
_RELATION = re.compile(r"\b(after|before)\b")
_NEGATION = re.compile(r"\b(no|not|never|none|nothing|nobody|without|cannot)\b|n't\b|n t\b")


class Judged(NamedTuple):
    """``text``: the sentence, "" where it is refused; ``reason``: why, None where it is not."""

    text: str
    reason: str | None


@dataclass(frozen=True)
class Written:
    """What the model wrote, cut at its end mark. ``ended``: it came to an end by itself."""

    output: str
    ended: bool


def judge(written: Written, question: str, answer: str) -> Judged:
    """The description in what a model wrote, or why it cannot be used.

    Refused are: nothing; several lines; a question; words of the prompt; a text that leaves out
    the answer (fewer than half of its content words, inflections aside) or the question (fewer
    than a third); a "no" that neither question nor answer has; two or more content words that
    neither has; another order of the answer and the event that the question says it lies before or
    after; a text that is cut off or much longer than question and answer together.
    """
    text = written.output.strip().strip("\"'“”").strip()
    if not text:
        return Judged("", "empty")
    if len(text.splitlines()) > 1:
        return Judged("", "several lines")
    text = " ".join(text.split())
    lowered = text.lower()
    if lowered.rstrip("?!. ") == question.lower().strip().rstrip("?!. ") or text.endswith("?"):
        return Judged("", "repeats the question")
    said = [SYSTEM, *(sentence for *_, sentence in EXAMPLES)]
    if any(mark in lowered for mark in LABELS) or any(s.lower() in lowered for s in said):
        return Judged("", "repeats the prompt")
    if not written.ended:
        return Judged("", "too long")
    length = len(question.split()) + len(answer.split())
    if len(text.split()) > 1.5 * length + 4:
        return Judged("", "too long")
    if _share(answer, text) < 1 / 2:
        return Judged("", "leaves out the answer")
    if _NEGATION.search(lowered) and not _NEGATION.search(f"{question} {answer}".lower()):
        return Judged("", "denies the answer")
    if _share(question, text) < 1 / 3:
        return Judged("", "leaves out the question")
    if _foreign(text, f"{question} {answer}") > 1:
        return Judged("", "adds what was not said")
    if not _keeps_order(question, answer, lowered):
        return Judged("", "changes what comes before and after")
    text = text.rstrip("!. ") + "."
    return Judged(text[0].upper() + text[1:], None)


def _foreign(text: str, given: str) -> int:
    """How many content words of ``text`` are in ``given`` in no inflection."""
    known = _stems(given)
    return sum(not any(_akin(one, other) for other in known) for one in _stems(text))


def _keeps_order(question: str, answer: str, lowered: str) -> bool:
    """Whether a sentence says "answer after event" of a question that asks "what ... after event",
    or "after event, answer"; "before" alike. True where the question says neither, or asks why."""
    found = _RELATION.search(question.lower())
    asks_why = question.lower().split()[:1] == ["why"]
    if found is None or asks_why or _RELATION.search(answer.lower()):
        return True
    word = found.group(1)
    if lowered.startswith(f"{word} "):
        main = lowered.partition(",")[2]
    else:
        main, said, _ = lowered.partition(f" {word} ")
        if not said:
            return False
    return _share(answer, main) >= 1 / 2


def _share(wanted: str, text: str) -> float:
    """The share of ``wanted``'s content words that ``text`` has in some inflection."""
    stems, had = _stems(wanted), _stems(text)
    if not stems:
        return 1.0
    return sum(any(_akin(one, other) for other in had) for one in stems) / len(stems)


def _stems(text: str) -> list[str]:
    words = [word for word in re.findall(r"\w+", text.lower()) if word not in _EMPTY_WORDS]
    numbered = [
        _NUMBERS[int(word)] if word.isdecimal() and int(word) < len(_NUMBERS) else word
        for word in words
    ]
    return [re.sub(r"(?<=\w{3})(?:ing|ed|es|s|y|ies|ied|e)$", "", word) for word in numbered]


def _akin(one: str, other: str) -> bool:
    """carr(y) and carr(ies), run and runn(ing): one begins the other, but for a last letter."""
    shorter = min(len(one), len(other))
    needed = max(min(shorter, 3), shorter - 1)
    return one[:needed] == other[:needed] and abs(len(one) - len(other)) <= 3
