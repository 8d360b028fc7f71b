"""`gcg submit`, `gcg logs`, `gcg jobs`, `gcg stop`: runs as jobs of a Ray cluster."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from launcher.commands import say
from launcher.errors import UserError

if TYPE_CHECKING:
    from launcher.jobs.client import Jobs
    from launcher.jobs.runs import RunJob

Stages = argparse._SubParsersAction
_TOKEN = "The cluster's token: RAY_AUTH_MODE=token and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH."
_RESULT = (
    "Exit code 0: complete; 75: left with a checkpoint, the same run goes on; 130: stopped without "
    "one; 2: something to put right; 1: failed otherwise."
)


def add_to(stages: Stages[argparse.ArgumentParser]) -> None:
    _add_submit(stages)
    stage = stages.add_parser(
        "logs",
        help="follow a submitted run to its end",
        description=f"Ctrl-C only ends the looking. {_RESULT} {_TOKEN}",
    )
    stage.add_argument("job", metavar="RUN|JOB", help="a run's name, for its newest job, or a job")
    _address(stage)
    stage.set_defaults(run=logs)

    stage = stages.add_parser(
        "jobs",
        help="what was submitted to a cluster: state, step, how it ended",
        description=_TOKEN,
    )
    _address(stage)
    stage.add_argument("--json", action="store_true")
    stage.set_defaults(run=jobs)

    stage = stages.add_parser(
        "stop",
        help="make a submitted run leave with a checkpoint",
        description="Waits until it has left, and says at which step. Submitting the same run "
        f"again goes on from there. {_TOKEN}",
    )
    stage.add_argument("job", metavar="RUN|JOB")
    _address(stage)
    stage.add_argument("--no-wait", action="store_true", help="only ask")
    stage.set_defaults(run=stop)


def _add_submit(stages: Stages[argparse.ArgumentParser]) -> None:
    stage = stages.add_parser(
        "submit",
        help="train, or go on with, a run as a job of a Ray cluster, and follow it",
        description="Checks the run file, uploads it with this checkout's code, and follows the "
        f"job; Ctrl-C only ends the looking. {_RESULT} {_TOKEN}",
    )
    stage.add_argument("config", type=Path, metavar="CONFIG")
    stage.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    _address(stage)
    stage.add_argument(
        "--working-dir",
        metavar="DIR|none",
        help="the code to upload, without what its .gitignore and .rayignore name; this checkout. "
        "none: it is installed on the cluster",
    )
    stage.add_argument(
        "--runtime-env", type=Path, metavar="FILE", help="YAML: Ray's pip, uv, conda, env_vars, …"
    )
    stage.add_argument(
        "--env",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="for command and workers; whoever may list jobs can read it",
    )
    stage.add_argument("--no-follow", action="store_true", help="return once it is submitted")
    stage.add_argument(
        "--wait", action="store_true", help="with --no-follow: wait in silence for the result"
    )
    stage.set_defaults(run=submit)


def _address(stage: argparse.ArgumentParser) -> None:
    stage.add_argument(
        "--address",
        metavar="URL",
        help="the cluster's dashboard; RAY_API_SERVER_ADDRESS, or http://127.0.0.1:8265",
    )


def submit(args: argparse.Namespace) -> int:
    from launcher.config import load_run_config
    from launcher.jobs.check import check_job
    from launcher.jobs.environment import runtime_env
    from launcher.jobs.follow import wait
    from launcher.jobs.submit import submit as send

    config = load_run_config(args.config, args.overrides)
    check_job(config)
    environment = runtime_env(config, args.runtime_env, args.env)
    cluster = _connected(args)
    job = send(cluster, config, environment, _code(args.working_dir), say)
    if not args.no_follow:
        return _followed(cluster, job)
    say(f"gcg logs {job.handle} follows it, gcg stop {job.handle} ends it with a checkpoint")
    return _until_over(job, lambda: wait(cluster, job)) if args.wait else 0


def _code(given: str | None) -> Path | None:
    from launcher.jobs.upload import own_checkout

    if given is None:
        return own_checkout()
    return None if given == "none" else Path(given)


def logs(args: argparse.Namespace) -> int:
    from launcher.jobs.runs import find_job

    cluster = _connected(args)
    return _followed(cluster, find_job(cluster, args.job))


def jobs(args: argparse.Namespace) -> int:
    from launcher.jobs.table import job_rows, job_table

    cluster = _connected(args)
    rows = job_rows(cluster, time.time())
    if args.json:
        say(json.dumps(rows, indent=1))
    elif rows:
        for line in job_table(rows):
            say(line)
    else:
        say(f"{cluster.address}: nothing was submitted yet")
    return 0


def stop(args: argparse.Namespace) -> int:
    from launcher.jobs.runs import find_job
    from launcher.jobs.stop import ask
    from launcher.jobs.stop import stop as leave

    cluster = _connected(args)
    job = find_job(cluster, args.job)
    if args.no_wait:
        ask(cluster, job)
        say(f"{job.id}: was asked to leave with a checkpoint; gcg logs {job.handle} follows it")
    else:
        say(leave(cluster, job))
    return 0


def _connected(args: argparse.Namespace) -> Jobs:
    from launcher.jobs.client import Jobs, find_address

    return Jobs(find_address(args.address))


def _followed(cluster: Jobs, job: RunJob) -> int:
    from launcher.jobs.follow import follow

    return _until_over(job, lambda: follow(cluster, job, sys.stdout))


def _until_over(job: RunJob, end: Callable[[], tuple[int, str]]) -> int:
    """Wait for ``end``, whose result is the exit code; Ctrl-C leaves the job alone."""
    from launcher.jobs.client import UnreachableError

    back = f"gcg logs {job.handle} follows it again, gcg stop {job.handle} ends it"
    try:
        code, words = end()
    except KeyboardInterrupt:
        sys.stderr.write(f"\n{job.id}: goes on without being looked at; {back}\n")
        return 130
    except UnreachableError as error:
        raise UserError([*error.lines, f"{job.id}: may go on; once it answers, {back}"]) from None
    sys.stderr.write(words + "\n")
    return code
