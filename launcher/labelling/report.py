"""A comparison of label strategies as a table, a plot and a file of figures."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from launcher.errors import UserError
from launcher.labelling.compare import GROUPS


def comparison_table(figures: Mapping[str, Any]) -> str:
    """A line a strategy: label hits and mIoP in percent with intervals, by group."""
    width = max(len(name) for name in figures["strategies"]) + 2
    columns = [(group, key) for group in GROUPS for key in ("hits", "miop")]
    counts = figures["groups"]
    titled = [f"{group}, {counts[group]['questions']} questions" for group in GROUPS]
    above = "".join(f"{title:^40}" for title in titled)
    titles = {"hits": "labels in gold", "miop": "mIoP"}
    header = " " * width + "".join(f"{titles[key]:^20}" for _, key in columns)
    lines = [(" " * width + above).rstrip(), header.rstrip(), "-" * len(header)]
    for name, entry in figures["strategies"].items():
        cells = (_cell(entry[group], key) for group, key in columns)
        lines.append(f"{name:<{width}}{''.join(f'{cell:^20}' for cell in cells)}".rstrip())
    return "\n".join(lines)


def _cell(entry: Mapping[str, Any], key: str) -> str:
    if entry[key] is None:
        return "-"
    low, high = entry[f"{key}_interval"]
    return f"{100 * entry[key]:5.1f} ({100 * low:.1f}-{100 * high:.1f})"


def check_plot() -> None:
    """Raise UserError where plots cannot be drawn: before the work, not after it."""
    if find_spec("matplotlib") is None:
        raise UserError(
            "gcg label --compare: matplotlib is not installed, and a plot is drawn with it; "
            "pip install 'gcg-train[plot]'"
        )


def write_comparison(figures: Mapping[str, Any], folder: Path) -> tuple[Path, Path]:
    """Write ``labels.json`` and ``labels.png`` into ``folder``; return their paths."""
    logging.getLogger("matplotlib").setLevel(logging.WARNING)  # it tells of its fonts
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    folder.mkdir(parents=True, exist_ok=True)
    numbers, picture = folder / "labels.json", folder / "labels.png"
    numbers.write_text(json.dumps(figures, indent=1) + "\n")
    names = list(figures["strategies"])
    figure = Figure(figsize=(5 + 0.9 * len(names), 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (key, title) in zip(
        np.atleast_1d(figure.subplots(1, 2)),
        (("hits", "labels inside a gold span, %"), ("miop", "mIoP of the labels' span, %")),
        strict=True,
    ):
        for offset, group in zip((-0.2, 0.2), GROUPS, strict=True):
            label = f"{group} ({figures['groups'][group]['questions']} questions)"
            entries = [figures["strategies"][name][group] for name in names]
            means = np.array([np.nan if e[key] is None else e[key] for e in entries])
            ends = np.array([e[f"{key}_interval"] or (np.nan, np.nan) for e in entries])
            errors = 100 * np.abs(ends.T - means)
            places = np.arange(len(names)) + offset
            axes.bar(places, 100 * means, 0.38, yerr=errors, capsize=2, label=label)
        axes.set_title(title)
        axes.set_xticks(np.arange(len(names)), names, rotation=40, ha="right")
        axes.set_ylim(0, 100)
        axes.grid(axis="y", alpha=0.3)
    bars, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(bars, labels, loc="outside lower center", ncols=2)
    figure.suptitle(f"Label strategies on {figures['data']}")
    figure.savefig(picture, dpi=140)
    return numbers, picture
