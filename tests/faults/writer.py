"""A process that writes a checkpoint's files and can be stopped anywhere: ``python -m`` this.

It stands for the ranks of an attempt: the folder, the records and the commit are the launcher's
own, only the shards are bytes of no meaning. Arguments: the run's folder, step, attempt, and what
happens: ``NAME:OFFSET`` kills it (by the kernel, SIGXFSZ) when it has written so many bytes of that
file; ``pause-before-commit`` and ``pause-inside-commit`` wait for a line on stdin.
"""

from __future__ import annotations

import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from launcher.checkpoints import commit as stage
from launcher.errors import StaleAttemptError
from launcher.storage.run_folder import RunFolder

WORLD_SIZE = 2
SHARD_BYTES = 4000


def main(folder: RunFolder, step: int, attempt: int, what: str) -> int:
    victim, _, offset = what.partition(":")
    if offset:
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # Python ignores it
        _limit_while_writing(victim, int(offset))
    path = stage.open_checkpoint(folder, step, attempt)
    (path / "zero").mkdir()
    for rank in range(WORLD_SIZE):
        shard = path / "zero" / f"shard-{rank}.pt"
        with _Limited(victim == shard.name, int(offset or 0)):
            shard.write_bytes(b"%d" % rank * SHARD_BYTES)
        stage.record_rank(path, rank, WORLD_SIZE, {f"zero/{shard.name}": stage.describe(shard)})
    if what == "pause-before-commit":
        _wait()
    if what == "pause-inside-commit":
        seal = stage.seal

        def late(*arguments: object) -> None:
            _wait()
            seal(*arguments)  # type: ignore[arg-type]

        stage.seal = late
    try:
        stage.commit(folder, step, attempt, WORLD_SIZE, {"step": step})
    except StaleAttemptError as error:
        sys.stdout.write(f"{error}\n")
        return 3
    return 0


def _wait() -> None:
    sys.stdout.write("waiting\n")
    sys.stdout.flush()
    sys.stdin.readline()


class _Limited:
    """While in it, no file may become longer: the kernel kills who tries."""

    def __init__(self, on: bool, limit: int) -> None:
        self._on, self._limit = on, limit

    def __enter__(self) -> None:
        if self._on:
            resource.setrlimit(resource.RLIMIT_FSIZE, (self._limit, resource.RLIM_INFINITY))

    def __exit__(self, *_: object) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def _limit_while_writing(victim: str, offset: int) -> None:
    for name in ("write_text", "write_json"):
        write: Callable[[Path, Any], None] = getattr(stage, name)

        def limited(path: Path, content: Any, write: Callable[[Path, Any], None] = write) -> None:
            with _Limited(path.name == victim, offset):
                write(path, content)

        setattr(stage, name, limited)


if __name__ == "__main__":
    place, step, attempt, what = sys.argv[1:]
    sys.exit(main(RunFolder(Path(place)), int(step), int(attempt), what))
