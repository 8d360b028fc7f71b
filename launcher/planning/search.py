"""The cheapest way to run a model in the memory there is, and why the other ways are not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal, cast

from launcher.config import RunConfig
from launcher.planning.flops import pair_flops
from launcher.planning.memory import Device, Memory, run_engine, worker_memory
from launcher.planning.shapes import ModelShape, micro_batch
from launcher.planning.sizes import Census
from launcher.planning.timing import Hardware, StepTime, step_time

Stage = Literal[1, 2, 3]


@dataclass(frozen=True)
class Situation:
    """All that the candidates share. ``pairs_per_visit``: the mean, for the time of a step."""

    census: Census
    model: ModelShape
    device: Device
    hardware: Hardware
    nodes: int
    question_tokens: int
    pairs_per_visit: float
    clip: tuple[int, int]


@dataclass(frozen=True)
class Candidate:
    """One ZeRO stage, set of recomputed parts, of offloaded parts, and micro-batch. ``host``: bytes
    of host memory for what is offloaded. ``exceeded``: the first line that is beyond the memory,
    with the bytes up to and with it; None where all fit."""

    zero: Stage
    recompute: tuple[str, ...]
    offload: tuple[str, ...]
    micro_batch: int
    accumulation: int
    peak: int
    host: int
    time: StepTime
    exceeded: tuple[str, int] | None

    @property
    def fits(self) -> bool:
        return self.exceeded is None

    @property
    def cost(self) -> tuple[float, int]:
        """What candidates are ranked by: the time of a step, then memory."""
        return self.time.seconds, self.peak


def candidates(config: RunConfig, situation: Situation) -> list[Candidate]:
    """Every stage, every set of recomputed parts, every micro-batch that a worker's share of the
    global batch can be cut into; the global batch stays. On GPUs where nothing fits so, or where
    the run offloads, also every set of offloaded parts."""
    found = [evaluate(one, situation) for one in _ways(config, offloading=False)]
    wanted = config.engine.offload or cheapest(found) is None
    if wanted and situation.device == "cuda":
        found += [evaluate(one, situation) for one in _ways(config, offloading=True)]
    return found


def _ways(config: RunConfig, *, offloading: bool) -> Iterator[RunConfig]:
    share = config.data.global_batch // config.world_size
    for zero in _stages(config):
        for offload in _offloads(zero) if offloading else [()]:
            for recompute in _subsets(config):
                for micro in range(1, share + 1):
                    if share % micro == 0:
                        yield with_engine(config, zero, recompute, offload, micro)


def cheapest(found: Sequence[Candidate]) -> Candidate | None:
    """The one that fits with the least time of a step, and of equals the least memory."""
    return min((one for one in found if one.fits), key=lambda one: one.cost, default=None)


def evaluate(config: RunConfig, situation: Situation) -> Candidate:
    """Memory and time of one configuration."""
    memory, time = run_memory(config, situation), run_time(config, situation)
    engine = config.engine
    return Candidate(
        zero=engine.zero,
        recompute=engine.recompute,
        offload=engine.offload,
        micro_batch=engine.micro_batch,
        accumulation=config.accumulation,
        peak=memory.peak,
        host=memory.host_peak,
        time=time,
        exceeded=first_exceeded(memory, situation.hardware.memory),
    )


def run_memory(config: RunConfig, situation: Situation) -> Memory:
    """One worker's memory; micro-batches are planned full: every visit with all its questions."""
    batch = micro_batch(
        config, situation.model, config.engine.micro_batch, situation.question_tokens,
        situation.clip,
    )  # fmt: skip
    return worker_memory(config, situation.census, situation.model, batch, situation.device)


def run_time(config: RunConfig, situation: Situation) -> StepTime:
    """A step's time, for the mean number of pairs a visit."""
    batch = micro_batch(
        config, situation.model, config.engine.micro_batch, situation.question_tokens,
        situation.clip,
    )  # fmt: skip
    flops = pair_flops(situation.model, batch, situation.pairs_per_visit, config.engine.recompute)
    pairs = config.data.global_batch * situation.pairs_per_visit
    engine = run_engine(config, situation.device)
    return step_time(flops, situation.census, engine, situation.hardware, pairs, situation.nodes)


def first_exceeded(memory: Memory, limit: float) -> tuple[str, int] | None:
    """The line of the peak's table at which the sum passes ``limit``, and the sum there."""
    used = 0
    for kind, part, size in memory.table(memory.peak_phase):
        used += size
        if used > limit:
            return f"{kind}: {part}", used
    return None


def with_engine(
    config: RunConfig,
    zero: Stage,
    recompute: tuple[str, ...],
    offload: tuple[str, ...],
    micro: int,
) -> RunConfig:
    """``config`` with another ZeRO stage, recomputation, offload and micro-batch."""
    engine = config.engine.model_copy(
        update={"zero": zero, "recompute": recompute, "offload": offload, "micro_batch": micro}
    )
    return config.model_copy(update={"engine": engine})


def _offloads(zero: Stage) -> list[tuple[str, ...]]:
    if zero == 3:
        return [("optimizer",), ("weights",), ("optimizer", "weights")]
    return [("optimizer",)]


def _stages(config: RunConfig) -> tuple[Stage, ...]:
    # ZeRO-3 cannot slice 4-bit weights.
    return (1, 2) if config.model.llm.quantize == "nf4" else (1, 2, 3)


def _subsets(config: RunConfig) -> Iterator[tuple[str, ...]]:
    parts = ("vision",) if config.model.vision.train else ()
    parts = cast("tuple[str, ...]", (*parts, "qformer", "llm"))
    for size in range(len(parts) + 1):
        yield from combinations(parts, size)
