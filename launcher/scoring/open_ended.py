"""Answers in words: MSVD-QA, MSRVTT-QA and ActivityNet-QA, right if they are the same text.

https://github.com/xudejing/video-question-answering (``run_gra.py``),
https://github.com/MILVLG/activitynet-qa/blob/master/evaluation/eval.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dataloaders.importers.asked import Asked
from dataloaders.importers.openended import ACTIVITYNET_TYPES, FIRST_WORDS
from launcher.errors import UserError
from launcher.evaluation.normalise import normalise_answer
from launcher.scoring.match import Matched
from launcher.scoring.result import Figure, percent, tally

_ACTIVITYNET_NAMES = (
    "Motion", "Spatial Relation", "Temporal Relation",
    "Yes/No", "Color", "Object", "Location", "Number", "Other",
)  # fmt: skip
_FREE = 3  # types from here on are ActivityNet-QA's free questions


@dataclass(frozen=True)
class Compared:
    right: list[bool]
    notes: list[str]


def compare(asked: Sequence[Asked], matched: Matched, exact: bool = True) -> Compared:
    """Which answers are the right text; a question without prediction is wrong.

    ``exact``: to the letter, as the benchmarks compare; else without regard to case, punctuation
    and articles, as `gcg eval` does. Raises UserError: a prediction is no text.
    """
    right, nearly, numbers = [], 0, 0
    for each in asked:
        given = matched.of(each)
        value = None if given is None else given.value
        if isinstance(value, int) and not isinstance(value, bool):
            if given is not None and isinstance(given.right, int):
                numbers += 1
                right.append(value == given.right)
                continue
            value = str(value)  # a counting answer
        if value is not None and not isinstance(value, str):
            raise UserError(
                f"prediction for {each.key}: {str(value)[:40]!r}: not a text; correct the file"
            )
        same = value == each.answer
        alike = value is not None and normalise_answer(value) == normalise_answer(each.answer)
        right.append(same if exact else same or alike)
        nearly += alike and not same
    notes = []
    if exact and nearly:
        notes.append(
            f"{nearly} answers are right but for case, punctuation or articles: wrong, as in the "
            "benchmark's script"
        )
    if numbers:
        notes.append(
            f"{numbers} answers are numbers, with the right number beside them: these two are "
            "compared, for the list of words they come from is not here"
        )
    return Compared(right, notes)


def word_figures(asked: Sequence[Asked], right: Sequence[bool]) -> list[Figure]:
    """MSVD-QA and MSRVTT-QA: accuracy by the question's first word, and over all."""
    counts = tally(asked, right, lambda each: each.type)
    names = [*FIRST_WORDS, *(["other"] if "other" in counts else [])]
    found = [percent(name.capitalize(), *counts.get(name, (0, 0))) for name in names]
    return [*found, percent("All", sum(right), len(right))]


def type_figures(asked: Sequence[Asked], right: Sequence[bool]) -> list[Figure]:
    """Any benchmark without a script of its own: accuracy by type, and over all."""
    counts = tally(asked, right, lambda each: each.type or None)
    found = [percent(name, *counts[name]) for name in sorted(counts)]
    return [*found, percent("Acc", sum(right), len(right))]


def activitynet_figures(
    asked: Sequence[Asked], right: Sequence[bool]
) -> tuple[list[Figure], list[str]]:
    """Shares with four digits, as the benchmark prints them, and what its script prints besides."""
    counts = tally(asked, right, lambda each: each.type)
    by_type = [counts.get(name, (0, 0)) for name in ACTIVITYNET_TYPES]
    shares = [_share(name, *pair) for name, pair in zip(_ACTIVITYNET_NAMES, by_type, strict=True)]
    hits = sum(pair[0] for pair in by_type[_FREE:])
    free = _share("Free", hits, sum(pair[1] for pair in by_type[_FREE:]))
    everything = _share("All", sum(right), len(right))
    # The script means types 3 to 8 but takes all after the first three that it met, and since
    # Python 3.7 a dict keeps the order of the file.
    met = sum(count for _, count in list(counts.values())[_FREE:])
    notes = []
    if met and met != free.count:
        notes.append(
            f"the benchmark's eval.py prints Free {hits / met:.4f} under Python 3.7 or later: it "
            f"divides by {met} questions, which are not the free ones"
        )
    return [*shares[:_FREE], free, everything, *shares[_FREE:]], notes


def _share(name: str, right: int, count: int) -> Figure:
    return Figure(name, right / float(count) if count else None, count, 4)
