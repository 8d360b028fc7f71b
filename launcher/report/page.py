"""A run's figures as one page: text, tables, charts and images in a single file that asks for
nothing."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from launcher.observe.goodput import CAUSES
from launcher.report import plots, words
from launcher.report.shown import Shown
from launcher.report.timeline import whisker
from launcher.report.words import date, or_dash, percent, span

_TEMPLATES = Path(__file__).with_name("templates")
_VALIDATION = ("accuracy", "miop", "miou", "acc_gqa")
_LOSSES = ("loss", "loss_vqa", "loss_reg", "loss_con")
_STEPS = ("step_p50_s", "step_p90_s", "step_p99_s", "step_max_s")

_SECTIONS = (
    ("time", "time"), ("loss", "losses"), ("validation", "validation"), ("pace", "pace"),
    ("answers", "answers"), ("examples", "examples"), ("failures", "same spans"),
    ("data", "bad clips"), ("bad-steps", "updates left out"), ("attempts", "attempts"),
    ("checkpoints", "checkpoints"), ("config", "run file"),
)  # fmt: skip

# A page is passed on more freely than a folder: of a URL neither who asks nor what signs it.
_SECRET = re.compile(
    r"(?P<scheme>[a-z][a-z0-9+.-]*://)(?:[^/@\s]+@)?(?P<place>[^\s?\"']*)(?:\?\S*)?"
)


def render(
    figures: Mapping[str, Any],
    evaluation: Mapping[str, Any] | None = None,
    shown: Shown | None = None,
) -> str:
    """The page as HTML.

    Args:
        figures: what :func:`launcher.report.figures.run_figures` found of the run.
        evaluation: :func:`launcher.report.evaluation.evaluation_figures`; None: not asked for.
        shown: its examples.
    """
    return environment().get_template("page.html").render(
        **{name: figures[name] for name in ("run", "folder", "state", "goodput", "best", "peak")},
        last_interval=figures["last_interval"],
        charts={name: Markup(chart) for name, chart in _charts(figures).items()},
        time_parts=_time_parts(figures["goodput"]["parts"]),
        validation=_validation(figures["validation"]),
        pace=_pace(figures["last_interval"] or {}),
        quarantine=figures["quarantine"],
        quarantined=_cells(figures["quarantine"]["last"], ("data", "shard", "key", "reason")),
        bad_steps=figures["bad_steps"],
        left_out=_cells(figures["bad_steps"]["last"], ("step", "attempt", "cause", "pairs")),
        attempts=[_attempt(attempt) for attempt in figures["attempts"]],
        checkpoints=[_checkpoint(each) for each in figures["checkpoints"]],
        config=_run_file(figures["config"]),
        sections=[
            each for each in _SECTIONS
            if (evaluation or each[0] != "answers")
            and (shown or each[0] not in ("examples", "failures"))
        ],
        evaluation=evaluation,
        types=_types(evaluation),
        shown=shown,
    )  # fmt: skip


@cache
def environment(*more: Path) -> Environment:
    """The page's templates, and those of other folders, which may use them."""
    environment = Environment(
        loader=FileSystemLoader([*more, _TEMPLATES]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        percent=percent, span=span, date=date, interval=words.interval, size=words.size
    )
    environment.globals.update(whisker=_whisker, colours=plots.COLOURS)
    return environment


def _whisker(value: float, ends: Sequence[float]) -> Markup:
    return Markup(whisker(value, ends, f"{percent(value)}, {words.interval(ends)}"))


def _charts(figures: Mapping[str, Any]) -> dict[str, str]:
    trained, validated = figures["train"], figures["validation"]
    share = ("data_wait_share", "mfu", "goodput")
    return {
        "time": plots.bar(figures["goodput"]["parts"], "wall time by cause"),
        "loss": plots.lines(_series(trained, _LOSSES), "losses"),
        "validation": plots.lines(_series(validated, _VALIDATION), "validation figures"),
        "steps": plots.lines(_series(trained, _STEPS), "seconds of a step"),
        "wait": plots.lines(_series(trained, share), "shares"),
    }


def _types(evaluation: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """Accuracy by question type, all runs of one type side by side, the most frequent first."""
    runs = [] if evaluation is None else evaluation["runs"]
    counts: dict[str, int] = {}
    for run in runs:
        for kind, entry in run["by_type"].items():
            counts[kind] = max(counts.get(kind, 0), entry["num_questions"])
    return [
        {
            "kind": kind or "–",
            "count": counts[kind],
            "runs": [(run["name"], run["by_type"][kind]) for run in runs if kind in run["by_type"]],
        }
        for kind in sorted(counts, key=lambda kind: (-counts[kind], kind))
    ]


def _series(
    rows: Sequence[Mapping[str, Any]], names: Sequence[str]
) -> dict[str, list[tuple[float, float]]]:
    return {
        name: [(row["step"], row[name]) for row in rows if _is_figure(row.get(name))]
        for name in names
    }


def _is_figure(value: object) -> bool:
    """Whether a number was logged: a loss that is none is logged as null."""
    return isinstance(value, (int, float)) and math.isfinite(value)


def _time_parts(parts: Mapping[str, float]) -> list[dict[str, Any]]:
    total = sum(parts.values())
    return [
        {
            "cause": cause.replace("_", " "),
            "seconds": seconds,
            "share": seconds / total if total else None,
            "words": CAUSES[cause],
            "colour": plots.COLOURS[number % len(plots.COLOURS)],
        }
        for number, (cause, seconds) in enumerate(parts.items())
    ]


def _validation(rows: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    return [
        [
            str(row["step"]),
            *(percent(row.get(name)) for name in _VALIDATION),
            str(row.get("seconds", "–")),
        ]
        for row in rows
    ]


def _pace(row: Mapping[str, Any]) -> list[tuple[str, str]]:
    def seconds(name: str) -> str:
        return f"{row[name]:.4g} s" if _is_figure(row.get(name)) else "–"

    percentiles = " / ".join(seconds(name) for name in _STEPS)
    return [
        ("to step", str(row.get("step", "–"))),
        ("question-video pairs a second", str(row.get("pairs_per_s", "–"))),
        ("step, mean", seconds("step_s")),
        ("step, p50 / p90 / p99 / max", percentiles),
        ("waited for data", percent(row.get("data_wait_share"))),
        ("clips that could not be used", percent(row.get("bad_share"))),
        ("MFU", percent(row.get("mfu"))),
        ("memory of the largest rank, GB", str(row.get("rss_gb", "–"))),
        ("CUDA memory of the largest rank, GB", str(row.get("cuda_peak_gb", "–"))),
    ]


def _attempt(attempt: Mapping[str, Any]) -> list[str]:
    how = attempt["how"] or "no word of it"
    reason = f": {attempt['reason']}" if attempt["reason"] else ""
    return [
        str(attempt["number"]),
        date(attempt["began"]),
        span(max(0.0, attempt["ended"] - attempt["began"])),
        str(attempt["world_size"]),
        or_dash(attempt["first_step"]),
        or_dash(attempt["last_step"]),
        how + reason,
    ]


def _checkpoint(each: Mapping[str, Any]) -> list[str]:
    metric = each["metric"]
    return [
        str(each["step"]),
        f"{each['bytes'] / 1e6:.1f}",
        or_dash(each["world_size"]),
        or_dash(each["attempt"]),
        f"{metric['name']} {percent(metric['value'])}" if metric else "–",
    ]


def _cells(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[list[str]]:
    return [[or_dash(row.get(name)) for name in names] for row in rows]


def _run_file(config: Any) -> str | None:
    if config is None:
        return None
    text = yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
    return _SECRET.sub(r"\g<scheme>\g<place>", text)
