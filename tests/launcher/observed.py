"""A real run with a restart, for the tests of what a run tells about itself."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from launcher.checkpoints.find import newest
from launcher.config import RunConfig, parse_run_config
from launcher.storage.run_folder import RunFolder
from launcher.training.worker import run_worker
from tests.spawn import run_ranks

from .conftest import run_tree

STEPS = 8


class Lost(RuntimeError):
    """What a worker's machine does to it."""


def observed_config(packed: Path, storage: Path, **log: Any) -> RunConfig:
    return parse_run_config(
        run_tree(
            packed,
            storage,
            run={"name": "observed"},
            optim={"steps": STEPS, "warmup_steps": 1},
            checkpoint={"every": 2, "keep": 3, "in_background": False},
            log={"every": 2, **log},
        )
    )


def run_twice(config: RunConfig) -> None:
    """All ranks fail when the checkpoint of step 4 has been made, which is lost, too; then on."""
    import torch.distributed as dist

    def fail_at_4(figures: Mapping[str, Any]) -> None:
        if figures["step"] == 4:
            raise Lost("the machine went away")

    try:
        run_worker(config, fail_at_4)
    except Lost:
        if dist.get_rank() == 0:
            last = newest(RunFolder(config.folder))
            assert last is not None
            shutil.rmtree(last.path)
    dist.barrier()
    run_worker(config, lambda figures: None)


def observe(packed: Path, storage: Path, **log: Any) -> RunFolder:
    """The folder of a run that was trained to step 4, lost steps 3 and 4, and was completed."""
    from launcher.checks.preflight import claim

    config = observed_config(packed, storage, **log)
    claim(config)
    run_ranks(run_twice, 2, config, preloaded=True)
    return RunFolder(config.folder)
