"""Runs side by side: figures with intervals, and differences over the questions both answered."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gcg.metrics import cluster_interval, iou_iop
from launcher.evaluation.rows import Row
from launcher.evaluation.scores import summarise

Figures = dict[str, Any]


def figures_of(rows: Sequence[Row]) -> Figures:
    """What :func:`launcher.evaluation.scores.summarise` finds; ``intervals`` (95 %, bootstrap over
    videos) of accuracy and of the grounding figures, also of each type's accuracy."""
    asked = [row for row in rows if "skipped" not in row]
    figures: Figures = {
        name: None if _is_nan(value) else value for name, value in summarise(rows).items()
    }
    intervals: dict[str, list[float]] = {}
    if asked:
        intervals["accuracy"] = figures.pop("interval")
    grounded = [row for row in asked if row["gold"] and row["span"]]
    if grounded:
        videos = [row["video"] for row in grounded]
        for name, values in _grounding(grounded).items():
            intervals[name] = list(cluster_interval(values, videos))
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in asked:
        groups[row["type"]].append(row)
    by_type = {
        kind: {**figures["by_type"][kind], "interval": _interval_of(group)}
        for kind, group in sorted(groups.items())
    }
    return {**figures, "intervals": intervals, "by_type": by_type}


def compare(own: Sequence[Row], other: Sequence[Row]) -> Figures:
    """How much more often the one run is right than the other, over the questions that both
    answered: ``accuracy`` in [-1, 1] with its ``interval``, and how many ``questions``.

    Paired, so what is hard about a question is hard for both, and the interval is narrower than
    those of the two runs suggest.
    """
    right = {(row["video"], row["question"]): row["correct"] for row in other}
    pairs = [
        (row["video"], float(row["correct"]) - float(right[key]))
        for row in own
        if (key := (row["video"], row["question"])) in right
    ]
    if not pairs:
        return {"questions": 0, "accuracy": None, "interval": None}
    videos, differences = zip(*pairs, strict=True)
    return {
        "questions": len(pairs),
        "accuracy": float(np.mean(differences)),
        "interval": list(cluster_interval(differences, videos)),
    }


def _grounding(rows: Sequence[Row]) -> Mapping[str, list[float]]:
    """Each question's part of the grounding figures, under their names."""
    pairs = [iou_iop(row["span"], row["gold"]) for row in rows]
    both = zip(pairs, rows, strict=True)
    return {
        "miop": [iop for _, iop in pairs],
        "miou": [iou for iou, _ in pairs],
        "acc_gqa": [float(iop >= 0.5 and row["correct"]) for (_, iop), row in both],
    }


def _interval_of(rows: Sequence[Row]) -> list[float]:
    right = [float(row["correct"]) for row in rows]
    return list(cluster_interval(right, [row["video"] for row in rows]))


def _is_nan(value: object) -> bool:
    return isinstance(value, float) and math.isnan(value)
