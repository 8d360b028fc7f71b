"""One worker's share of a run, built in data-flow order."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist

from dataloaders.loader import Loader
from dataloaders.source import Source
from launcher.agreement import together
from launcher.build import build_parts
from launcher.checkpoints.fence import begin_attempt
from launcher.checkpoints.keeper import CheckpointKeeper
from launcher.config import RunConfig
from launcher.data import build_loader
from launcher.engine import Engine, build_engine
from launcher.guard import Guard
from launcher.leaving import LeaveRequests
from launcher.rng import seed_everything
from launcher.run_folder import RunFolder
from launcher.runlog import RunLog
from launcher.sharded import build_for_engine
from launcher.step import TrainStep
from launcher.watchdog import Watchdog

logger = logging.getLogger(__name__)

Report = Callable[[Mapping[str, Any]], None]


@dataclass
class Job:
    """What training needs, built. ``log`` is None on all ranks but 0, and until restored."""

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
    log: RunLog | None = None
    began: float = field(default_factory=time.monotonic)

    def close(self) -> None:
        """End threads, close files."""
        self.keeper.close()
        self.watchdog.close()
        self.requests.close()
        self.loader.close()
        self.source.close()
        if self.log is not None:
            self.log.close()


def build_job(
    config: RunConfig, report: Report, preempted: Callable[[], str | None] | None = None
) -> Job:
    """Build this rank's share of a run. ``torch.distributed`` must be initialised.

    Args:
        report: called equally often on every rank with figures, after each checkpoint.
        preempted: says why a node is about to go; called equally often on every rank.

    Raises:
        RunStoppedError: on every rank, if the checkpoint or the data cannot be used on any.
    """
    rank, world_size = dist.get_rank(), dist.get_world_size()
    folder = RunFolder(config.folder)
    attempt = _take_over(folder)
    watchdog = Watchdog(config.safety.hang_timeout_s, folder.hang(rank, attempt))
    torch.set_num_threads(config.scale.threads_per_worker)
    seed_everything(config.run.seed)
    parts = build_parts(config.model, together(lambda: build_for_engine(config)))
    source, loader = together(
        lambda: build_loader(config, parts, rank, world_size, folder.quarantine(rank))
    )
    engine = build_engine(parts.model, config)
    keeper = CheckpointKeeper(
        engine, config, folder, attempt=attempt, data_fingerprint=source.fingerprint
    )
    guard = Guard(config.safety)
    step = TrainStep(engine, config, guard)
    wishes = (folder.leave, folder.grow) if rank == 0 else (None, None)
    return Job(
        config, folder, attempt, source, loader, engine, guard, step, keeper, report,
        LeaveRequests(*wishes, preempted), watchdog,
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
    if dist.get_rank() == 0:
        job.log = RunLog(job.folder, step, tensorboard=job.config.log.tensorboard)
        facts = {"attempt": job.attempt, "world_size": dist.get_world_size()}
        job.log.write("start", step, {**facts, "passed_over": job.keeper.passed_over})
    logger.info("attempt %d begins at step %d", job.attempt, step)
    return step


def _take_over(folder: RunFolder) -> int:
    number = [begin_attempt(folder) if dist.get_rank() == 0 else 0]
    dist.broadcast_object_list(number, src=0)
    return number[0]
