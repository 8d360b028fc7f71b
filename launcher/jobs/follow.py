"""Follow a job to its end: its log, with the steps as one bar where there is a terminal."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any, TextIO

from tqdm import tqdm

from launcher.jobs.client import Jobs, UnreachableError
from launcher.jobs.log_lines import StepLine, parse_step
from launcher.jobs.runs import RunJob, outcome, refreshed

logger = logging.getLogger(__name__)

_POLL_S = 1.0
_TRIES = 10
_BETWEEN_TRIES_S = 3.0


def follow(jobs: Jobs, job: RunJob, stream: TextIO) -> tuple[int, str]:
    """Show a job's log from its first line until it is over; what :func:`outcome` says of it.

    A connection that breaks is made again, and goes on behind what was shown.

    Raises:
        UnreachableError: the cluster has not answered for a while; the job may go on.
    """
    view = LogView(stream)
    try:
        failed = 0
        while True:
            before = view.shown
            try:
                asyncio.run(_show(jobs, job, view))
                job = refreshed(jobs, job)
                if job.is_over:
                    break
            except UnreachableError:
                failed = 1 if view.shown > before else failed + 1
                if failed >= _TRIES:
                    raise
            time.sleep(_BETWEEN_TRIES_S)
    finally:
        view.close()
    return outcome(job, jobs.log(job.id))


def wait(jobs: Jobs, job: RunJob) -> tuple[int, str]:
    """Wait in silence until a job is over; what :func:`outcome` says of it."""
    failed = 0
    while not job.is_over:
        time.sleep(_POLL_S)
        try:
            job, failed = refreshed(jobs, job), 0
        except UnreachableError:
            failed += 1
            if failed >= _TRIES:
                raise
            time.sleep(_BETWEEN_TRIES_S)
    return outcome(job, jobs.log(job.id))


async def _show(jobs: Jobs, job: RunJob, view: LogView) -> None:
    known = view.shown  # a log is sent from its beginning
    async for text in jobs.tail(job.id):
        fresh = text[known:]
        known = max(0, known - len(text))
        view.add(fresh)


class LogView:
    """Writes a log as it comes. In a terminal, lines on steps move a bar in place of being shown.

    ``shown``: the characters it was given so far.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._is_terminal = stream.isatty()
        self._bar: tqdm[Any] | None = None
        self._half = ""
        self.shown = 0

    def add(self, text: str) -> None:
        self.shown += len(text)
        *lines, self._half = (self._half + text).split("\n")
        for line in lines:
            self._line(line)

    def close(self) -> None:
        if self._half:
            self._line(self._half)
            self._half = ""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _line(self, line: str) -> None:
        row = parse_step(line) if self._is_terminal else None
        if row is not None and not row.figures.startswith("validation"):
            self._move(line.partition(":")[0], row)
        elif self._bar is not None:
            self._bar.write(line, file=self._stream)
        else:
            self._stream.write(line + "\n")
            self._stream.flush()

    def _move(self, title: str, row: StepLine) -> None:
        if self._bar is None or self._bar.n > row.step:  # the run went back to a checkpoint
            if self._bar is not None:
                self._bar.close()
            self._bar = tqdm(
                total=row.total, initial=row.step, desc=title, unit="step", file=self._stream,
                dynamic_ncols=True, smoothing=0.1,
            )  # fmt: skip
        self._bar.set_postfix_str(row.figures, refresh=False)
        self._bar.update(row.step - self._bar.n)
        self._bar.refresh()
