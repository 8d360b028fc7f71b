"""The setting that moves what a step waits for, found by trying each in the model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from launcher.config import RunConfig
from launcher.planning.data_rates import Sample
from launcher.planning.frames import features_of
from launcher.planning.limits import Limits, run_limits
from launcher.planning.search import Situation, run_memory

# A setting is worth naming if it gives at least so many more pairs a second.
_GAIN = 0.05


# Times as many decoding threads as are proposed at most: with the default of 2 and 8 workers a
# machine 128 cores, which is what machines have.
_CORES = 8

# What to write, the run with it, and its data.
Setting = tuple[str, RunConfig, Sample]


@dataclass(frozen=True)
class Remedy:
    """A setting that moves the bottleneck. ``gain``: how many times as many pairs a second, if all
    overlaps, or if nothing does where that stands still. ``config``, ``sample``: the run with it,
    and its data."""

    setting: str
    gain: float
    config: RunConfig
    sample: Sample


def remedy(config: RunConfig, situation: Situation, sample: Sample) -> Remedy | None:
    """Of the settings that could move the run's bottleneck, the one that helps most, by this
    model; None where none does. What changes the global batch, and so what is learned, comes
    last."""
    now = run_limits(config, situation, sample)
    return _best(now, _settings(now, config, situation, sample), situation) or _best(
        now, _larger_batches(now, config, sample), situation
    )


def _best(now: Limits, settings: Iterator[Setting], situation: Situation) -> Remedy | None:
    best: Remedy | None = None
    for setting, changed, data in settings:
        if run_memory(changed, situation).peak > situation.hardware.memory:
            continue
        gain = _gain(now, run_limits(changed, situation, data))
        if gain > (1 + _GAIN) * (1 if best is None else best.gain):  # of equals the first
            best = Remedy(setting, gain, changed, data)
    return best


def _gain(now: Limits, then: Limits) -> float:
    pairs = then.time.pairs / now.time.pairs
    overlapping, apart = pairs * now.lower / then.lower, pairs * now.upper / then.upper
    return overlapping if overlapping > 1 + _GAIN else apart


def _settings(
    now: Limits, config: RunConfig, situation: Situation, sample: Sample
) -> Iterator[Setting]:
    """What may move the bottleneck, and leaves what is learned as it is."""
    by_part = {
        "compute": _computing,
        "wire": _sending,
        "offload": _offloading,
        "decode": _decoding,
        "checkpoint": _saving,
    }
    # Where reading is the limit, nothing but the storage helps.
    for setting, changed in by_part.get(now.bottleneck, _nothing)(now, config):
        yield setting, changed, sample
    if now.bottleneck == "decode":
        yield from _without_decoding(config, situation, sample)


def _nothing(now: Limits, config: RunConfig) -> Iterator[tuple[str, RunConfig]]:
    yield from ()


def _computing(now: Limits, config: RunConfig) -> Iterator[tuple[str, RunConfig]]:
    for part in config.engine.recompute:
        kept = tuple(each for each in config.engine.recompute if each != part)
        yield f"engine.recompute=[{','.join(kept)}]", _with(config, "engine", recompute=kept)


def _sending(now: Limits, config: RunConfig) -> Iterator[tuple[str, RunConfig]]:
    share = config.data.global_batch // config.world_size
    for stage in range(1, config.engine.zero):
        yield f"engine.zero={stage}", _with(config, "engine", zero=stage)
    for micro in range(config.engine.micro_batch + 1, share + 1):
        if share % micro == 0:
            yield f"engine.micro_batch={micro}", _with(config, "engine", micro_batch=micro)


def _larger_batches(now: Limits, config: RunConfig, sample: Sample) -> Iterator[Setting]:
    """Fewer and larger steps, where the wire is the limit."""
    if now.bottleneck != "wire":
        return
    batch, micro = 4 * config.data.global_batch, 4 * config.engine.micro_batch
    larger = _with(config, "data", global_batch=batch)
    yield f"data.global_batch={batch}", larger, sample
    both = _with(larger, "engine", micro_batch=micro)
    yield f"data.global_batch={batch} engine.micro_batch={micro}", both, sample


def _offloading(now: Limits, config: RunConfig) -> Iterator[tuple[str, RunConfig]]:
    yield "engine.offload=[]", _with(config, "engine", offload=())


def _without_decoding(config: RunConfig, situation: Situation, sample: Sample) -> Iterator[Setting]:
    """Features in place of clips; that no image encoder runs is not counted."""
    if not config.model.vision.train:
        info = features_of(config, situation.model)
        size = float(info.sample_bytes(config.model.num_frames))
        yield "model.input=features (`gcg extract`)", config, Sample(0.0, size, sample.known)


def _decoding(now: Limits, config: RunConfig) -> Iterator[tuple[str, RunConfig]]:
    if config.data.decoder == "host":
        yield "data.decoder=dali", _with(config, "data", decoder="dali")
    threads, times = config.data.decode_threads, 1
    rest = max(seconds for part, seconds in now.parts.items() if part != "decode")
    while times < _CORES and now.data.decode > times * rest:
        times *= 2
    changed = _with(config, "data", decode_threads=times * threads)
    yield f"data.decode_threads={times * threads} (a core each)", changed


def _saving(now: Limits, config: RunConfig) -> Iterator[tuple[str, RunConfig]]:
    best = now.checkpoint.best
    yield f"checkpoint.every={best}", _with(config, "checkpoint", every=best)
    if not config.checkpoint.in_background:
        changed = _with(config, "checkpoint", in_background=True)
        yield "checkpoint.in_background=true", changed


def _with(config: RunConfig, section: str, **values: Any) -> RunConfig:
    changed = getattr(config, section).model_copy(update=values)
    return config.model_copy(update={section: changed})
