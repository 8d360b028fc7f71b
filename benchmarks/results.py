"""What a benchmark found, with the verdicts, tables and curves that docs/performance.md shows.

Machines are shared and their speed drifts, so what is compared takes turns (:func:`interleaved`),
ratios are taken within a turn, and the figure is their median with an interval of it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

_RESAMPLES = 2000


@dataclass(frozen=True)
class Claim:
    """``measured`` against ``bound``; ``met`` is None where it could not be measured."""

    what: str
    measured: str
    bound: str
    met: bool | None


@dataclass(frozen=True)
class Table:
    """Rows of text below ``columns``."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Curve:
    """A cost against a size: points (x, y) of each named line. ``name``: the picture's file."""

    name: str
    title: str
    x_label: str
    y_label: str
    lines: Mapping[str, Sequence[tuple[float, float]]]
    log_x: bool = False


@dataclass(frozen=True)
class Result:
    """One benchmark's. ``data``: all that was measured, for the JSON file."""

    title: str
    claims: tuple[Claim, ...] = ()
    tables: tuple[Table, ...] = ()
    curves: tuple[Curve, ...] = ()
    notes: tuple[str, ...] = ()
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Ratio:
    """Median of the turns' ratios, with a 95 % interval of the median (bootstrap over turns)."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, ours: Sequence[float], theirs: Sequence[float]) -> Ratio:
        """ours / theirs, turn by turn."""
        return cls.around([a / b for a, b in zip(ours, theirs, strict=True)])

    @classmethod
    def around(cls, values: Sequence[float]) -> Ratio:
        draw = random.Random(0)
        medians = sorted(
            statistics.median(draw.choices(values, k=len(values))) for _ in range(_RESAMPLES)
        )
        cut = _RESAMPLES // 40
        return cls(statistics.median(values), medians[cut], medians[-1 - cut])

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f} to {self.high:.2f})"

    def at_most(self, what: str, bound: float) -> Claim:
        return Claim(what, str(self), f"≤ {bound:g}", self.median <= bound)

    def at_least(self, what: str, bound: float) -> Claim:
        return Claim(what, str(self), f"≥ {bound:g}", self.median >= bound)


def interleaved(
    ways: Mapping[str, Callable[[], float]], rounds: int, *, warm: int = 1
) -> dict[str, list[float]]:
    """What each way returns (seconds, say) in each round, in turns; every second round backwards.

    Args:
        warm: rounds before, that do not count.
    """
    found: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(-warm, rounds):
        order = list(ways)[:: 1 if number % 2 == 0 else -1]
        for name in order:
            value = ways[name]()
            if number >= 0:
                found[name].append(value)
    return found


def machine() -> str:
    """The processor's name, the cores this process may use, and the Python."""
    name = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                name = line.partition(":")[2].strip()
                break
    except OSError:
        pass
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{name}, {usable} cores, Python {platform.python_version()}"


def save(result: Result, path: Path) -> None:
    """Keep a result, with all that was measured, as JSON."""
    path.write_text(json.dumps(asdict(result), indent=1) + "\n", encoding="utf-8")


def load(path: Path) -> Result:
    """A result that :func:`save` wrote."""
    tree = json.loads(path.read_text(encoding="utf-8"))
    return Result(
        title=tree["title"],
        claims=tuple(Claim(**claim) for claim in tree["claims"]),
        tables=tuple(
            Table(t["title"], tuple(t["columns"]), tuple(map(tuple, t["rows"])))
            for t in tree["tables"]
        ),
        curves=tuple(Curve(**curve) for curve in tree["curves"]),
        notes=tuple(tree["notes"]),
        data=tree["data"],
    )


def markdown(result: Result) -> str:
    """The result as a section of a page; its curves are pictures beside it, in images/."""
    verdicts = {True: "yes", False: "**no**", None: "not measured"}
    lines = [f"## {result.title}", ""]
    if result.claims:
        lines += ["| what | measured | asked for | met |", "|---|---|---|---|"]
        lines += [
            f"| {c.what} | {c.measured} | {c.bound} | {verdicts[c.met]} |" for c in result.claims
        ]
        lines.append("")
    for table in result.tables:
        lines += [f"{table.title}:", "", f"| {' | '.join(table.columns)} |"]
        lines.append("|" + "---|" * len(table.columns))
        lines += [f"| {' | '.join(row)} |" for row in table.rows]
        lines.append("")
    for curve in result.curves:
        lines += [f"![{curve.title}](images/{curve.name}.svg)", ""]
    lines += [f"- {note}" for note in result.notes]
    return "\n".join(lines).rstrip() + "\n"


def draw(curve: Curve, folder: Path) -> Path:
    """The curve as ``folder/NAME.svg``, the same bytes for the same figures."""
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    # Else its identifiers and date differ from run to run.
    with mpl.rc_context({"svg.hashsalt": curve.name, "svg.fonttype": "none"}):
        figure = Figure(figsize=(6, 3.4), layout="constrained")
        axes = figure.subplots()
        for name, points in curve.lines.items():
            axes.plot(*zip(*points, strict=True), marker="o", label=name)
        axes.set(title=curve.title, xlabel=curve.x_label, ylabel=curve.y_label)
        axes.set_ylim(bottom=0)
        if curve.log_x:
            axes.set_xscale("log", base=2)
        axes.grid(alpha=0.3)
        axes.legend()
        path = folder / f"{curve.name}.svg"
        FigureCanvasSVG(figure).print_svg(str(path), metadata={"Date": None})
    return path


def main(measure: Callable[[Path, bool], Result], argv: Sequence[str] | None = None) -> int:
    """A benchmark by itself: ``python -m benchmarks.NAME --work DIR [--quick] [--json FILE]``."""
    parser = argparse.ArgumentParser(description=(measure.__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--work", type=Path, required=True, help="folder for what is made on the way"
    )
    parser.add_argument("--quick", action="store_true", help="few rounds, small: does it run?")
    parser.add_argument("--json", type=Path, help="file for all that was measured")
    args = parser.parse_args(argv)
    args.work.mkdir(parents=True, exist_ok=True)
    result = measure(args.work, args.quick)
    if args.json is not None:
        save(result, args.json)
    sys.stdout.write(markdown(result))
    return 0
