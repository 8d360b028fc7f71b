"""The life of one training worker: build → restore → train → close."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import closing
from typing import Any

import torch.distributed as dist

from dataloaders.trust import redacted
from launcher.checkpoints.fence import assert_current
from launcher.checkpoints.find import newest
from launcher.cluster.leaving import LeaveRun, ray_preemption
from launcher.config import RunConfig, parse_run_config
from launcher.errors import StaleAttemptError, UserError
from launcher.storage.places import fault_of
from launcher.storage.run_folder import RunFolder, write_json
from launcher.training.agreement import on_rank_0
from launcher.training.job import Job, Report, build_job, restore
from launcher.training.loop import train
from launcher.training.noise import log_to_file, quiet_libraries
from launcher.training.weights import write_final

logger = logging.getLogger(__name__)

_REASON = 500  # characters of it that are kept


def ray_worker(settings: dict[str, Any]) -> None:
    """What Ray Train runs in every worker; ``settings["config"]`` is the run file's tree."""
    import ray.train

    def report(figures: Mapping[str, Any]) -> None:
        ray.train.report(dict(figures))

    run_worker(parse_run_config(settings["config"]), report, ray_preemption)


def run_worker(
    config: RunConfig, report: Report, preempted: Callable[[], str | None] | None = None
) -> None:
    """Do this rank's part of a run, in a process that has joined ``torch.distributed``.

    A rule that stops the run (bad data, a loss that is no number) is met by all ranks together;
    it is written to ``stopped.json`` for the driver, and the worker ends without an error, since
    trying again would change nothing. So it does when a newer attempt has taken over the run, and
    when it was asked to leave, after a checkpoint of all ranks; ``left.json`` says at which step.

    Raises:
        UserError: such a rule, where the storage takes no ``stopped.json``; Ray carries it.
    """
    rank = dist.get_rank()
    folder = RunFolder(config.folder).of_worker(rank)
    with closing(folder), log_to_file(folder.log(rank)):
        quiet_libraries()
        try:
            _build_restore_train(config, folder, report, preempted)
        except LeaveRun as left:
            logger.warning("left at %s", left)
            if rank == 0:
                write_json(folder.left, {"step": left.step, "reason": left.reason})
        except UserError as error:
            logger.error("%s", error)
            if rank == 0:
                _tell_driver(folder, error)
        except StaleAttemptError as error:
            # No failure: trying again would take the run from the attempt that owns it now.
            logger.error("%s", error)
        except Exception:
            logger.exception("worker %d failed", rank)
            raise


def _tell_driver(folder: RunFolder, stopped: UserError) -> None:
    if fault_of(lambda: write_json(folder.stopped, {"lines": stopped.lines})) is not None:
        raise stopped


def _build_restore_train(
    config: RunConfig,
    folder: RunFolder,
    report: Report,
    preempted: Callable[[], str | None] | None,
) -> None:
    job = build_job(config, report, preempted, folder=folder)
    try:
        train(job, restore(job))
        finish(job)
        job.ledger.record("end", how="complete")
    except UserError as error:
        job.ledger.record("end", how="stopped", reason=error.lines[0][:_REASON])
        raise
    except Exception as error:
        if not isinstance(error, LeaveRun):  # noted already
            job.ledger.record(
                "end", how="failed", reason=redacted(f"{type(error).__name__}: {error}")[:_REASON]
            )
        raise
    finally:
        job.close()


def finish(job: Job) -> None:
    """Write the run's ``final`` folder from its last checkpoint. Every rank calls it.

    Raises:
        StaleAttemptError: a newer attempt owns the run.
    """

    def write() -> None:
        last = newest(job.folder)
        assert last is not None
        assert last.step == job.config.optim.steps, last.path
        assert_current(job.folder, job.attempt)
        write_final(job.folder, job.config, last)

    on_rank_0(write)
