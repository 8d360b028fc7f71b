"""The error for what a user can put right about a model: its configuration, its weights."""

from __future__ import annotations

from collections.abc import Sequence


class ModelError(ValueError):
    """One or more lines, each with place, value, rule and remedy.

    ``lines`` holds every problem found, so that one attempt shows all of them.
    """

    def __init__(self, problems: str | Sequence[str]) -> None:
        found = [problems] if isinstance(problems, str) else list(problems)
        self.lines = [" ".join(line.split()) for line in found]
        super().__init__("\n".join(self.lines))

    def __reduce__(self) -> tuple[type[ModelError], tuple[list[str]]]:
        # An error raised in a worker travels to the driver by pickle.
        return type(self), (self.lines,)
