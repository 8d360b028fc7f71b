"""Kept runs → a table: mean and 95 % interval over seeds."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

COLUMNS = {
    "miop": "mIoP",
    "iop50": "IoP@0.5",
    "miou": "mIoU",
    "random": "random mIoP",
    "length": "length",
    "overlap": "overlap",
    "accuracy": "answers",
    "acc_gqa": "Acc@GQA",
}
# Two-sided 95 % quantiles of Student's t by degrees of freedom.
_T95 = (math.nan, 12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)


def read_runs(path: Path) -> list[dict[str, Any]]:
    """The runs kept in a JSON Lines file; none where there is no file.

    A half-written last line (a killed run) is left out.
    """
    if not path.exists():
        return []
    runs = []
    for line in path.read_text().splitlines():
        try:
            runs.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return runs


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean and half the width of its 95 % interval (Student's t; nan for one value)."""
    mean = float(np.mean(values))
    if len(values) < 2 or len(values) > len(_T95):
        return mean, math.nan
    spread = float(np.std(values, ddof=1))
    return mean, _T95[len(values) - 1] * spread / math.sqrt(len(values))


def markdown(runs: Iterable[dict[str, Any]], extraction: str) -> str:
    """A row a variant, in the order of its first run."""
    by_variant: dict[str, list[dict[str, float]]] = {}
    for run in runs:
        if extraction in run["figures"]:
            by_variant.setdefault(run["variant"], []).append(run["figures"][extraction])
    lines = [
        "| variant | seeds | " + " | ".join(COLUMNS.values()) + " |",
        "|---" * (len(COLUMNS) + 2) + "|",
    ]
    for name, figures in by_variant.items():
        cells = [_cell([row[key] for row in figures]) for key in COLUMNS]
        lines.append(f"| {name} | {len(figures)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(values: Sequence[float]) -> str:
    mean, half = interval(values)
    return f"{mean:.1f}" if math.isnan(half) else f"{mean:.1f} ± {half:.1f}"
