"""Saving and restoring all that training continues from, on every rank.

Each rank's ZeRO shards, as DeepSpeed would write them, and its random number generators are copied
to host memory and written from there; rank 0 adds ``meta.json`` and commits. At the same world size
and ZeRO stage a restored run is bit for bit the run that was not interrupted. At another one the
shards are converted first, once; the global batches and their noise stay, the order of sums does
not.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch.distributed as dist

from launcher.checkpoints.background import Saved
from launcher.checkpoints.commit import (
    FORMAT_VERSION,
    Checkpoint,
)
from launcher.checkpoints.fence import record_origin
from launcher.checkpoints.fetch import (
    clear,
    cleared,
    damage_found_together,
    fetch_all,
    fetch_own_shards,
)
from launcher.checkpoints.find import entries, newest, passed_over
from launcher.checkpoints.fits import check_fits, is_same_layout, versions
from launcher.checkpoints.keep import discard
from launcher.checkpoints.load import load_universal
from launcher.checkpoints.safe_load import load, only_known_classes, refuse_unknown
from launcher.checkpoints.save import Saver, rank_file
from launcher.checkpoints.universal import ZERO_TAG, convert, find_universal
from launcher.checkpoints.verify import share
from launcher.config import RunConfig, fingerprint
from launcher.errors import CheckpointError
from launcher.observe.runlog import add_event
from launcher.storage.places import is_remote
from launcher.storage.run_folder import RunFolder
from launcher.training.agreement import each_from_rank_0, from_rank_0, on_rank_0, together
from launcher.training.engine import Engine, keep_adam
from launcher.training.rng import set_rng_state

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Position:
    """Where a run stands: updates made, the data loader's state, and the guard's."""

    step: int
    loader: Mapping[str, Any]
    guard: Mapping[str, Any] = field(default_factory=dict)


class CheckpointKeeper:
    """Saves, restores and prunes the checkpoints of one attempt at a run.

    Args:
        engine: the DeepSpeed engine.
        config: the run.
        folder: the run's folder.
        attempt: this attempt's number.
        data_fingerprint: of the training data.

    ``passed_over``: after :meth:`restore`, a line for each newer checkpoint that was not loaded.
    """

    def __init__(
        self,
        engine: Engine,
        config: RunConfig,
        folder: RunFolder,
        *,
        attempt: int,
        data_fingerprint: str,
    ) -> None:
        self._engine = engine
        self._config = config
        self._folder = folder
        self._attempt = attempt
        self._data = data_fingerprint
        self.passed_over: list[str] = []
        self._saver = Saver(engine, config.checkpoint, folder, attempt)

    def save(self, position: Position, metric: tuple[str, float] | None = None) -> None:
        """Begin a checkpoint. Every rank calls it.

        With ``checkpoint.in_background`` it is being written when this returns; a save that comes
        too early waits for the one before. One that fails is noted in :meth:`take_failures`.

        Args:
            position: of the run after the last update.
            metric: name and value of the validation metric at this step (larger is better).

        Raises:
            StaleAttemptError: a newer attempt owns the run.
            RunStoppedError: more saves in a row have failed than the run file allows.
        """
        self._saver.save(position.step, self._meta(position, metric), metric)

    def wait(self) -> None:
        """Until the last snapshot is a checkpoint. Every rank calls it.

        Raises:
            StaleAttemptError: a newer attempt owns the run.
            RunStoppedError: it cannot be written; on every rank.
        """
        self._saver.wait()

    def take_saved(self) -> Saved | None:
        """The checkpoint that was committed since the last call, on rank 0."""
        return self._saver.take_saved()

    def take_failures(self) -> list[str]:
        """A line for each save that failed since the last call."""
        lines, self._saver.failures = self._saver.failures, []
        return lines

    def close(self) -> None:
        """End the writing thread."""
        self._saver.close()

    def _meta(self, position: Position, metric: tuple[str, float] | None) -> dict[str, Any]:
        return {
            "version": FORMAT_VERSION,
            "step": position.step,
            "plan": dict(position.loader),
            "guard": dict(position.guard),
            "world_size": dist.get_world_size(),
            "zero": self._config.engine.zero,
            "config": fingerprint(self._config),
            "data": self._data,
            "attempt": self._attempt,
            "versions": versions(),
            "metric": None if metric is None else {"name": metric[0], "value": metric[1]},
        }

    def restore(self) -> Position | None:
        """Continue from the newest complete checkpoint; None where there is none yet.

        Each rank reads a share of its files and compares checksums. A damaged one is passed over,
        with a warning, for the one before.

        Raises:
            CheckpointError: it was written by another run or data set, or all are damaged.
            RunStoppedError: a file holds what no checkpoint does.
        """
        clear(self._folder.checkpoints)
        checkpoint = self._choose()
        origin = None if checkpoint is None else (checkpoint.attempt, checkpoint.step)
        # Nobody trains before the note is there.
        on_rank_0(lambda: record_origin(self._folder, self._attempt, origin))
        return None if checkpoint is None else self._load(checkpoint)

    def roll_back(self) -> Position | None:
        """As :meth:`restore`, for an attempt that has already begun."""
        checkpoint = self._choose()
        return None if checkpoint is None else self._load(checkpoint)

    def _load(self, checkpoint: Checkpoint) -> Position:
        is_fetched = is_remote(checkpoint.path)
        if self._is_same_layout(checkpoint):
            with cleared(checkpoint) as local:
                _refuse_foreign(local, is_fetched=is_fetched)
                self._load_own_shards(local)
        else:
            if not is_fetched:  # else the conversion does
                _refuse_foreign(checkpoint, is_fetched=False)
            with cleared(self._universal(checkpoint)) as local:
                _refuse_foreign(local, is_fetched=is_fetched)
                load_universal(self._engine, local.path)
        logger.info("continuing from %s", checkpoint.path)
        meta = checkpoint.meta
        return Position(checkpoint.step, meta["plan"], meta.get("guard", {}))

    def _is_same_layout(self, checkpoint: Checkpoint) -> bool:
        return is_same_layout(checkpoint, self._config, dist.get_world_size())

    def _choose(self) -> Checkpoint | None:
        damaged: dict[Path, str] = {}
        while True:
            # One choice, whatever each rank would see.
            checkpoint, over = from_rank_0(
                lambda: ((found := newest(self._folder, damaged)), passed_over(self._folder, found))
            )
            if checkpoint is None:
                break
            check_fits(checkpoint, self._config, self._data)
            if is_remote(checkpoint.path) and self._is_same_layout(checkpoint):
                faults = fetch_own_shards(checkpoint)
            else:
                faults = damage_found_together(checkpoint)
            if not faults:
                break
            damaged[checkpoint.path] = f"{checkpoint.path.name}: was damaged: {faults[0]}"
        self.passed_over = [*damaged.values(), *over]
        for line in self.passed_over:
            logger.warning("passed over: %s", line)
        if checkpoint is None:
            on_rank_0(lambda: _refuse_to_begin_anew(self._folder, list(damaged.values())))
        return checkpoint

    def _load_own_shards(self, checkpoint: Checkpoint) -> None:
        with only_known_classes():
            path, _ = self._engine.load_checkpoint(
                str(checkpoint.path), tag=ZERO_TAG, load_module_strict=False
            )
        if path is None:
            raise CheckpointError(f"{checkpoint.path}: DeepSpeed found no state; delete the folder")
        keep_adam(self._engine)
        set_rng_state(load(rank_file(checkpoint.path, dist.get_rank()))["rng"])

    def _universal(self, checkpoint: Checkpoint) -> Checkpoint:
        """The converted form: as it lies there, else made by rank 0 while the others wait."""
        found = from_rank_0(lambda: find_universal(checkpoint))
        if found is not None:
            faults = (fetch_all if is_remote(found.path) else damage_found_together)(found)
            if not faults:
                return found
            logger.warning("%s: converted anew: %s", found.path, faults[0])
            on_rank_0(lambda: discard(found.path))
        meta = checkpoint.meta
        what = (
            f"converting {checkpoint.path.name} from {meta['world_size']} workers, ZeRO-"
            f"{meta['zero']}, to {dist.get_world_size()}, ZeRO-{self._config.engine.zero}"
        )
        for status in each_from_rank_0(lambda: convert(checkpoint, self._attempt)):
            if dist.get_rank() == 0:
                add_event(self._folder.metrics, "convert", checkpoint.step, f"{what}: {status}")
        made = from_rank_0(lambda: find_universal(checkpoint))
        assert made is not None
        if is_remote(made.path) and (faults := fetch_all(made)):
            raise CheckpointError(f"{made.path}: {faults[0]}; run the same command again")
        return made


def _refuse_foreign(checkpoint: Checkpoint, *, is_fetched: bool) -> None:
    """Stop on all ranks if a file holds what no checkpoint does: that is no damage to pass over."""
    if is_fetched:  # what is on this machine
        names = [name for name in checkpoint.files if (checkpoint.path / name).exists()]
    else:
        names = share(checkpoint, dist.get_rank(), dist.get_world_size())
    files = [checkpoint.path / name for name in names if name.endswith(".pt")]
    together(lambda: refuse_unknown(files))


def _refuse_to_begin_anew(folder: RunFolder, damaged: list[str]) -> None:
    """What was trained must not be thrown away silently."""
    lost = damaged or [
        f"{entry.path.name}: {entry.why}"
        for entry in entries(folder)
        if entry.committed and entry.checkpoint is None and not entry.stale
    ]
    if lost:
        raise CheckpointError(
            f"{folder.checkpoints / lost[-1]}; no other checkpoint is left: restore it, or delete "
            f"{folder.checkpoints} to begin at step 0"
        )
