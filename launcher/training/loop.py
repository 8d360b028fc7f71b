"""The sequence of a run: next batch, step, log, validate, save, until the last step."""

from __future__ import annotations

import logging
import time
from typing import Any, NamedTuple, NoReturn

import torch
import torch.distributed as dist

from dataloaders.loader import StepBatch
from launcher.checkpoints.keeper import Position
from launcher.cluster.leaving import LeaveRun
from launcher.evaluation.evaluate import evaluate_split, gather_rows
from launcher.evaluation.scores import summarise
from launcher.training.agreement import attempt, raise_any
from launcher.training.job import Job
from launcher.training.step import StepResult

logger = logging.getLogger(__name__)

METRIC = "accuracy"
_NAMED = 4  # questions in a message


def train(job: Job, done: int) -> None:
    """Make the updates from ``done`` to the last.

    Raises:
        RunStoppedError: on every rank, if training must not go on.
        LeaveRun: on every rank, after a checkpoint, if any of them was asked to leave.
    """
    config = job.config
    meter = job.meter
    save_due = leaving = False
    while done < config.optim.steps:
        asked = time.monotonic()
        turn = next_batch(job)
        batch = turn.batch
        began = time.monotonic()
        result = job.step(batch.micro, done, turn.num_pairs)
        wait_s, step_s = began - asked, time.monotonic() - began
        done += 1
        job.watchdog.beat()
        if job.profiler is not None:
            job.profiler.step()
        job.ledger.step(done, wait_s, step_s, made=result.made)
        log_saved(job, done)
        if job.questions is not None:
            job.questions.add(done, batch, result.bad or (None if result.made else "overflow"))
        if settle(job, batch, result, done) and (back := roll_back(job, done)) is not None:
            done = back
            meter.restart()
            continue
        meter.add(result, wait_s, step_s, job.cost(batch.micro), job.loader.last_wait_s)
        last = done == config.optim.steps
        if last or done % config.log.every == 0:
            note(job, done, turn)
        validate_now = config.data.val is not None and (
            last or (config.eval.every and done % config.eval.every == 0)
        )
        leaving |= turn.leave
        save_due |= validate_now or last or leaving or done % config.checkpoint.every == 0
        # After a step that was left out the weights may be broken: the good checkpoint stands.
        if save_due and (result.bad is None or last):
            metric = validate(job, done) if validate_now else None
            save(job, done, metric)
            save_due = False
            if (leaving or turn.grow) and not last:
                leave(job, done)
    settle_saved(job, done)


class Turn(NamedTuple):
    """This rank's part of the next global batch, and what all ranks know of it.

    ``num_pairs`` are the global batch's. ``faults`` so far are ``bad``, visits whose clip could not
    be used, of all ``seen``, and ``timeouts``, the clips among them that were given up because
    decoding took too long. ``leave``: a rank was asked to leave, so all do after this step.
    ``grow``: there is room for more workers, so all leave if a checkpoint is made of this step.
    """

    batch: StepBatch
    num_pairs: int
    faults: dict[str, int]
    leave: bool
    grow: bool


def next_batch(job: Job) -> Turn:
    """The next turn, agreed on by all ranks.

    Raises:
        RunStoppedError: on every rank, if any rank's data cannot go on.
    """

    batch, fault = attempt(lambda: next(job.loader))
    job.watchdog.beat()
    counters = job.loader.counters()
    requests = job.requests
    counts = torch.tensor(
        [
            batch.num_pairs if batch is not None else 0,
            counters["bad"],
            counters["timeouts"],
            counters["seen"],
            int(requests.reason() is not None),
            int(requests.growth_reason() is not None),
            int(requests.due() and dist.get_rank() == 0),
            int(fault is not None),
        ],
        device=job.engine.device,
    )
    dist.all_reduce(counts)
    num_pairs, num_bad, num_timeouts, num_seen, leave, grow, ask, num_faults = counts.tolist()
    if num_faults:
        faults: list[list[str] | None] = [None] * dist.get_world_size()
        dist.all_gather_object(faults, fault)
        raise_any(faults)
    assert batch is not None
    if ask:
        leave += requests.preemption() is not None
    faulty = {"bad": num_bad, "timeouts": num_timeouts, "seen": num_seen}
    return Turn(batch, num_pairs, faulty, bool(leave), bool(grow))


def note(job: Job, done: int, turn: Turn) -> None:
    """Log the steps since the last logged one. Every rank calls it."""
    figures = job.meter.figures(turn.faults)
    if job.log is not None:
        faults = {name: turn.faults[name] for name in ("bad", "timeouts")}
        goodput = round(job.ledger.goodput() or 0.0, 5)
        job.log.write(
            "train", done,
            {**figures, "epoch": turn.batch.epoch, **faults, "goodput": goodput},
        )  # fmt: skip


