"""STAR: accuracy of each type of question, and their mean.

https://github.com/csbobby/STAR_Benchmark (code/program_executor/run_program.py); the paper and the
leaderboard rank by the mean of the four types, not of the questions.
"""

from __future__ import annotations

from collections.abc import Sequence

from dataloaders.importers.asked import Asked
from dataloaders.importers.star import TYPES
from launcher.scoring.result import Figure, percent, tally


def figures(asked: Sequence[Asked], right: Sequence[bool]) -> list[Figure]:
    counts = tally(asked, right, lambda each: each.type)
    found = [percent(name, *counts.get(name, (0, 0))) for name in TYPES]
    values = [figure.value for figure in found if figure.value is not None]
    mean = sum(values) / len(values) if values else None
    overall = percent("Overall", sum(right), len(right))
    return [*found, Figure("Mean", mean, len(right)), overall]
