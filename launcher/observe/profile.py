"""A look into a few steps: torch's profiler on rank 0, kept small, for who asks where time goes.

``RUN/profile/attempt-1-step-8.json.gz`` is a trace that opens in https://ui.perfetto.dev or
chrome://tracing; the ``.txt`` beside it the operators by their own time.
"""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, schedule

from launcher.storage.places import fault_of

logger = logging.getLogger(__name__)

# An attempt's first steps allocate, choose kernels and fill the prefetch.
_SETTLING = 3
_WARM_UP = 1
_OPERATORS = 40
# Without shapes, stacks and memory: these make a trace ten times as large, and slow what it shows.


class StepProfiler:
    """Watches ``steps`` steps of an attempt once, after it has settled.

    Args:
        folder: to write into.
        attempt: of the run; in the files' names.
        done: steps that were made before this attempt.
        steps: to watch.
        device: that computes.

    Call :meth:`step` after each step; :meth:`close` gives up what was not finished.
    """

    def __init__(
        self, folder: Path, attempt: int, done: int, steps: int, device: torch.device
    ) -> None:
        self._folder = folder
        self._first = done + _SETTLING + _WARM_UP + 1
        self._name = f"attempt-{attempt}-step-{self._first}"
        activities = [ProfilerActivity.CPU]
        if device.type == "cuda":
            activities.append(ProfilerActivity.CUDA)
        self._by = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"
        self._profile: profile | None = profile(
            activities=activities,
            schedule=schedule(wait=_SETTLING, warmup=_WARM_UP, active=steps, repeat=1),
            on_trace_ready=self._write,
        )
        self._profile.start()
        self._left = _SETTLING + _WARM_UP + steps

    def step(self) -> None:
        """A step has ended."""
        if self._profile is not None:
            self._profile.step()
            self._left -= 1
            if not self._left:
                self._profile.stop()
                self._profile = None

    def close(self) -> None:
        if self._profile is not None:
            self._profile.on_trace_ready = None  # of steps that were not all made
            self._profile.stop()
            self._profile = None

    def _write(self, watched: profile) -> None:
        trace = self._folder / f"{self._name}.json.gz"
        table = watched.key_averages().table(sort_by=self._by, row_limit=_OPERATORS)

        def write() -> None:
            self._folder.mkdir(parents=True, exist_ok=True)
            watched.export_chrome_trace(str(trace))
            trace.with_name(f"{self._name}.txt").write_text(table, encoding="utf-8")

        why = fault_of(write)
        if why is None:
            logger.info("%s: a trace of the steps from %d on", trace, self._first)
        else:
            logger.warning("%s: cannot be written (%s); training goes on", trace, why)
