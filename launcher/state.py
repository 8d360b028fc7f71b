"""Saving and restoring all that training continues from: a checkpoint's contents.

Each rank writes its ZeRO shards through DeepSpeed and its random number generators; rank 0 adds
``meta.json``. At the same world size and ZeRO stage a restored run is bit for bit the run that was
not interrupted.
"""

from __future__ import annotations

import logging
import platform
import random
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from launcher.checkpoint import (
    FORMAT_VERSION,
    Checkpoint,
    commit,
    newest,
    open_partial,
    partial_path,
    prune,
    record_best,
)
from launcher.config import RunConfig, fingerprint
from launcher.engine import Engine
from launcher.errors import CheckpointError
from launcher.run_folder import RunFolder

logger = logging.getLogger(__name__)

ZERO_TAG = "zero"
_PACKAGES = ("torch", "deepspeed", "transformers", "ray", "numpy")


@dataclass(frozen=True)
class Position:
    """Where a run stands: updates made, and the data loader's state."""

    step: int
    loader: Mapping[str, Any]


class CheckpointKeeper:
    """Saves, restores and prunes the checkpoints of one attempt at a run.

    Args:
        engine: the DeepSpeed engine.
        config: the run.
        folder: the run's folder.
        attempt: this attempt's number.
        data_fingerprint: of the training data.
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

    def save(self, position: Position, metric: tuple[str, float] | None = None) -> None:
        """Write and commit a checkpoint. Every rank calls it.

        Args:
            position: of the run after the last update.
            metric: name and value of the validation metric at this step (larger is better).
        """
        rank, step = dist.get_rank(), position.step
        self._on_rank_0(lambda: open_partial(self._folder, step, self._attempt))
        partial = partial_path(self._folder, step, self._attempt)
        self._engine.save_checkpoint(
            str(partial), tag=ZERO_TAG, save_latest=False, exclude_frozen_parameters=True
        )
        torch.save({"rng": rng_state(), "loader": dict(position.loader)}, _rank_file(partial, rank))
        dist.barrier()
        self._on_rank_0(lambda: self._commit(position, metric))

    def _commit(self, position: Position, metric: tuple[str, float] | None) -> None:
        saved = commit(self._folder, position.step, self._attempt, self._meta(position, metric))
        if metric is not None and self._config.checkpoint.keep_best:
            record_best(self._folder, saved, *metric)
        prune(self._folder, self._config.checkpoint.keep, self._attempt)

    def _on_rank_0(self, action: Any) -> None:
        # A failure on rank 0 must stop all ranks here, not leave them in the next collective.
        failure: list[BaseException | None] = [None]
        if dist.get_rank() == 0:
            try:
                action()
            except Exception as error:
                failure[0] = error
        dist.broadcast_object_list(failure, src=0)
        if failure[0] is not None:
            raise failure[0]

    def _meta(self, position: Position, metric: tuple[str, float] | None) -> dict[str, Any]:
        return {
            "version": FORMAT_VERSION,
            "step": position.step,
            "plan": dict(position.loader),
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

        Raises:
            CheckpointError: it was written by another run, data set, world size or ZeRO stage.
        """
        chosen: list[Checkpoint | None] = [None]
        if dist.get_rank() == 0:
            chosen[0] = newest(self._folder)
        dist.broadcast_object_list(chosen, src=0)  # one choice, whatever each rank would see
        checkpoint = chosen[0]
        if checkpoint is None:
            return None
        check_fits(checkpoint, self._config, dist.get_world_size(), self._data)
        path, _ = self._engine.load_checkpoint(
            str(checkpoint.path), tag=ZERO_TAG, load_module_strict=False
        )
        if path is None:
            raise CheckpointError(f"{checkpoint.path}: DeepSpeed found no state; delete the folder")
        own = torch.load(_rank_file(checkpoint.path, dist.get_rank()), weights_only=False)
        set_rng_state(own["rng"])
        logger.info("continuing from %s", checkpoint.path)
        return Position(checkpoint.step, own["loader"])


def check_fits(
    checkpoint: Checkpoint, config: RunConfig, world_size: int, data_fingerprint: str | None
) -> None:
    """Raise CheckpointError, with every reason, if a run cannot continue from a checkpoint.

    ``data_fingerprint`` None: not compared.
    """
    meta, path = checkpoint.meta, checkpoint.path
    problems = []
    if meta["world_size"] != world_size:
        problems.append(
            f"scale.num_workers = {world_size}: {path} was written by {meta['world_size']} "
            f"workers; continue with {meta['world_size']}, or begin a new run.name"
        )
    if meta["zero"] != config.engine.zero:
        problems.append(
            f"engine.zero = {config.engine.zero}: {path} was written with ZeRO stage "
            f"{meta['zero']}; continue with {meta['zero']}, or begin a new run.name"
        )
    if meta["config"] != fingerprint(config):
        problems.append(
            f"{path}: was written by a run with other settings; restore the run file that lies in "
            "the run's folder, or begin a new run.name"
        )
    if data_fingerprint is not None and meta["data"] != data_fingerprint:
        places = " + ".join(each.place for each in config.data.sets)
        problems.append(
            f"data.train = {places}: has other contents than when {path} was written; "
            "restore the data, or begin a new run.name"
        )
    if problems:
        raise CheckpointError(problems)


def rng_state() -> dict[str, Any]:
    """The state of every global random number generator of this process."""
    state: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_rng_state(state: Mapping[str, Any]) -> None:
    """Restore what :func:`rng_state` returned."""
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def seed_everything(seed: int) -> None:
    """Seed this process's global generators, on every rank alike; dropout is seeded by sample."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def versions() -> dict[str, str]:
    """Of Python and the packages whose numerics a checkpoint depends on."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _rank_file(folder: Path, rank: int) -> Path:
    return folder / f"rank-{rank:05d}.pt"
