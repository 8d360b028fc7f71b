"""What a step waits for: its parts and the largest of them.

Parts that overlap perfectly take as long as the largest; parts that do not, as long as all of
them. A real step lies between. Decoding and reading are the loader's, so they run beside the
others in any case; that counts in the lower bound alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from launcher.config import RunConfig
from launcher.planning.checkpointing import Checkpointing, checkpointing
from launcher.planning.data_rates import DataRates, Sample, data_rates
from launcher.planning.memory import run_engine
from launcher.planning.search import Situation, run_time
from launcher.planning.timing import StepTime

Part = Literal["compute", "wire", "offload", "decode", "read", "checkpoint"]


@dataclass(frozen=True)
class Limits:
    """Of one optimizer step."""

    time: StepTime
    data: DataRates
    checkpoint: Checkpointing
    workers: int

    @property
    def parts(self) -> dict[Part, float]:
        """Seconds of a step, each part by itself."""
        return {
            "compute": self.time.compute,
            "wire": self.time.communication,
            "offload": self.time.copying + self.time.updating,
            "decode": self.data.decode,
            "read": self.data.read,
            "checkpoint": self.checkpoint.a_step(),
        }

    @property
    def lower(self) -> float:
        """Seconds if everything overlaps."""
        return max(self.parts.values())

    @property
    def upper(self) -> float:
        """Seconds if nothing does."""
        return sum(self.parts.values())

    @property
    def bottleneck(self) -> Part:
        parts = self.parts
        return max(parts, key=lambda part: parts[part])

    @property
    def efficiency(self) -> tuple[float, float]:
        """Share of the workers' time that computes, if nothing overlaps and if everything does."""
        return self.time.compute / self.upper, self.time.compute / self.lower


def run_limits(config: RunConfig, situation: Situation, sample: Sample) -> Limits:
    """The limits of a run on GPUs."""
    cuda = situation.device == "cuda"
    time = run_time(config, situation)
    rates = data_rates(
        config, sample, situation.hardware, situation.nodes, situation.clip, cuda=cuda
    )
    beside = max(time.seconds, rates.decode, rates.read)
    saved = checkpointing(
        config,
        situation.census,
        run_engine(config, situation.device),
        situation.hardware,
        situation.nodes,
        beside,
    )
    return Limits(time, rates, saved, config.world_size)