def leave(job: Job, done: int) -> NoReturn:
    """End training on all ranks, saying why."""
    settle_saved(job, done)
    reasons: list[str | None] = [None] * dist.get_world_size()
    asked = job.requests
    own = asked.reason() or asked.preempted_because or asked.growth_reason()
    dist.all_gather_object(reasons, own)
    reason = next(filter(None, reasons), "asked to leave")
    if job.log is not None:
        job.log.write("left", done, {"reason": reason})
    job.ledger.record("left", step=done, reason=reason)
    raise LeaveRun(done, reason)


def settle(job: Job, batch: StepBatch, result: StepResult, done: int) -> bool:
    """Note a step that was left out, with the questions it was made of; whether to roll back.

    Raises:
        RunStoppedError: on every rank, if there were more of them than the run file allows.
    """
    if result.bad is None:
        job.guard.good(result.loss)
        return False
    rows: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(rows, provenance(batch, result, dist.get_rank()))
    found = [row for part in rows for row in part]
    if job.log is not None:
        job.log.bad_step(done, job.attempt, result.bad, batch.epoch, batch.step, found)
    first = ", ".join(f"{row['video']}/{row['question']}" for row in found[:_NAMED])
    more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
    job.guard.bad(done, result.bad, first + more)
    return result.bad == "spike" and job.guard.rolls_back


def provenance(batch: StepBatch, result: StepResult, rank: int) -> list[dict[str, Any]]:
    """The pairs to blame for a step that was left out, of this rank."""
    metas = [micro.meta for micro in batch.micro]
    return [
        {
            "video": metas[k].videos[row],
            "question": metas[k].questions[row],
            "rank": rank,
            "micro_batch": k,
        }
        for k, row in result.bad_pairs
    ]


def roll_back(job: Job, done: int) -> int | None:
    """Take the weights back to the last checkpoint, and leave out the data since; its step.

    The loader stays where it is. None without a checkpoint: the step is left out, nothing else.
    """
    settle_saved(job, done)
    position = job.keeper.roll_back()
    if position is None:
        return None
    if job.questions is not None:
        job.questions.rewind(position.step)
    job.ledger.record("roll_back", step=position.step)
    if job.log is not None:
        job.log.rewind(position.step)
        job.log.write("roll_back", position.step, {"from": done})
    logger.warning("step %d: back to the checkpoint of step %d", done, position.step)
    return position.step


def validate(job: Job, done: int) -> tuple[str, float] | None:
    """Answer the validation split on all ranks; the metric that chooses the best checkpoint.

    None where no question could be asked.
    """
    config = job.config
    rank, world_size = dist.get_rank(), dist.get_world_size()
    began = time.monotonic()
    with job.ledger.pause("val", done):
        rows = evaluate_split(
            job.engine.module, config, "val", rank, world_size, config.eval.max_videos
        )
        figures: dict[str, Any] = summarise(gather_rows(rows, world_size))
        job.engine.train()
    job.watchdog.beat()
    if job.log is not None:
        seconds = round(time.monotonic() - began, 2)
        job.log.write("val", done, {**figures, "seconds": seconds})
    value = figures.get(METRIC)
    return None if value is None else (METRIC, float(value))


def save(job: Job, done: int, metric: tuple[str, float] | None) -> None:
    """Begin a checkpoint and tell Ray about it."""
    if job.questions is not None:
        job.questions.write()
    position = Position(done, job.loader.state_dict(), job.guard.state_dict())
    with job.ledger.pause("saved", done):
        job.keeper.save(position, metric)
        log_saved(job, done)
        job.watchdog.beat()
        job.report({"step": done} if metric is None else {"step": done, metric[0]: metric[1]})


def log_saved(job: Job, done: int) -> None:
    """Note the checkpoint that was committed, and those that failed, since the last call."""
    for line in job.keeper.take_failures():
        if job.log is not None:
            job.log.write("save_failed", done, {"why": line})
    saved = job.keeper.take_saved()
    if saved is not None and job.log is not None:
        figures = {"stall_s": round(saved.stall_s, 4), "seconds": round(saved.write_s, 3)}
        job.log.write("saved", saved.step, figures)


def settle_saved(job: Job, done: int) -> None:
    """Wait until the last checkpoint is one. Every rank calls it."""
    with job.ledger.pause("saved", done):
        job.keeper.wait()
    log_saved(job, done)
