"""What a step waits for: its parts, the largest of them, and the setting that moves it.

Parts that overlap perfectly take as long as the largest; parts that do not, as long as all of
them. A real step lies between. Decoding and reading are the loader's, so they run beside the
others in any case; that counts in the lower bound alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from launcher.config import RunConfig
from launcher.planning.checkpointing import Checkpointing, checkpointing
from launcher.planning.data_rates import DataRates, Sample, data_rates
from launcher.planning.memory import run_engine
from launcher.planning.search import Situation, run_memory, run_time
from launcher.planning.timing import StepTime

Part = Literal["compute", "wire", "offload", "decode", "read", "checkpoint"]
# A setting is worth naming if it takes at least so much off the time of a pair.
_GAIN = 0.02


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


@dataclass(frozen=True)
class Remedy:
    """A setting that moves the bottleneck. ``gain``: how many times as many pairs a second, by the
    lower bound, or the upper one where that stands still."""

    setting: str
    gain: float


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


def remedy(config: RunConfig, situation: Situation, sample: Sample) -> Remedy | None:
    """Of the settings that could move the run's bottleneck, the one that helps most, by this
    model; None where none does."""
    now = run_limits(config, situation, sample)
    best: Remedy | None = None
    for setting, changed in _settings(now, config):
        if run_memory(changed, situation).peak > situation.hardware.memory:
            continue
        then = run_limits(changed, situation, sample)
        gain = max(_rate(then.lower, then) / _rate(now.lower, now),
                   _rate(then.upper, then) / _rate(now.upper, now))  # fmt: skip
        if gain > 1 + _GAIN and (best is None or gain > best.gain):
            best = Remedy(setting, gain)
    return best


def _rate(seconds: float, limits: Limits) -> float:
    return limits.time.pairs / seconds


def _settings(now: Limits, config: RunConfig) -> Iterator[tuple[str, RunConfig]]:
    yield from {
        "compute": _computing,
        "wire": _sending,
        "offload": _offloading,
        "decode": _decoding,
        "read": _reading,
        "checkpoint": _saving,
    }[now.bottleneck](now, config)


def _computing(now: Limits, config: RunConfig) -> Iterator[tuple[str, RunConfig]]:
    for part in config.engine.recompute:
        kept = tuple(each for each in config.engine.recompute if each != part)
        yield f"engine.recompute=[{','.join(kept)}]", _with(config, "engine", recompute=kept)


def _sending(now: Limits, config: RunConfig) -> Iterator[tuple[str, RunConfig]]:
    zero, share = config.engine.zero, config.data.global_batch // config.world_size
    for stage in range(1, zero):
        yield f"engine.zero={stage}", _with(config, "engine", zero=stage)
    for micro in range(config.engine.micro_batch + 1, share + 1):
        if share % micro == 0:
            yield f"engine.micro_batch={micro}", _with(config, "engine", micro_batch=micro)
    for times in (2, 4, 8):
        batch = times * config.data.global_batch
        yield f"data.global_batch={batch}", _with(config, "data", global_batch=batch)


def _offloading(now: Limits, config: RunConfig) -> Iterator[tuple[str, RunConfig]]:
    yield "engine.offload=[]", _with(config, "engine", offload=())


def _decoding(now: Limits, config: RunConfig) -> Iterator[tuple[str, RunConfig]]:
    if config.data.decoder == "host":
        yield "data.decoder=dali", _with(config, "data", decoder="dali")
    rest = max(seconds for part, seconds in now.parts.items() if part != "decode")
    for times in (2, 4, 8):
        threads = times * config.data.decode_threads
        changed = _with(config, "data", decode_threads=threads)
        yield f"data.decode_threads={threads} (a core each)", changed
        if now.data.decode <= times * rest:
            break


def _reading(now: Limits, config: RunConfig) -> Iterator[tuple[str, RunConfig]]:
    yield from ()


def _saving(now: Limits, config: RunConfig) -> Iterator[tuple[str, RunConfig]]:
    best = now.checkpoint.best
    yield f"checkpoint.every={best}", _with(config, "checkpoint", every=best)
    if not config.checkpoint.in_background:
        changed = _with(config, "checkpoint", in_background=True)
        yield "checkpoint.in_background=true", changed


def _with(config: RunConfig, section: str, **values: Any) -> RunConfig:
    changed = getattr(config, section).model_copy(update=values)
    return config.model_copy(update={section: changed})
