"""Saving checkpoints on every rank: snapshot, write in the background, commit, and what may fail.

A storage that cannot be written to for a while must not end a run: a save that fails is given up on
all ranks together and noted, and training goes on to the next one. How many may fail in a row is
the run file's to say; the last save of a run, or before leaving, may not.
"""

from __future__ import annotations

import logging
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch.distributed as dist

from launcher.checkpoints.background import BackgroundWriter, Saved
from launcher.checkpoints.commit import checkpoint_path, commit, open_checkpoint
from launcher.checkpoints.keep import discard, prune, record_best
from launcher.checkpoints.snapshot import HostMemory, SnapshotEngine
from launcher.checkpoints.universal import ZERO_TAG
from launcher.config import CheckpointSection
from launcher.errors import RunStoppedError
from launcher.storage.places import fault_of
from launcher.storage.run_folder import RunFolder
from launcher.training.agreement import from_rank_0
from launcher.training.engine import Engine
from launcher.training.rng import rng_state

logger = logging.getLogger(__name__)

Metric = tuple[str, float]


class Saver:
    """Saves the checkpoints of one attempt at a run.

    Args:
        engine: the DeepSpeed engine; its files are written by us from now on.
        section: how many checkpoints are kept, and how they are written.
        folder: the run's folder.
        attempt: this attempt's number.

    ``failures``: a line for each save that failed since someone last took them; on every rank.
    """

    def __init__(
        self, engine: Engine, section: CheckpointSection, folder: RunFolder, attempt: int
    ) -> None:
        self._engine = engine
        self._section = section
        self._folder = folder
        self._attempt = attempt
        self._rank = dist.get_rank()
        memory = HostMemory()
        self._snapshots = engine.checkpoint_engine = SnapshotEngine(memory)
        self._writer = BackgroundWriter(self._rank, dist.get_world_size(), memory)
        self._failed_in_a_row = 0
        self._last_failure = ""
        self.failures: list[str] = []

    def save(self, step: int, meta: dict[str, Any], metric: Metric | None) -> None:
        """Take a snapshot, and have it written and committed. Every rank calls it.

        Raises:
            StaleAttemptError: a newer attempt owns the run.
            RunStoppedError: too many saves in a row have failed; on every rank.
        """
        began = time.monotonic()
        self.wait(final=False)
        path = checkpoint_path(self._folder, step, self._attempt)
        fault = from_rank_0(lambda: fault_of(partial(self._open, step)))
        if fault is not None:
            self._note_failure(path, [fault], final=False)
            return
        self._snapshots.begin()
        self._engine.save_checkpoint(
            str(path), tag=ZERO_TAG, save_latest=False, exclude_frozen_parameters=True
        )
        self._snapshots.save({"rng": rng_state()}, str(rank_file(path, self._rank)))
        finish = partial(self._commit, step, meta, metric) if self._rank == 0 else None
        self._writer.start(path, self._snapshots.end(), finish)
        if not self._section.in_background:
            self.wait(final=False)
        self._writer.stalled(step, time.monotonic() - began)

    def wait(self, *, final: bool = True) -> None:
        """Until the last snapshot is a checkpoint, or has failed. Every rank calls it.

        Args:
            final: nothing is saved after it, so it must not have failed.

        Raises:
            StaleAttemptError: a newer attempt owns the run.
            RunStoppedError: it failed, and that is one too many; on every rank.
        """
        path = self._writer.path
        if path is None:
            if final and self._failed_in_a_row:
                raise RunStoppedError(self._last_failure)
            return
        faults: list[str | None] = [None] * dist.get_world_size()
        dist.all_gather_object(faults, fault_of(self._writer.wait_written))
        lines = [line for line in faults if line is not None]
        if lines:
            self._writer.give_up()
        else:
            fault = from_rank_0(lambda: fault_of(self._writer.wait_committed))
            lines = [] if fault is None else [fault]
        self._writer.path = None
        if lines:
            self._note_failure(path, lines, final=final)
        else:
            self._failed_in_a_row = 0

    def _note_failure(self, path: Path, lines: list[str], *, final: bool) -> None:
        self._failed_in_a_row += 1
        line = (
            f"{path}: cannot be written: {lines[0]}; the checkpoint before it is intact: make room "
            "or restore the storage"
        )
        if final or self._failed_in_a_row > self._section.max_failed:
            raise RunStoppedError(
                f"{line}, and run the same command again ({self._failed_in_a_row} in a row have "
                f"failed, checkpoint.max_failed = {self._section.max_failed})"
            )
        logger.warning("%s", line)
        self.failures.append(line)
        self._last_failure = line
        if self._rank == 0:
            fault_of(partial(discard, path))  # a storage that refuses may refuse that as well

    def _open(self, step: int) -> None:
        open_checkpoint(self._folder, step, self._attempt)

    def _commit(self, step: int, meta: dict[str, Any], metric: Metric | None) -> None:
        self._folder.push()  # the figures of its steps must be there where it is gone on from
        saved = commit(self._folder, step, self._attempt, meta["world_size"], meta)
        if metric is not None and self._section.keep_best:
            record_best(self._folder, saved, *metric)
        prune(self._folder, self._section.keep, self._attempt)

    def take_saved(self) -> Saved | None:
        """The checkpoint that was committed since the last call, on rank 0."""
        return self._writer.take_saved()

    def close(self) -> None:
        self._writer.close()


def rank_file(folder: Path, rank: int) -> Path:
    """What a rank keeps beside DeepSpeed's files."""
    return folder / f"rank-{rank:05d}.pt"
