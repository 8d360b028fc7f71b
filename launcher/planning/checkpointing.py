"""What checkpoints take: bytes, the time training stands still for them, how often they pay.

Symbols: N_t trained weights, W workers, e bytes of a weight. The interval is Young's (1974, "A
first order approximation to the optimum checkpoint interval") as Daly (2006) refines it where a
checkpoint takes a large part of the time between failures.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from launcher.config import RunConfig
from launcher.planning.sizes import Census
from launcher.planning.states import Engine, share
from launcher.planning.timing import Hardware

# Failures of a GPU's part of a cluster in an hour: 419 unexpected interruptions in 54 days of
# 16,384 H100s (Dubey et al. 2024, "The Llama 3 Herd of Models", section 3.3.4).
FAILURES = 419 / (54 * 24 * 16_384)
# Seconds from a failure to the first step after it, beside the steps that are lost: stated; a
# worker's process alone takes 30 s to start (docs/reliability.md).
RESTART = 300.0


@dataclass(frozen=True)
class Checkpointing:
    """``whole``, ``rank``: bytes of a checkpoint, and of the worker that writes most of it.
    ``stall``: seconds that training waits for one, ``write``: until it is committed. ``between``:
    seconds between failures of the whole cluster. ``every``: steps, as the run has it, ``best``:
    as loses least; ``lost``, ``lost_at_best``: the share of time that saving, repeating lost steps
    and starting again take."""

    whole: float
    rank: float
    stall: float
    write: float
    between: float
    every: int
    best: int
    lost: float
    lost_at_best: float

    def a_step(self) -> float:
        """Seconds of waiting for checkpoints, spread over the steps."""
        return self.stall / self.every


def checkpoint_bytes(census: Census, engine: Engine) -> tuple[float, float]:
    """Of all files, and of the worker that writes most. Every worker writes its share of the
    float32 weights and of both moments, 12·N_t/W; below stage 3 rank 0 adds the trained weights as
    the engine has them. Frozen weights are in no checkpoint."""
    own = 12 * share(census.trained, engine.world)
    extra = 0 if engine.zero == 3 else engine.element * census.trained
    return float(own * engine.world + extra), float(own + extra)


def checkpointing(
    config: RunConfig,
    census: Census,
    engine: Engine,
    hardware: Hardware,
    nodes: int,
    step: float,
) -> Checkpointing:
    """Checkpoints of a run whose steps take ``step`` seconds without them."""
    whole, rank = checkpoint_bytes(census, engine)
    # On the machine of rank 0 lie its own part and its neighbours' shares.
    machine = rank + (engine.world // nodes - 1) * 12 * share(census.trained, engine.world)
    write = machine / hardware.write
    copy = rank / (hardware.pcie * 1e9)
    every, between = config.checkpoint.every, 3600 / (FAILURES * engine.world)

    def stall(steps: int) -> float:
        if not config.checkpoint.in_background:
            return copy + write
        # The next one waits until this one is written.
        return copy + max(0.0, write - steps * step)

    def lost(steps: int) -> float:
        return lost_share(steps * step, stall(steps), between, write)

    best = best_steps(step, copy if config.checkpoint.in_background else copy + write, between)
    if config.checkpoint.in_background:
        best = max(best, math.ceil(write / step))
    return Checkpointing(
        whole, rank, stall(every), write, between, every, best, lost(every), lost(best)
    )


def best_interval(cost: float, between: float) -> float:
    """Seconds of work between checkpoints that lose least, Daly's higher-order estimate.

    Args:
        cost: seconds that one takes from training.
        between: mean seconds between failures.
    """
    if cost >= 2 * between:
        return between
    part = math.sqrt(cost / (2 * between))
    return math.sqrt(2 * cost * between) * (1 + part / 3 + part * part / 9) - cost


def best_steps(step: float, cost: float, between: float) -> int:
    """The same in steps, at least one."""
    return max(1, round(best_interval(cost, between) / step))


def lost_share(interval: float, cost: float, between: float, write: float = 0.0) -> float:
    """Of the time of a run: saving, and for each failure half an interval's work, what was done
    while the last checkpoint was still being written, and starting again."""
    saving = cost / (interval + cost)
    failing = ((interval + cost) / 2 + write + RESTART) / between
    return min(1.0, saving + failing)
