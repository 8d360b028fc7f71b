"""Causal-VidQA: an answer and the reason for it, right only together.

https://github.com/bcmi/Causal-VidQA/blob/main/eval_mc.py, which takes the right answers from the
result file and goes by its order; here the ids decide, so that any order will do.
"""

from __future__ import annotations

from collections.abc import Sequence

from dataloaders.importers.asked import Asked
from dataloaders.importers.causalvidqa import KINDS
from launcher.errors import UserError
from launcher.scoring.files import Given
from launcher.scoring.result import Figure, percent, tally

NAMES = {
    "description": "Description",
    "explanation": "Explanation",
    "predictive-answer": "Predictive-Answer",
    "predictive-reason": "Predictive-Reason",
    "counterfactual-answer": "Counterfactual-Answer",
    "counterfactual-reason": "Counterfactual-Reason",
    "predictive": "Predictive",
    "counterfactual": "Counterfactual",
}
_STEPS = ("predictive", "counterfactual")
_CHOICES = tuple("01234")


def figures(asked: Sequence[Asked], right: Sequence[bool]) -> list[Figure]:
    """Each kind of question; answer and reason jointly; and Acc over the four kinds, joint ones
    for the two that have reasons. Kinds without a question are left out."""
    counts = tally(asked, right, lambda each: each.type)
    together: dict[tuple[str, str], list[bool]] = {}
    for each, correct in zip(asked, right, strict=True):
        step = each.type.split("-")[0]
        if step in _STEPS:
            together.setdefault((step, each.video), []).append(correct)
    for step in _STEPS:
        halves = [parts for (name, _), parts in together.items() if name == step]
        if halves:
            counts[step] = sum(len(h) == 2 and all(h) for h in halves), len(halves)
    found = [percent(label, *counts[name]) for name, label in NAMES.items() if name in counts]
    whole = [counts[name] for name in ("description", "explanation", *_STEPS) if name in counts]
    return [*found, percent("Acc", sum(w[0] for w in whole), sum(w[1] for w in whole))]


def questions_of(given: Sequence[Given]) -> list[Asked]:
    """The questions of a result file that has the right answers beside the predictions.

    Raises:
        UserError: an entry without a right answer, or an id that does not end in 0 to 5.
    """
    found: dict[str, Asked] = {}
    for each in given:
        video, _, number = each.id.rpartition("_")
        if not video or number not in ("0", "1", "2", "3", "4", "5"):
            raise UserError(f"{each.id}: not <video>_<0 to 5>; give Causal-VidQA's result file")
        if type(each.right) is not int or each.right not in range(len(_CHOICES)):
            raise UserError(
                f"{each.id}: answer: {each.right!r}: not in 0..4, and there are no annotations; "
                "give --annotations"
            )
        kind = KINDS[int(number)][0]
        found[each.id] = Asked(
            each.id, video, number, each.id, "", _CHOICES[each.right], _CHOICES, each.right, kind
        )
    return list(found.values())
