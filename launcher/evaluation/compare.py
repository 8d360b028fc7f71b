"""`gcg eval`: load trained runs one after the other and score them on the same split."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from gcg.build import build_model
from gcg.model import GCGModel
from launcher.config import RunConfig, load_run_config
from launcher.errors import UserError
from launcher.evaluation.evaluate import Split, evaluate_split
from launcher.evaluation.keep import keep_rows
from launcher.evaluation.scores import summarise
from launcher.training.weights import load_trained_weights

Weights = Literal["best", "final"]

log = logging.getLogger(__name__)


def evaluate_runs(
    runs: Sequence[Path], split: Split, weights: Weights = "final"
) -> dict[str, dict[str, Any]]:
    """Figures of each run by its mode (by its folder's name where modes repeat).

    The rows stay in each run's folder (:mod:`launcher.evaluation.rows`), for ``gcg report``.
    Raises ``UserError`` with a line for every run that cannot be evaluated.
    """
    problems = [line for run in runs for line in run_problems(run, weights)]
    if problems:
        raise UserError(problems)
    configs = [load_run_config(run / "config.yaml") for run in runs]
    modes = [config.model.mode for config in configs]
    results = {}
    for run, config in zip(runs, configs, strict=True):
        name = config.model.mode if modes.count(config.model.mode) == 1 else run.name
        model = load_model(run, config, weights)
        log.info("%s: answering the %s questions", run, split)
        rows = evaluate_split(model, config, split, detailed=True)
        figures = summarise(rows)
        keep_rows(run, config, split, weights, rows)
        results[name] = {**figures, "run": str(run), "split": split, "weights": weights}
    return results


def load_model(run: Path, config: RunConfig, weights: Weights) -> GCGModel:
    """A run's model with the weights it was trained to.

    Raises:
        UserError: they are not those of its configuration.
    """
    model = build_model(config.model, config.run.seed)
    state = load_trained_weights(_weights_folder(run, weights))
    missing, unexpected = model.load_state_dict(state, strict=False)
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    lost = sorted(trained & set(missing))
    if lost or unexpected:
        raise UserError(
            f"{run}: its weights do not fit its config.yaml (missing {lost[:3]}, unexpected "
            f"{list(unexpected)[:3]}); was one of them changed by hand?"
        )
    return model


def run_problems(run: Path, weights: str) -> list[str]:
    """What keeps a run from being asked, a line each."""
    if not (run / "config.yaml").is_file():
        return [f"{run}: no config.yaml there, so no run of `gcg train`; name a run's folder"]
    wanted = run / ("best.json" if weights == "best" else "final")
    if not wanted.exists():
        return [f"{wanted}: not there yet; let `gcg train` finish, or choose other --weights"]
    return []


def _weights_folder(run: Path, weights: str) -> Path:
    if weights == "final":
        return run / "final"
    return run / json.loads((run / "best.json").read_text())["path"]
