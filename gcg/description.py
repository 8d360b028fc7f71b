"""Event descriptions: one declarative sentence from a question and its answer (step 2).

The template writer covers the common English question forms; anything else becomes the question's
words followed by the answer, which a CLIP text encoder still matches to the right frames.
"""

from __future__ import annotations

import re

WRITER = "template-1"

_FORMS: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern, re.IGNORECASE), form)
    for pattern, form in (
        (r"what (?:does|do|did) (?P<who>.+?) do(?P<rest> .+)?", "{who} {answer}{rest}"),
        (r"what (?:is|are|was|were) (?P<who>.+?) doing(?P<rest> .+)?", "{who} {answer}{rest}"),
        (r"(?:which|what) (?:object|person|animal|thing) (?P<verb>.+)", "{answer} {verb}"),
        (r"who (?P<verb>.+)", "{answer} {verb}"),
        (r"what (?:happens|happened) (?P<rest>.+)", "{answer} {rest}"),
        (r"where (?:is|are|was|were) (?P<rest>.+)", "{rest} {answer}"),
        (
            r"(?:why|how) (?:does|do|did|is|are|was|were) (?P<rest>.+)",
            "{rest} {answer}",
        ),
    )
)


def describe(question: str, answer: str) -> str:
    """The sentence for one question and its answer: capitalised, one full stop at the end.

    >>> describe("What does the red circle do?", "moves left")
    'The red circle moves left.'

    Raises ValueError when the question or the answer is empty.
    """
    text, said = _clean(question), _clean(answer)
    if not text or not said:
        raise ValueError(f"question {question!r} with answer {answer!r}: neither may be empty")
    for pattern, form in _FORMS:
        found = pattern.fullmatch(text)
        if found:
            parts = {name: value or "" for name, value in found.groupdict().items()}
            text = form.format(answer=said, **parts)
            break
    else:
        text = f"{text} {said}"
    return text[0].upper() + text[1:] + "."


def _clean(text: str) -> str:
    return " ".join(text.split()).rstrip("?!. ")
