"""A run's figures as one page: text, tables and charts in a single file that asks for nothing."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from launcher.observe.goodput import CAUSES
from launcher.report import plots

_TEMPLATE = Path(__file__).with_name("page.html")
_VALIDATION = ("accuracy", "miop", "miou", "acc_gqa")
_LOSSES = ("loss", "loss_vqa", "loss_reg", "loss_con")
_STEPS = ("step_p50_s", "step_p90_s", "step_p99_s", "step_max_s")

# A page is passed on more freely than a folder: of a URL neither who asks nor what signs it.
_SECRET = re.compile(
    r"(?P<scheme>[a-z][a-z0-9+.-]*://)(?:[^/@\s]+@)?(?P<place>[^\s?\"']*)(?:\?\S*)?"
)


def render(figures: Mapping[str, Any]) -> str:
    """The page of what :func:`launcher.report.figures.run_figures` found, as HTML."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    environment.filters.update(percent=percent, span=span, date=date)
    template = environment.from_string(_TEMPLATE.read_text(encoding="utf-8"))
    return template.render(
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
    )


def percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f} %"


def span(seconds: float) -> str:
    """A length of time in the two largest units that it fills."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def date(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC")


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


def _series(
    rows: Sequence[Mapping[str, Any]], names: Sequence[str]
) -> dict[str, list[tuple[float, float]]]:
    return {
        name: [(row["step"], row[name]) for row in rows if isinstance(row.get(name), (int, float))]
        for name in names
    }


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
        return f"{row[name]:.4g} s" if isinstance(row.get(name), (int, float)) else "–"

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
        _or_dash(attempt["first_step"]),
        _or_dash(attempt["last_step"]),
        how + reason,
    ]


def _checkpoint(each: Mapping[str, Any]) -> list[str]:
    metric = each["metric"]
    return [
        str(each["step"]),
        f"{each['bytes'] / 1e6:.1f}",
        _or_dash(each["world_size"]),
        _or_dash(each["attempt"]),
        f"{metric['name']} {percent(metric['value'])}" if metric else "–",
    ]


def _cells(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[list[str]]:
    return [[_or_dash(row.get(name)) for name in names] for row in rows]


def _or_dash(value: Any) -> str:
    return "–" if value is None else str(value)


def _run_file(config: Any) -> str | None:
    if config is None:
        return None
    text = yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
    return _SECRET.sub(r"\g<scheme>\g<place>", text)
