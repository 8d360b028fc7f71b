"""Writing a snapshot while training goes on: one thread a rank, one checkpoint at a time.

The threads of different ranks hold no collective, which would get between those of training. They
meet in the checkpoint's folder: each leaves its rank's record there when its files are on the disk,
and rank 0 commits once all records are there.
"""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from launcher.checkpoints.commit import describe, rank_record, record_rank
from launcher.checkpoints.snapshot import HostMemory, Snapshot
from launcher.storage.places import is_remote, names_in, upload, working_place

_POLL_S = 0.1
_POLL_REMOTE_S = 1.0  # each is a request


@dataclass(frozen=True)
class Saved:
    """A committed checkpoint. ``stall_s``: what training waited for it; ``write_s``: how long it
    took from its snapshot to its commit."""

    step: int
    stall_s: float
    write_s: float


class BackgroundWriter:
    """Writes this rank's part of checkpoints.

    Args:
        rank, world_size: this process.
        memory: gets the snapshot's tensors back once they are written.
    """

    def __init__(self, rank: int, world_size: int, memory: HostMemory) -> None:
        self._rank = rank
        self._world_size = world_size
        self._memory = memory
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._written: Future[None] | None = None
        self._committed: Future[float] | None = None
        self._given_up = threading.Event()
        self._stall: tuple[int, float] | None = None
        self.path: Path | None = None  # of the checkpoint that was begun last

    def start(self, path: Path, snapshot: Snapshot, commit: Callable[[], object] | None) -> None:
        """Begin to write a checkpoint; the one before must have ended.

        Args:
            commit: on rank 0, makes a checkpoint of files that are all there.
        """
        assert self.path is None, self.path
        began = time.monotonic()
        self.path, self._given_up, self._committed = path, threading.Event(), None
        self._written = self._thread.submit(self._write, path, snapshot)
        if commit is not None:
            self._committed = self._thread.submit(self._commit, path, commit, began)

    def _write(self, path: Path, snapshot: Snapshot) -> None:
        try:
            root = f"{path}/"
            files = [(file.removeprefix(root), content) for file, content in snapshot.files]
            written = {name: _written(content, path / name) for name, content in files}
        finally:
            snapshot.files = []
            self._memory.give_back(snapshot.tensors)
        record_rank(path, self._rank, self._world_size, written)

    def _commit(self, path: Path, commit: Callable[[], object], began: float) -> float:
        assert self._written is not None
        self._written.result()
        records = {rank_record(rank) for rank in range(self._world_size)}
        while not records <= set(names_in(path)):
            # A rank whose writing failed says so to all before the next step.
            if self._given_up.wait(_POLL_REMOTE_S if is_remote(path) else _POLL_S):
                raise RuntimeError(f"{path}: not all ranks have written their files")
        commit()
        return time.monotonic() - began

    def stalled(self, step: int, seconds: float) -> None:
        """Note what training waited for the checkpoint that was begun last."""
        self._stall = (step, seconds)

    def wait_written(self) -> None:
        """Until this rank's files are on the disk; raises what writing them failed with."""
        if self._written is not None:
            self._written.result()

    def wait_committed(self) -> None:
        """On rank 0, until the checkpoint is one. All ranks must have written."""
        if self._committed is not None:
            self._committed.result()

    def give_up(self) -> None:
        """Another rank has failed: what was begun last will not be a checkpoint."""
        self._given_up.set()
        self._committed, self._stall = None, None

    def take_saved(self) -> Saved | None:
        """The checkpoint that was committed since the last call, on rank 0."""
        if self._stall is None or self._committed is None or not self._committed.done():
            return None
        if self._committed.exception() is not None:
            return None  # whoever waits for it is told; a storage that refuses ends no step
        (step, stall), self._stall = self._stall, None
        return Saved(step, stall, self._committed.result())

    def close(self) -> None:
        """Let what is being written come to its end, but wait for no other rank."""
        self._given_up.set()
        self._thread.shutdown(wait=True)


def _written(content: Any, file: Path) -> dict[str, Any]:
    """Write a file; size and SHA-256 of it. Into an object store by way of this machine's disk."""
    if not is_remote(file):
        file.parent.mkdir(exist_ok=True)
        _save(content, file)
        return describe(file)
    local = working_place(file)
    local.parent.mkdir(parents=True, exist_ok=True)
    try:
        _save(content, local)
        upload(local, file)
        return describe(local)
    finally:
        local.unlink(missing_ok=True)


def _save(content: Any, file: Path) -> None:
    """As torch.save, raising the OSError that it hides where the storage is full."""
    with _Errors(file) as stream:
        try:
            torch.save(content, stream)
        except RuntimeError:
            if stream.error is not None:
                raise stream.error from None
            raise


class _Errors(io.FileIO):
    """A file that remembers why it could not be written to."""

    error: OSError | None = None

    def __init__(self, path: Path) -> None:
        super().__init__(path, "w")

    def write(self, data: Any, /) -> int:
        view, done = memoryview(data).cast("B"), 0
        try:
            while done < len(view):  # the system may take a part
                done += super().write(view[done:]) or 0
        except OSError as error:
            self.error = error
            raise
        return done
