"""Sections of the run file on what a run survives: checkpoints, bad numbers, hangs, leaving."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from launcher.config.data import Section


class CheckpointSection(Section):
    every: int = Field(default=100, ge=1, description="steps")
    keep: int = Field(default=2, ge=1, description="the newest so many stay")
    keep_best: bool = Field(default=True, description="and the one with the best validation")
    max_failed: int = Field(
        default=3, ge=0, description="saves in a row that may fail before the run stops"
    )
    in_background: bool = Field(
        default=True,
        description="write while training goes on; takes the checkpoint's size in host memory",
    )


class SafetySection(Section):
    """What is borne before a run stops, and what is done about a loss that leaps."""

    max_bad_steps: int = Field(
        default=10,
        ge=0,
        description="steps left out since a loss or gradient is no number; one more stops the run",
    )
    on_spike: Literal["go_on", "skip", "roll_back"] = Field(
        default="go_on",
        description="skip: leave the step out; roll_back: also return to the last checkpoint and "
        "go on behind the data since",
    )
    spike_factor: float = Field(default=3.0, gt=1, description="times the median is a spike")
    spike_window: int = Field(
        default=50, ge=2, le=1_000_000, description="steps that the median is taken of"
    )
    max_spikes: int = Field(default=5, ge=0, description="one more stops the run")
    hang_timeout_s: float = Field(
        default=1800.0,
        ge=0,
        le=2_592_000,
        description="a worker without progress for so long ends; 0: never",
    )
    grace_s: float = Field(
        default=60.0, ge=0, le=86400, description="after SIGTERM or Ctrl-C, for a last checkpoint"
    )
