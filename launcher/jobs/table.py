"""The jobs of a cluster in rows, for a reader or a program."""

from __future__ import annotations

import time
from typing import Any

from launcher.errors import UserError
from launcher.jobs.client import Jobs
from launcher.jobs.log_lines import last_step
from launcher.jobs.runs import RunJob, outcome, run_jobs

_HEAD = ("run", "job", "state", "started", "duration", "step", "")


def job_rows(jobs: Jobs, now: float) -> list[dict[str, Any]]:
    """A dictionary for each job, oldest first. ``step`` is read from the job's log, for those that
    go on and the last of each run; None for others, and where there is none yet."""
    found = run_jobs(jobs)
    newest = {job.handle: job.id for job in found}
    return [
        _row(job, _log(jobs, job) if not job.is_over or job.id in newest.values() else "", now)
        for job in found
    ]


def _log(jobs: Jobs, job: RunJob) -> str:
    try:
        return jobs.log(job.id)
    except UserError:  # the node that had it is gone; the rest is still worth telling
        return ""


def _row(job: RunJob, log: str, now: float) -> dict[str, Any]:
    step, total = last_step(log) or (None, None)
    code, words = outcome(job, log) if job.is_over else (None, "")
    return {
        "run": job.run,
        "job": job.id,
        "state": job.state,
        "started": job.started,
        "ended": job.ended,
        "seconds": None if job.started is None else round((job.ended or now) - job.started, 1),
        "step": step,
        "steps": total,
        "exit_code": job.exit_code,
        "result": code,
        "message": words.partition(": ")[2] if code else None,
    }


def job_table(rows: list[dict[str, Any]]) -> list[str]:
    """Lines for a terminal."""
    cells = [_HEAD, *(_cells(row) for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(_HEAD))]
    return [
        "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip()
        for line in cells
    ]


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    started = row["started"]
    at = "-" if started is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(started))
    step = "-" if row["step"] is None else str(row["step"])
    if row["steps"] is not None:
        step += f"/{row['steps']}"
    took = "-" if row["seconds"] is None else _duration(row["seconds"])
    return (row["run"] or "-", row["job"], row["state"], at, took, step, row["message"] or "")


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"
