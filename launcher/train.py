"""Train: ``python -m launcher.train --config FILE [--set section.key=value ...] [--dry-run]``.

Running the same command again continues an interrupted run. Exit code 0: the run is complete;
2: something a user must put right, a line each on stderr; 75: asked to stop (SIGTERM), or the Ray
cluster was lost, and the same command goes on; 130: likewise by Ctrl-C; 1: anything else.
"""

from __future__ import annotations

import argparse
import logging
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from dataloaders.location import absolute
from dataloaders.trust import RedactingFormatter
from launcher.checkpoints.commit import Checkpoint
from launcher.cluster.departure import ClusterLostError, DepartedError
from launcher.config import RunConfig, load_run_config
from launcher.errors import UserError
from launcher.storage.run_folder import RunFolder

logger = logging.getLogger(__name__)


def train(config: RunConfig, *, dry_run: bool = False) -> None:
    """Bring a run to its end: nothing to do if it is there, else from where it was.

    With ``dry_run`` all is checked that can be without a worker, and nothing is written.

    Raises:
        UserError: with all that a user must put right.
    """
    from launcher.checkpoints.find import newest
    from launcher.checks.abilities import slow_settings
    from launcher.checks.preflight import claim, preflight
    from launcher.cluster.launch import run_on_cluster

    config = with_absolute_paths(config)
    preflight(config)
    folder = RunFolder(config.folder)
    if folder.is_complete:
        logger.info("%s: is already complete; its weights are in %s", folder.root, folder.final)
        return
    for line in slow_settings(config):
        logger.warning("%s", line)
    if dry_run:
        logger.info("%s", _readiness(config, newest(folder)))
        return
    claim(config)
    run_on_cluster(config)
    logger.info("%s: complete; its weights are in %s", folder.root, folder.final)


def _readiness(config: RunConfig, checkpoint: Checkpoint | None) -> str:
    begins = "begins" if checkpoint is None else f"goes on from step {checkpoint.step}"
    return (
        f"{config.folder}: is ready; the run {begins}, {config.optim.steps} steps of "
        f"{config.data.global_batch} visits (micro-batch {config.engine.micro_batch} x "
        f"accumulation {config.accumulation} x {config.world_size} workers)"
    )


def with_absolute_paths(config: RunConfig) -> RunConfig:
    """Workers may run in another folder than the command."""
    data: dict[str, Any] = {
        split: absolute(path)
        for split in ("train", "val", "test")
        if (path := getattr(config.data, split)) is not None
    }
    data["mixture"] = tuple(
        each.model_copy(update={"place": absolute(each.place)}) for each in config.data.mixture
    )
    if config.data.cache_dir is not None:
        data["cache_dir"] = config.data.cache_dir.absolute()
    storage = absolute(config.run.storage)
    return config.model_copy(
        update={
            "run": config.run.model_copy(update={"storage": storage}),
            "data": config.data.model_copy(update=data),
        }
    )


def run_command(action: Callable[[], int]) -> int:
    """Call ``action`` and turn its outcome into an exit code, with a line each for user errors."""
    from dataloaders.errors import DataError
    from gcg.errors import ModelError

    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(RedactingFormatter("%(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    try:
        return action()
    except (UserError, ModelError) as error:
        sys.stderr.writelines(f"error: {line}\n" for line in error.lines)
        return 2
    except DataError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    except (DepartedError, ClusterLostError) as ended:
        sys.stderr.write(f"{ended}\n")
        return ended.exit_code
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; run the same command again to continue\n")
        return 130


def train_file(path: Path, overrides: Sequence[str] = (), *, dry_run: bool = False) -> int:
    """Train what a run file describes, or only check it; returns 0.

    Raises:
        UserError: with all that a user must put right.
        KeyboardInterrupt: on Ctrl-C and on SIGTERM.
    """
    signal.signal(signal.SIGTERM, _interrupt)
    train(load_run_config(path, overrides), dry_run=dry_run)
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m launcher.train", description="Train GCG.")
    parser.add_argument("--config", type=Path, required=True, help="the run file (YAML)")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="section.key=value",
        dest="overrides",
        help="override one value of the run file; may be given again",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="check everything; start nothing, write nothing"
    )
    options = parser.parse_args(arguments)
    return run_command(
        lambda: train_file(options.config, options.overrides, dry_run=options.dry_run)
    )


def _interrupt(number: int, frame: object) -> NoReturn:
    # As Ctrl-C: leave through the `finally`s, so that the cluster is closed.
    raise DepartedError(number, None)


if __name__ == "__main__":
    sys.exit(main())
