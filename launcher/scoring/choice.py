"""Answers to questions with options: which of them is right, and NExT-QA's and IntentQA's figures.

https://github.com/doc-doc/NExT-QA/blob/main/eval_mc.py,
https://github.com/JoseponLee/IntentQA/blob/main/eval_intentqa.py.
"""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dataloaders.importers.asked import Asked
from launcher.errors import UserError
from launcher.scoring.match import Matched
from launcher.scoring.result import Figure, percent, tally

# NExT-QA's types and groups in the order and with the names of its script; TP counts as TN.
NAMES = {
    "CW": "Why", "CH": "How", "TN": "Bef&Aft", "TC": "When", "DC": "Cnt", "DL": "Loc",
    "DO": "Other", "C": "Acc_C", "T": "Acc_T", "D": "Acc_D",
}  # fmt: skip
_STRAY = -1
_LONG = 9  # digits that are no option's place any more


@dataclass(frozen=True)
class Judged:
    """Which answers are right, and what is odd about them (lines for the reader)."""

    right: list[bool]
    notes: list[str]


def judge(asked: Sequence[Asked], matched: Matched) -> Judged:
    """Compare the chosen options with the right ones; a question without prediction is wrong.

    A prediction is a place (a number, or a text of digits if all texts in the file are), a letter
    (if all texts are single ones), or an option's text.

    Raises:
        UserError: a prediction is none of these.
    """
    entries = [matched.of(each) for each in asked]
    chosen = _places(asked, [None if e is None else e.value for e in entries])
    golds = _places(asked, [None if e is None else e.right for e in entries])
    # Two options may have the same text; by place only one of them is right, as in the scripts.
    right = [place == each.answer_index for each, place in zip(asked, chosen, strict=True)]
    strays = sum(place == _STRAY for place in chosen)
    others = sum(
        place is not None and place != each.answer_index
        for each, place in zip(asked, golds, strict=True)
    )
    notes = [f"{strays} predictions are none of their question's options: wrong"] if strays else []
    if others:
        notes.append(
            f"{others} entries name another right answer than the annotations, which count (the "
            "benchmark's script goes by the entries)"
        )
    return Judged(right, notes)


def _places(asked: Sequence[Asked], values: Sequence[Any]) -> list[int | None]:
    """The place of each value among its question's options; None for no value."""
    texts = [v.strip() for v in values if isinstance(v, str) and v.strip()]
    digits = bool(texts) and all(text.isdecimal() and len(text) < _LONG for text in texts)
    letters = bool(texts) and all(len(t) == 1 and t in string.ascii_uppercase for t in texts)
    return [_place(each, v, digits, letters) for each, v in zip(asked, values, strict=True)]


def _place(asked: Asked, value: Any, digits: bool, letters: bool) -> int | None:
    options = asked.options or ()
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise UserError(
            f"prediction for {asked.key}: {str(value)[:40]!r}: neither the number nor the text of "
            "an option; correct the file"
        )
    if isinstance(value, int):
        return value if 0 <= value < len(options) else _STRAY
    if digits:
        value = int(value)
    elif letters:
        value = string.ascii_uppercase.index(value.strip())
    elif _plain(value) == _plain(asked.answer):
        return asked.answer_index
    else:
        return next((i for i, o in enumerate(options) if _plain(o) == _plain(value)), _STRAY)
    return value if value < len(options) else _STRAY


def _plain(text: str) -> str:
    return " ".join(text.lower().split())


def group_figures(
    asked: Sequence[Asked], right: Sequence[bool], digits: int = 2, empty: bool = True
) -> list[Figure]:
    """NExT-QA's figures: by type, by group (causal, temporal, descriptive) and over all.

    ``empty``: also those of types without a question. Raises UserError: another type.
    """
    for each in asked:
        if each.type not in ("TP", *NAMES) or len(each.type) != 2:
            raise UserError(
                f"{each.place}: type: {each.type!r}: none of NExT-QA's (CW CH TN TP TC DC DL DO)"
            )
    counts = tally(asked, right, lambda a: "TN" if a.type == "TP" else a.type)
    counts |= tally(asked, right, lambda a: a.type[0])
    figures = [
        percent(label, *counts.get(name, (0, 0)), digits)
        for name, label in NAMES.items()
        if empty or name in counts
    ]
    return [*figures, percent("Acc", sum(right), len(right), digits)]
