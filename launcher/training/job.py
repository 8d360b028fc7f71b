"""One worker's share of a run, built in data-flow order."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import torch.distributed as dist

from dataloaders.loader import Loader
from dataloaders.source import Source
from launcher.checkpoints.fence import assert_current, begin_attempt
from launcher.checkpoints.keeper import CheckpointKeeper
from launcher.cluster.leaving import LeaveRequests
from launcher.cluster.watchdog import Watchdog
from launcher.config import RunConfig
from launcher.errors import RunStoppedError
from launcher.observe.ledger import Ledger
from launcher.observe.meter import Meter
from launcher.observe.peak import Peak, find_peak
from launcher.observe.profile import StepProfiler
from launcher.observe.questions import QuestionLog
from launcher.observe.runlog import RunLog
from launcher.observe.sinks import open_sinks
from launcher.observe.step_cost import StepCost
from launcher.storage.places import refused
from launcher.storage.run_folder import RunFolder
from launcher.training.agreement import from_rank_0, together
from launcher.training.build import build_parts
from launcher.training.data import build_loader
from launcher.training.engine import Engine, build_engine
from launcher.training.guard import Guard
from launcher.training.rng import seed_everything
from launcher.training.sharded import build_for_engine
from launcher.training.step import TrainStep
from launcher.training.upload import build_upload

logger = logging.getLogger(__name__)

Report = Callable[[Mapping[str, Any]], None]


@dataclass
class Job:
    """What training needs, built. ``log`` is None on all ranks but 0, and until restored;
    ``questions``: unless ``log.questions``; ``profiler``: likewise, and on all ranks but 0."""

    config: RunConfig
    folder: RunFolder
    attempt: int
    source: Source
    loader: Loader
    engine: Engine
    guard: Guard
    step: TrainStep
    keeper: CheckpointKeeper
    report: Report
    requests: LeaveRequests
    watchdog: Watchdog
    ledger: Ledger
    meter: Meter
    cost: StepCost
    peak: Peak
    log: RunLog | None = None
    questions: QuestionLog | None = None
    profiler: StepProfiler | None = None
    began: float = field(default_factory=time.monotonic)

    def close(self) -> None:
        """End threads, close files."""
        if self.profiler is not None:
            self.profiler.close()
        self.keeper.close()
        self.watchdog.close()
        self.ledger.flush()
        self.requests.close()
        self.loader.close()
        self.source.close()
        if self.log is not None:
            self.log.close()
        if self.questions is not None:
            self.questions.close()


def build_job(
    config: RunConfig,
    report: Report,
    preempted: Callable[[], str | None] | None = None,
    folder: RunFolder | None = None,
) -> Job:
    """Build this rank's share of a run. ``torch.distributed`` must be initialised.

    Args:
        report: called equally often on every rank with figures, after each checkpoint.
        preempted: says why a node is about to go; called equally often on every rank.
        folder: the run's, as this worker writes into it.

    Raises:
        RunStoppedError: on every rank, if the storage, the checkpoint or the data cannot be used
            on any.
    """
    rank, world_size = dist.get_rank(), dist.get_world_size()
    folder = folder or RunFolder(config.folder).of_worker(rank)
    attempt = _take_over(folder)
    if folder.mirror is not None:
        folder.mirror.check = partial(assert_current, folder, attempt)
    ledger = Ledger(folder if rank == 0 else None, attempt)
    ledger.record("start", world_size=world_size)
    watchdog = Watchdog(config.safety.hang_timeout_s, folder.hang(rank, attempt))
    torch.set_num_threads(config.scale.threads_per_worker)
    seed_everything(config.run.seed)
    parts = build_parts(config.model, together(lambda: build_for_engine(config)))
    source, loader = together(
        lambda: build_loader(
            config, parts, rank, world_size, folder.quarantine(rank), build_upload(config)
        )
    )
    engine = build_engine(parts.model, config)
    keeper = CheckpointKeeper(
        engine, config, folder, attempt=attempt, data_fingerprint=source.fingerprint
    )
    guard = Guard(config.safety)
    step = TrainStep(engine, config, guard)
    peak = find_peak(config, engine.device)
    wishes = (folder.leave, folder.grow) if rank == 0 else (None, None)
    return Job(
        config, folder, attempt, source, loader, engine, guard, step, keeper, report,
        LeaveRequests(*wishes, preempted), watchdog,
        ledger, Meter(engine.device, peak), StepCost(config), peak,
    )  # fmt: skip


def restore(job: Job) -> int:
    """Continue from the newest complete checkpoint; return the updates made so far.

    Raises:
        RunStoppedError: on every rank, if the checkpoint does not fit the run.
    """
    position = job.keeper.restore()
    step = 0
    if position is not None:
        step = position.step
        together(lambda: job.loader.load_state_dict(position.loader))
        if position.guard:
            job.guard.load_state_dict(position.guard)
    if job.config.log.questions:
        job.questions = QuestionLog(job.folder, job.attempt, step)
    job.ledger.record("ready", step=step)
    if dist.get_rank() == 0:
        job.log = RunLog(job.folder, step, open_sinks(job.config, job.folder, step))
        if watched := job.config.log.profile:
            job.profiler = StepProfiler(
                job.folder.profile, job.attempt, step, watched, job.engine.device
            )
        job.log.write("start", step, _beginning(job))
    logger.info("attempt %d begins at step %d", job.attempt, step)
    return step


def _beginning(job: Job) -> dict[str, Any]:
    """What an attempt's figures are relative to: its workers, and the peak that MFU is a share of,
    10^12 FLOPs a second; where there is none, why."""
    peak = job.peak
    return {
        "attempt": job.attempt,
        "world_size": dist.get_world_size(),
        "passed_over": job.keeper.passed_over,
        "peak_tflops": peak.tflops,
        "peak_source": peak.source,
        "mfu_unknown": job.cost.why_not or (peak.source if peak.tflops is None else None),
    }


def _take_over(folder: RunFolder) -> int:
    def begin() -> int:
        try:
            return begin_attempt(folder)
        except Exception as error:
            why = refused(error)
            if why is None:
                raise
            raise RunStoppedError(
                f"{folder.root}: cannot be written to: {why}; make room or restore the storage, "
                "and run the same command again"
            ) from None

    return from_rank_0(begin)
