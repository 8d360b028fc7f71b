"""`gcg eval`: load trained runs one after the other and score them on the same split."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from launcher.errors import UserError
from launcher.evaluation.evaluate import Split, evaluate_split
from launcher.evaluation.keep import keep_rows
from launcher.evaluation.names import named
from launcher.evaluation.scores import summarise
from launcher.export.run import Weights, open_run, run_fault

log = logging.getLogger(__name__)


def evaluate_runs(
    runs: Sequence[Path],
    split: Split,
    weights: Weights = "final",
    keep: Callable[[str, list[dict[str, Any]]], None] = lambda name, rows: None,
) -> dict[str, dict[str, Any]]:
    """Figures of each run by its name (:func:`launcher.evaluation.names.named`).

    The rows stay in each run's folder (:mod:`launcher.evaluation.rows`), for ``gcg report``;
    ``keep`` is given each run's name and rows once it is through. Raises ``UserError`` with a line
    for every run that cannot be evaluated.
    """
    problems = [fault for run in runs if isinstance(fault := run_fault(run, weights), str)]
    if problems:
        raise UserError(problems)
    opened = [open_run(run, weights) for run in runs]
    names = named([each.config.model.mode for each in opened], runs)
    results = {}
    for run, each, name in zip(runs, opened, names, strict=True):
        model = each.trained_model()
        log.info("%s: answering the %s questions", run, split)
        rows = evaluate_split(model, each.config, split, detailed=True)
        figures = summarise(rows)
        keep_rows(each, split, rows)
        keep(name, rows)
        results[name] = {**figures, "run": str(run), "split": split, "weights": weights}
    return results
