"""What is known of a run, from its folder alone: while it runs, after it, and after a crash."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from launcher.checkpoints.find import complete_checkpoints
from launcher.checkpoints.keep import read_best
from launcher.errors import UserError
from launcher.observe.events import Event, read_events
from launcher.observe.goodput import Goodput, account
from launcher.observe.lines import read_lines
from launcher.observe.runlog import read_metrics
from launcher.storage.run_folder import RunFolder, read_json

Rows = list[dict[str, Any]]

# Without a word for longer than this a run is not said to be running, unless its run file lets a
# worker be silent for longer.
_SILENT_S = 600.0
_LISTED = 10


def run_figures(root: Path, now: float) -> dict[str, Any]:
    """All figures of the run in a folder, as plain JSON values.

    Args:
        now: seconds since 1970; how long ago the run last wrote is told by it.

    Raises:
        UserError: there is no run.
    """
    folder = RunFolder(root)
    if not any(path.is_file() for path in (folder.config, folder.metrics, folder.events)):
        what = "is empty of a run" if root.is_dir() else "is no folder"
        raise UserError(
            f"{root}: {what}: it has no config.yaml, metrics.jsonl or events.jsonl; give a run's "
            "folder, run.storage/run.name of its run file"
        )
    events, rows, config = read_events(folder.events), read_metrics(folder.metrics), _config(folder)
    trained = [row for row in rows if row["kind"] == "train"]
    goodput = account(events)
    return {
        "run": _get(config, "run", "name") or root.resolve().name,
        "folder": str(root),
        "state": _state(folder, events, rows, config, goodput, now),
        "goodput": {
            "share": goodput.share,
            "wall_s": goodput.wall_s,
            "begin": goodput.begin,
            "end": goodput.end,
            "parts": goodput.parts,
            "lost_steps": goodput.lost_steps,
            "skipped_steps": goodput.skipped_steps,
        },
        "last_interval": trained[-1] if trained else None,
        "train": trained,
        "validation": [row for row in rows if row["kind"] == "val"],
        "best": read_best(folder),
        "peak": _peak(rows),
        "attempts": [asdict(attempt) for attempt in goodput.attempts],
        "checkpoints": list(_checkpoints(folder)),
        "quarantine": _quarantine(folder),
        "bad_steps": _bad_steps(folder),
        "config": config,
    }


def _state(
    folder: RunFolder,
    events: list[Event],
    rows: Rows,
    config: Any,
    goodput: Goodput,
    now: float,
) -> dict[str, Any]:
    """``name``: complete, stopped, left, failed, running, restarting (an attempt is over, the
    command is not), or silent where nobody can tell."""
    times = [event["time"] for event in events[-1:]]
    times += [row["time"] for row in rows[-1:] if isinstance(row.get("time"), (int, float))]
    silent_s = max(0.0, now - max(times)) if times else None
    stopped, attempt = read_json(folder.stopped), (goodput.attempts or [None])[-1]
    last = events[-1]["kind"] if events else None
    limit = max(_SILENT_S, float(_get(config, "safety", "hang_timeout_s") or 0.0))
    old = silent_s is None or silent_s > limit
    why: str | None = None
    if folder.is_complete:
        name = "complete"
    elif stopped is not None:
        name, why = "stopped", " ".join(str(line) for line in stopped.get("lines", []))
    elif last in ("left", "end") and attempt is not None:
        name, why = (str(attempt.how) if old else "restarting"), attempt.reason
    elif last == "over":
        ended = attempt is not None and attempt.how is not None
        name = str(attempt.how) if attempt is not None and ended else "failed"
        why = attempt.reason if attempt is not None and ended else "its workers had no last word"
    elif old:
        name, why = "silent", "its last record is old: it was killed, or hangs"
    else:
        name = "running"
    steps = [row["step"] for row in rows] + [a.last_step or 0 for a in goodput.attempts[-1:]]
    return {
        "name": name,
        "why": why,
        "step": max(steps, default=0),
        "steps": _get(config, "optim", "steps"),
        "silent_s": silent_s,
    }


def _config(folder: RunFolder) -> Any:
    """The resolved run file's tree; None where there is none that can be read."""
    try:
        return yaml.safe_load(folder.config.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return None


def _get(tree: Any, *keys: str) -> Any:
    for key in keys:
        tree = tree.get(key) if isinstance(tree, dict) else None
    return tree


def _peak(rows: Rows) -> dict[str, Any] | None:
    """What MFU is a share of, as the last attempt found it."""
    names = ("peak_tflops", "peak_source", "mfu_unknown")
    starts = [row for row in rows if row["kind"] == "start" and "peak_source" in row]
    return {name: starts[-1].get(name) for name in names} if starts else None


def _checkpoints(folder: RunFolder) -> Iterator[dict[str, Any]]:
    for checkpoint in complete_checkpoints(folder):
        files = [path for path in checkpoint.path.rglob("*") if path.is_file()]
        yield {
            "step": checkpoint.step,
            "bytes": sum(path.stat().st_size for path in files),
            "world_size": checkpoint.meta.get("world_size"),
            "attempt": checkpoint.meta.get("attempt"),
            "metric": checkpoint.meta.get("metric"),
        }


def _quarantine(folder: RunFolder) -> dict[str, Any]:
    """Distinct clips that could not be used, by data set and by the beginning of the reason."""
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for path in sorted(folder.quarantine(0).parent.glob("*.jsonl")):
        for row in read_lines(path):
            found.setdefault((row.get("data"), row.get("shard"), row.get("key")), row)
    clips = list(found.values())
    reasons = Counter(str(clip.get("reason", "")).split(":")[0][:80] for clip in clips)
    return {
        "clips": len(clips),
        "data": dict(Counter(str(clip.get("data")) for clip in clips)),
        "reasons": dict(reasons.most_common(_LISTED)),
        "last": clips[-_LISTED:],
    }


def _bad_steps(folder: RunFolder) -> dict[str, Any]:
    rows = list(read_lines(folder.bad_steps))
    causes = Counter(str(row.get("cause")) for row in rows)
    last = [
        {
            "step": row.get("step"),
            "attempt": row.get("attempt"),
            "cause": row.get("cause"),
            "pairs": len(row.get("pairs") or ()),
        }
        for row in rows[-_LISTED:]
    ]
    return {"count": len(rows), "causes": dict(causes), "last": last}
