"""From answered questions to figures: accuracy by type with an interval, and grounding."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np

from gcg.metrics import THRESHOLDS, cluster_interval, iou_iop, random_window_iop, span_iou

Row = dict[str, Any]


def summarise(rows: Sequence[Row]) -> dict[str, Any]:
    """Figures of one evaluation, all shares in [0, 1].

    ``accuracy`` and its 95 % ``interval`` (bootstrap over videos), ``num_questions``,
    ``num_skipped`` (questions of clips that did not decode; in no other figure), ``by_type``;
    for questions with gold spans ``miop``, ``miou``, ``iop@0.3`` ..., ``acc_gqa`` (right and
    IoP >= 0.5), ``random_window_miop`` (expected, for windows as long as the predicted ones) and
    ``span_overlap``: mean IoU of the spans predicted for different questions of one video.
    """
    asked = [row for row in rows if "skipped" not in row]
    figures: dict[str, Any] = {
        "num_questions": len(asked),
        "num_skipped": len(rows) - len(asked),
        "num_videos": len({row["video"] for row in asked}),
    }
    if not asked:
        return {**figures, "accuracy": None, "interval": None, "by_type": {}}
    correct = [float(row["correct"]) for row in asked]
    figures["accuracy"] = float(np.mean(correct))
    figures["interval"] = list(cluster_interval(correct, [row["video"] for row in asked]))
    figures["by_type"] = _by_type(asked)
    grounded = [row for row in asked if row["gold"] and row["span"]]
    if grounded:
        figures |= _grounding(grounded)
    return figures


def _by_type(rows: Sequence[Row]) -> dict[str, dict[str, float]]:
    groups: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        groups[row["type"]].append(float(row["correct"]))
    return {
        kind: {"accuracy": float(np.mean(values)), "num_questions": len(values)}
        for kind, values in sorted(groups.items())
    }


def _grounding(rows: Sequence[Row]) -> dict[str, float]:
    pairs = np.array([iou_iop(row["span"], row["gold"]) for row in rows])
    iou, iop = pairs[:, 0], pairs[:, 1]
    right = np.array([row["correct"] for row in rows], dtype=bool)
    chance = [
        random_window_iop(row["span"][1] - row["span"][0], row["duration"], row["gold"])
        for row in rows
    ]
    figures = {"num_grounded": len(rows), "miop": float(iop.mean()), "miou": float(iou.mean())}
    for threshold in THRESHOLDS:
        figures[f"iop@{threshold}"] = float((iop >= threshold).mean())
        figures[f"iou@{threshold}"] = float((iou >= threshold).mean())
    figures["acc_gqa"] = float(((iop >= 0.5) & right).mean())
    figures["random_window_miop"] = float(np.mean(chance))
    figures["span_overlap"] = _overlap(rows)
    return figures


def _overlap(rows: Sequence[Row]) -> float:
    spans: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for row in rows:
        spans[row["video"]].append(tuple(row["span"]))
    overlaps = [span_iou(a, b) for group in spans.values() for a, b in combinations(group, 2)]
    return float(np.mean(overlaps)) if overlaps else float("nan")


def table(results: dict[str, dict[str, Any]]) -> str:
    """Runs side by side, a line each; shares in percent."""
    header = (
        f"{'mode':<12}{'accuracy':>9}  {'95 % interval':<15}{'questions':>9}"
        f"{'mIoP':>7}{'mIoU':>7}{'Acc@GQA':>9}{'random mIoP':>13}{'overlap':>9}"
    )
    lines = [header, "-" * len(header)]
    for name, figures in results.items():
        low, high = figures["interval"] or (float("nan"), float("nan"))
        cells = [_percent(figures.get(key)) for key in ("miop", "miou", "acc_gqa")]
        lines.append(
            f"{name:<12}{_percent(figures['accuracy']):>9}  "
            f"{f'{_percent(low)} to {_percent(high)}':<15}{figures['num_questions']:>9}"
            f"{cells[0]:>7}{cells[1]:>7}{cells[2]:>9}"
            f"{_percent(figures.get('random_window_miop')):>13}"
            f"{_percent(figures.get('span_overlap')):>9}"
        )
    return "\n".join(lines)


def type_table(results: dict[str, dict[str, Any]]) -> str:
    """Accuracy in percent by question type, a column a run, and how many questions there are."""
    counts: dict[str, int] = {}
    for figures in results.values():
        for kind, entry in figures["by_type"].items():
            counts[kind] = entry["num_questions"]
    header = f"{'type':<20}{'questions':>9}" + "".join(f"{name:>12}" for name in results)
    lines = [header, "-" * len(header)]
    for kind, count in sorted(counts.items()):
        shares = (figures["by_type"].get(kind, {}).get("accuracy") for figures in results.values())
        lines.append(f"{kind or '-':<20}{count:>9}" + "".join(f"{_percent(s):>12}" for s in shares))
    return "\n".join(lines)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"
