"""May a run go on from a checkpoint: the same settings, the same data. World size is free."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

from launcher.checkpoints.commit import Checkpoint
from launcher.config import RunConfig, fingerprint
from launcher.errors import CheckpointError

_PACKAGES = ("torch", "deepspeed", "transformers", "ray", "numpy")


def check_fits(checkpoint: Checkpoint, config: RunConfig, data_fingerprint: str | None) -> None:
    """Raise CheckpointError, with every reason, if a run cannot continue from a checkpoint.

    ``data_fingerprint`` None: not compared.
    """
    meta, path = checkpoint.meta, checkpoint.path
    problems = []
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


def is_same_layout(checkpoint: Checkpoint, config: RunConfig, world_size: int) -> bool:
    """Whether each rank can read its own shards again, for a bit-exact continuation."""
    meta = checkpoint.meta
    return meta["world_size"] == world_size and meta["zero"] == config.engine.zero


def versions() -> dict[str, str]:
    """Of Python and the packages whose numerics a checkpoint depends on."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
