"""The run that a disturbed one is compared with: the same number of workers at every step, and no
fault. It ends bit for bit alike, where one of another number only ends up near."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby
from typing import Any, NamedTuple

from launcher.config import RunConfig
from launcher.observe.lines import read_lines
from launcher.observe.runlog import read_metrics
from launcher.storage.run_folder import RunFolder
from launcher.training.worker import run_worker
from tests.spawn import run_ranks

PATIENCE_S = 1200


class Leg(NamedTuple):
    """``world`` workers made the steps up to ``last``."""

    last: int
    world: int


class ItsEndError(Exception):
    """The leg ends here."""


def legs_of(folder: RunFolder) -> list[Leg]:
    """How many workers made which steps, of all that the run's weights are made of."""
    starts = [row for row in read_metrics(folder.metrics) if row["kind"] == "start"]
    worlds = {row["attempt"]: row["world_size"] for row in starts}
    made = [Leg(row["step"], worlds[row["attempt"]]) for row in read_lines(folder.questions)]
    return [list(part)[-1] for _, part in groupby(made, key=lambda leg: leg.world)]


def run_legs(config: RunConfig, legs: list[Leg]) -> None:
    """Train to the end in legs. Every step is saved, and nothing is lost from one to the next."""
    checkpoint = config.checkpoint.model_copy(update={"every": 1, "in_background": False})
    config = config.model_copy(update={"checkpoint": checkpoint})
    for last, world in legs:
        part = config.at_world_size(world)
        run_ranks(_train_until, world, part, last, preloaded=True, timeout_s=PATIENCE_S)


def _train_until(config: RunConfig, last: int) -> None:
    def end(figures: Mapping[str, Any]) -> None:
        if figures["step"] == last < config.optim.steps:
            raise ItsEndError

    try:
        run_worker(config, end)
    except ItsEndError:
        return
