"""Jobs of a cluster as attempts at runs: which there are, how they ended, how far they are."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from launcher.cluster.departure import EXIT_INTERRUPTED, EXIT_RESUME
from launcher.errors import UserError
from launcher.jobs.client import Jobs
from launcher.jobs.log_lines import left_at

if TYPE_CHECKING:
    from ray.job_submission import JobDetails

# What a job says of itself beside what Ray knows.
RUN, FOLDER = "gcg_run", "gcg_folder"
_OVER = {"succeeded", "failed", "stopped"}
# Exit codes of `python -m launcher.train` that mean something; any other is 1.
_TOLD = {0, 2, EXIT_RESUME, EXIT_INTERRUPTED}


@dataclass(frozen=True)
class RunJob:
    """One job. ``state``: pending, running, succeeded, failed or stopped; times in seconds since
    1970; ``run`` is None for a job that `gcg submit` did not start."""

    id: str
    run: str | None
    folder: str | None
    state: str
    started: float | None
    ended: float | None
    exit_code: int | None
    message: str | None

    @property
    def is_over(self) -> bool:
        return self.state in _OVER

    @property
    def handle(self) -> str:
        """By what it is followed and stopped."""
        return self.run or self.id


def run_jobs(jobs: Jobs) -> list[RunJob]:
    """All jobs that were submitted, oldest first."""
    found = [job_of(each) for each in jobs.all() if each.submission_id is not None]
    return sorted(found, key=lambda job: (job.started or 0, job.id))


def refreshed(jobs: Jobs, job: RunJob) -> RunJob:
    """The same job as it is now."""
    return job_of(jobs.get(job.id))


def find_job(jobs: Jobs, handle: str) -> RunJob:
    """The job with a submission id, or the newest of a run.

    Raises:
        UserError: there is none.
    """
    found = run_jobs(jobs)
    for named in (lambda job: job.id, lambda job: job.run):
        for job in reversed(found):
            if named(job) == handle:
                return job
    names = list(dict.fromkeys(job.handle for job in reversed(found)))[:10]
    raise UserError(
        f"{handle}: no run or job of that name at {jobs.address}; there are: "
        f"{', '.join(names) or 'none'}"
    )


def next_id(found: list[RunJob], run: str) -> str:
    """A submission id that the cluster has not seen: the run's name and a number."""
    pattern = re.compile(re.escape(run) + r"-(\d+)")
    numbers = [int(match[1]) for job in found if (match := pattern.fullmatch(job.id))]
    return f"{run}-{max(numbers, default=0) + 1}"


def outcome(job: RunJob, log: str) -> tuple[int, str]:
    """The exit code that a job which is over stands for, and a line about it.

    0: complete. 75: left with a checkpoint, the same run goes on. 130: stopped without one; that
    of before stands. 2: something to put right, told in the log. 1: failed otherwise.
    """
    if job.state == "succeeded":
        return 0, f"{job.id}: succeeded"
    left = left_at(log)
    goes_on = "submit the same run again to go on from there"
    if left is not None and (job.state == "stopped" or job.exit_code == EXIT_RESUME):
        return EXIT_RESUME, f"{job.id}: left with a checkpoint of step {left}; {goes_on}"
    if job.state == "stopped":
        return (
            EXIT_INTERRUPTED,
            f"{job.id}: was stopped without a last checkpoint; the one before stands: {goes_on}",
        )
    code = job.exit_code if job.exit_code in _TOLD - {0} else 1
    assert code is not None
    if job.exit_code is None:
        return code, f"{job.id}: failed: {_short(job.message)}"
    return code, f"{job.id}: failed with exit code {job.exit_code}; gcg logs {job.handle} says why"


def job_of(details: JobDetails) -> RunJob:
    """What Ray tells of a job, in our words."""
    metadata = details.metadata or {}
    return RunJob(
        str(details.submission_id),
        metadata.get(RUN),
        metadata.get(FOLDER),
        details.status.value.lower(),
        None if details.start_time is None else details.start_time / 1000,
        None if details.end_time is None else details.end_time / 1000,
        details.driver_exit_code,
        details.message,
    )


def _short(message: str | None) -> str:
    """The last line, which says what a traceback ends in."""
    lines = [line.strip() for line in (message or "").splitlines() if line.strip()]
    return lines[-1][:300] if lines else "the cluster gives no reason"
