"""Ask a run to leave with a checkpoint."""

from __future__ import annotations

from launcher.errors import UserError
from launcher.jobs.client import Jobs
from launcher.jobs.follow import wait
from launcher.jobs.runs import RunJob, refreshed


def ask(jobs: Jobs, job: RunJob) -> None:
    """Send SIGTERM to a job's command, which asks its workers to leave with a checkpoint.

    Raises:
        UserError: the job is over.
    """
    if job.is_over or not jobs.stop(job.id):
        job = refreshed(jobs, job)
        raise UserError(f"{job.id}: is over already ({job.state}); there is nothing to stop")


def stop(jobs: Jobs, job: RunJob) -> str:
    """Ask, and wait until the job is over; a line on how it left."""
    ask(jobs, job)
    return wait(jobs, job)[1]
