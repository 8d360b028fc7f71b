"""What is done about a step whose numbers are wrong: how many are borne, and what a spike is.

The same decisions fall on every rank, since they depend on figures of the global batch alone.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Mapping
from typing import Any, Literal

from launcher.config import SafetySection
from launcher.errors import RunStoppedError

Cause = Literal["loss", "gradient", "spike"]

_WORDS: Mapping[Cause, str] = {
    "loss": "the loss is not a finite number",
    "gradient": "the gradient is not a finite number",
    "spike": "the loss is far above those before",
}


class Guard:
    """Counts the steps that were left out and remembers the losses of those that were not.

    Args:
        safety: the limits, from the run file.
    """

    def __init__(self, safety: SafetySection) -> None:
        self._safety = safety
        self._losses: deque[float] = deque(maxlen=safety.spike_window)
        self.bad_steps = 0
        self.spikes = 0

    @property
    def watches_spikes(self) -> bool:
        return self._safety.on_spike != "go_on"

    @property
    def rolls_back(self) -> bool:
        return self._safety.on_spike == "roll_back"

    def spike_limit(self) -> float:
        """A finite loss above it is a spike: ``spike_factor`` times the median of the window.

        Infinite before half a window of steps: the first losses of a run say nothing of the next.
        """
        if not self.watches_spikes:
            return math.inf
        if len(self._losses) < (self._safety.spike_window + 1) // 2:
            return math.inf
        return self._safety.spike_factor * statistics.median(self._losses)

    def good(self, loss: float) -> None:
        """A step was made."""
        self._losses.append(loss)

    def bad(self, step: int, cause: Cause, where: str) -> None:
        """A step was left out.

        Args:
            step: the update's number, from 1.
            where: the videos and questions it was made of, for messages.

        Raises:
            RunStoppedError: one more than the run file allows.
        """
        if cause == "spike":
            self.spikes += 1
            count, limit, name = self.spikes, self._safety.max_spikes, "max_spikes"
        else:
            self.bad_steps += 1
            count, limit, name = self.bad_steps, self._safety.max_bad_steps, "max_bad_steps"
        if count > limit:
            raise RunStoppedError(
                f"step {step}: {_WORDS[cause]} ({where}), and {count - 1} steps were left out "
                f"before, safety.{name} = {limit}: the run stops and its last checkpoint is "
                "intact; look at bad_steps.jsonl, then lower optim.lr or optim.grounding_lr, use "
                f"engine.precision=fp32, take the data out, or raise safety.{name}"
            )

    def state_dict(self) -> dict[str, Any]:
        """Plain JSON values, the same on all ranks."""
        return {
            "losses": list(self._losses),
            "bad_steps": self.bad_steps,
            "spikes": self.spikes,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._losses = deque(state["losses"], maxlen=self._safety.spike_window)
        self.bad_steps, self.spikes = state["bad_steps"], state["spikes"]
