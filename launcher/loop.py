"""The sequence of a run: next batch, step, log, validate, save, until the last step."""

from __future__ import annotations

import logging
import time
from typing import Any

import torch
import torch.distributed as dist

from dataloaders.loader import StepBatch
from launcher.agreement import attempt, raise_any
from launcher.checkpoints.keeper import Position
from launcher.evaluate import evaluate_split, gather_rows
from launcher.job import Job
from launcher.scores import summarise
from launcher.step import StepResult

logger = logging.getLogger(__name__)

METRIC = "accuracy"


def train(job: Job, done: int) -> None:
    """Make the updates from ``done`` to the last.

    Raises:
        RunStoppedError: on every rank, if training must not go on.
    """
    config = job.config
    meter = _Meter()
    while done < config.optim.steps:
        batch, num_pairs, faults = next_batch(job)
        result = job.step(batch.micro, done, num_pairs)
        done += 1
        meter.add(result, job.loader.last_wait_s)
        last = done == config.optim.steps
        if job.log is not None and (last or done % config.log.every == 0):
            job.log.write("train", done, {**meter.figures(), "epoch": batch.epoch, **faults})
        validate_now = config.data.val is not None and (
            last or (config.eval.every and done % config.eval.every == 0)
        )
        if validate_now or last or done % config.checkpoint.every == 0:
            metric = validate(job, done) if validate_now else None
            save(job, done, metric)
            meter.restart()


def next_batch(job: Job) -> tuple[StepBatch, int, dict[str, int]]:
    """This rank's part of the next global batch, and over all ranks: its pairs, faults so far.

    The faults are ``bad``, visits whose clip could not be used, and ``timeouts``, the clips among
    them that were given up because decoding took too long.

    Raises:
        RunStoppedError: on every rank, if any rank's data cannot go on.
    """
    batch, fault = attempt(lambda: next(job.loader))
    counters = job.loader.counters()
    counts = torch.tensor(
        [
            batch.num_pairs if batch is not None else 0,
            counters["bad"],
            counters["timeouts"],
            int(fault is not None),
        ],
        device=job.engine.device,
    )
    dist.all_reduce(counts)
    num_pairs, num_bad, num_timeouts, num_faults = counts.tolist()
    if num_faults:
        faults: list[list[str] | None] = [None] * dist.get_world_size()
        dist.all_gather_object(faults, fault)
        raise_any(faults)
    assert batch is not None
    return batch, num_pairs, {"bad": num_bad, "timeouts": num_timeouts}


def validate(job: Job, done: int) -> tuple[str, float] | None:
    """Answer the validation split on all ranks; the metric that chooses the best checkpoint.

    None where no question could be asked.
    """
    config = job.config
    rank, world_size = dist.get_rank(), dist.get_world_size()
    began = time.monotonic()
    rows = evaluate_split(
        job.engine.module, config, "val", rank, world_size, config.eval.max_videos
    )
    figures: dict[str, Any] = summarise(gather_rows(rows, world_size))
    job.engine.train()
    if job.log is not None:
        seconds = round(time.monotonic() - began, 2)
        job.log.write("val", done, {**figures, "seconds": seconds})
    value = figures.get(METRIC)
    return None if value is None else (METRIC, float(value))


def save(job: Job, done: int, metric: tuple[str, float] | None) -> None:
    """Write a checkpoint and tell Ray about it."""
    began = time.monotonic()
    job.keeper.save(Position(done, job.loader.state_dict()), metric)
    if job.log is not None:
        job.log.write("saved", done, {"seconds": round(time.monotonic() - began, 3)})
    job.report({"step": done} if metric is None else {"step": done, metric[0]: metric[1]})


class _Meter:
    """Means since the last logged step."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Begin anew, so that validation and saving do not count as training time."""
        self._began = time.monotonic()
        self._steps = self._pairs = 0
        self._wait = 0.0

    def add(self, result: StepResult, wait_s: float) -> None:
        self._last = result
        self._steps += 1
        self._pairs += result.num_pairs
        self._wait += wait_s

    def figures(self) -> dict[str, float]:
        """Of the last step its losses, and the pace since the last call."""
        seconds = max(time.monotonic() - self._began, 1e-9)
        last = self._last
        figures = {
            "loss": last.loss,
            "loss_vqa": last.loss_vqa,
            "loss_reg": last.loss_reg,
            "loss_con": last.loss_con,
            "lr": last.lr,
            "grad_norm": last.grad_norm,
            "pairs_per_s": round(self._pairs / seconds, 3),
            "data_wait_s": round(self._wait / self._steps, 4),
            "step_s": round(seconds / self._steps, 4),
        }
        if last.loss_scale is not None:  # fp16
            figures |= {"loss_scale": last.loss_scale, "skipped_steps": last.skipped_steps}
        self.restart()
        return figures
