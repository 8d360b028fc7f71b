"""What is wrong with a run file wherever it will run, and what only goes wrong as a job.

Not seen from here, and told by the job itself within seconds of its start, with exit code 2:
whether data, labels and storage are there and fit, packages and GPUs, weights that lie on the
cluster, and the run's own past.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from dataloaders.location import is_url
from launcher.checks.abilities import impossible_settings
from launcher.checks.model import model_problems_here, named_checkpoints
from launcher.config import RunConfig
from launcher.errors import PreflightError


def check_job(config: RunConfig) -> None:
    """Check a run before it is sent to a cluster.

    Raises:
        PreflightError: with every problem, a line each.
    """
    problems = [
        *_other_cluster(config),
        *_relative_places(config),
        *impossible_settings(config),
        *model_problems_here(config.model),
    ]
    if problems:
        raise PreflightError(list(dict.fromkeys(problems)))


def _other_cluster(config: RunConfig) -> Iterator[str]:
    if config.scale.address not in (None, "auto"):
        yield (
            f"scale.address = {config.scale.address}: a job runs in the cluster that it is "
            "submitted to; leave it out, and name that cluster by --address"
        )


def _relative_places(config: RunConfig) -> Iterator[str]:
    """A job runs in a folder of its own, which goes with it."""
    for setting, place in _places(config):
        if not is_url(place) and not Path(place).expanduser().is_absolute():
            yield (
                f"{setting} = {place}: is relative, and a job runs in a folder of its own that is "
                f"deleted with it; give an absolute path that every node sees: --set {setting}=…"
            )
    for setting, name in named_checkpoints(config.model).items():
        path = Path(name)
        if not path.is_absolute() and not name.startswith("~") and path.exists():
            yield (
                f"{setting} = {name}: is relative to the folder here, and a job runs in another; "
                "give an absolute path that every node sees, or a hub name"
            )


def _places(config: RunConfig) -> Iterator[tuple[str, str]]:
    yield "run.storage", str(config.run.storage)
    data = config.data
    for number, each in enumerate(data.mixture):
        yield f"data.mixture[{number}].place", each.place
    for split in ("train", "val", "test"):
        if (place := getattr(data, split)) is not None:
            yield f"data.{split}", place
    if data.cache_dir is not None:
        yield "data.cache_dir", str(data.cache_dir)
