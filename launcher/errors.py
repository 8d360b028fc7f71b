"""Errors a user can act on. Everything else is a bug and keeps its traceback."""

from __future__ import annotations

from collections.abc import Sequence

from dataloaders.trust import redacted


class UserError(ValueError):
    """What a user can put right: one or more lines, each with place, value, rule and remedy.

    ``lines`` holds every problem found, so that one attempt shows all of them. Credentials in URLs
    are left out of them.
    """

    def __init__(self, problems: str | Sequence[str]) -> None:
        found = [problems] if isinstance(problems, str) else list(problems)
        self.lines = [redacted(" ".join(line.split())) for line in found]
        super().__init__("\n".join(self.lines))

    def __reduce__(self) -> tuple[type[UserError], tuple[list[str]]]:
        # An error raised in a worker travels to the driver by pickle.
        return type(self), (self.lines,)


class ConfigError(UserError):
    """The run file or an override is wrong."""


class PreflightError(UserError):
    """The run file is right, but what it points to is not ready."""


class CheckpointError(UserError):
    """A checkpoint cannot be used for this run."""


class RunStoppedError(UserError):
    """Training stopped by a rule of its own (bad data, a loss that is not a number)."""


class StaleAttemptError(RuntimeError):
    """A newer attempt at the same run has begun: this one must not write any more."""
