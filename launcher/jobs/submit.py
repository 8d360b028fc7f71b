"""Send a run to a cluster as a job."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

from launcher.config import RunConfig, dump
from launcher.errors import UserError
from launcher.jobs.client import Jobs
from launcher.jobs.runs import FOLDER, RUN, RunJob, job_of, next_id, run_jobs
from launcher.jobs.upload import RUN_FILE, staged

_TRIES = 6  # of ten seconds each, in which Ray waits for what starts its jobs


def submit(
    jobs: Jobs,
    config: RunConfig,
    runtime_env: dict[str, Any],
    code: Path | None,
    say: Callable[[str], None],
) -> RunJob:
    """Start a job that trains ``config``, or goes on with it.

    Args:
        runtime_env: without ``working_dir``.
        code: a folder whose files are uploaded; None: the code is installed on the cluster.
        say: takes lines about what is sent.

    Raises:
        UserError: the run goes on already, the upload is too large, or the cluster refuses.
    """
    _same_ray(jobs)
    name = config.run.name
    found = run_jobs(jobs)
    _not_going_on(found, name)
    submission_id = next_id(found, name)
    with staged(code, dump(config)) as upload:
        say(f"uploading {upload}, to {jobs.address}")
        environment = {**runtime_env, "working_dir": str(upload.folder)}
        _send(jobs, submission_id, environment, {RUN: name, FOLDER: str(config.folder)})
    again = any(job.run == name for job in found)
    say(f"{submission_id}: submitted" + (", the run goes on where it left" if again else ""))
    return job_of(jobs.get(submission_id))


def _send(
    jobs: Jobs, submission_id: str, environment: dict[str, Any], metadata: dict[str, str]
) -> None:
    """A head that has just started shows its dashboard before it can start jobs."""
    for tries_left in reversed(range(_TRIES)):
        try:
            jobs.submit(submission_id, entrypoint(RUN_FILE), environment, metadata)
            return
        except UserError as error:
            if "already exists" in str(error):
                raise UserError(
                    f"{submission_id}: was submitted by somebody else at this moment; `gcg logs "
                    f"{metadata[RUN]}` follows it"
                ) from None
            if "No available agent" not in str(error) or not tries_left:
                raise


def entrypoint(run_file: str) -> str:
    """The command that trains, as it is anywhere: in a shell, by `ray job submit`, in a RayJob."""
    return shlex.join(["python", "-m", "launcher.train", "--config", run_file])


def _same_ray(jobs: Jobs) -> None:
    import ray

    if jobs.ray_version != ray.__version__:
        raise UserError(
            f"{jobs.address}: the cluster runs Ray {jobs.ray_version}, and this project is made "
            f"for {ray.__version__}; start the cluster with that version"
        )


def _not_going_on(found: list[RunJob], name: str) -> None:
    for job in found:
        if job.run == name and not job.is_over:
            raise UserError(
                f"run.name = {name}: goes on already, as job {job.id} ({job.state}); `gcg logs "
                f"{name}` follows it, `gcg stop {name}` ends it with a checkpoint"
            )
