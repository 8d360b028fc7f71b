"""Clips a second of the loader by itself, against what `gcg plan` takes decoding to cost."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

THREADS = (1, 2)


@dataclass(frozen=True)
class Loading:
    """``seconds``: CPU of a clip as `gcg plan` measures it, ``loader``: of the process by clip;
    rates in clips a second."""

    threads: int
    seconds: float
    loader: float
    modelled: float
    measured: float


def loading(run: dict[str, Any], seconds: float) -> list[Loading]:
    """The loader of a run on this process, nothing else at work, for about so long each."""
    from gcg.presets import resolve_preset
    from launcher.config import parse_run_config
    from launcher.planning.data_rates import host_rate
    from launcher.planning.frames import decode_seconds

    found = []
    for threads in THREADS:
        own = {**run, "data": {**run["data"], "decode_threads": threads}}
        config = parse_run_config(own)
        image_size = resolve_preset(config.model).vision.image_size
        before, _ = decode_seconds(config, image_size)
        rate, cpu = _clips_a_second(config, seconds)
        after, _ = decode_seconds(config, image_size)  # a busy machine slows clips down, too
        clip = (before + after) / 2
        found.append(Loading(threads, clip, cpu, host_rate(clip, threads), rate))
    return found


def _clips_a_second(config: Any, seconds: float) -> tuple[float, float]:
    """And the CPU-seconds of each."""
    from gcg.build import build_skeleton
    from launcher.training.build import build_parts
    from launcher.training.data import build_loader

    parts = build_parts(config.model, build_skeleton(config.model))
    with tempfile.TemporaryDirectory() as place:
        source, loader = build_loader(config, parts, 0, 1, Path(place) / "bad.jsonl")
        try:
            for _ in range(config.data.prefetch_steps + 1):  # what was ready costs nothing
                next(loader)
            clips, began, used = 0, time.monotonic(), time.process_time()
            while time.monotonic() - began < seconds:
                clips += sum(len(micro.contrast_group) for micro in next(loader).micro)
            used = time.process_time() - used
            return clips / (time.monotonic() - began), used / clips
        finally:
            loader.close()
            source.close()
