"""What each subcommand of `gcg` does, and how it says what a user can put right."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

from launcher.errors import UserError

Command = Callable[[argparse.Namespace], int]


def guarded(command: Command, args: argparse.Namespace) -> int:
    """Run a command; a fault the user can put right becomes lines on stderr and exit code 2."""
    try:
        return command(args)
    except KeyboardInterrupt:
        sys.stderr.write("stopped; the same command goes on from here\n")
        return 130
    except ValueError as error:
        lines = _lines(error)
        if not lines:
            raise
    for line in lines:
        sys.stderr.write(f"error: {line}\n")
    return 2


def _lines(error: ValueError) -> list[str]:
    """What a user can put right; nothing for any other error."""
    # Imported here: `gcg doctor` must run where packages that these need are missing.
    from dataloaders.errors import DataError
    from gcg.errors import ModelError

    if isinstance(error, (UserError, ModelError)):
        return error.lines
    return [" ".join(str(error).split())] if isinstance(error, DataError) else []


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
