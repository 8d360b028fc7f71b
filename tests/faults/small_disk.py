"""A file system of a few megabytes that a test fills, or turns read-only, below a running command.

It is mounted in a mount namespace of its own, which the command enters: nothing else on the machine
sees it, and with the last process in it it is gone.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tests.conftest import ROOT


@dataclass(frozen=True)
class SmallDisk:
    """``mount`` is its place for those who have entered, ``seen`` the same place from outside."""

    holder: int
    mount: Path
    seen: Path

    @property
    def enter(self) -> list[str]:
        """What goes before a command."""
        # Entering a mount namespace leads to its root: the command is to begin where we are.
        return ["nsenter", f"--mount=/proc/{self.holder}/ns/mnt", f"--wd={ROOT}"]

    @property
    def free(self) -> int:
        """Bytes."""
        found = os.statvfs(self.seen)
        return found.f_bavail * found.f_frsize

    def fill(self, *, leave: int = 0) -> None:
        """Until no more than ``leave`` bytes are left, by a file that :meth:`clear` removes."""
        with (self.seen / "filler").open("ab", buffering=0) as file, suppress(OSError):
            while self.free > leave:
                file.write(bytes(min(2**16, self.free - leave)))

    def clear(self) -> None:
        (self.seen / "filler").unlink()

    @contextmanager
    def read_only(self) -> Iterator[None]:
        """While entered, nothing can be opened for writing; what is open already stays so."""
        self._inside("mount", "--bind", str(self.mount), str(self.mount))
        try:
            self._inside("mount", "-o", "remount,bind,ro", str(self.mount))
            yield
        finally:
            self._inside("umount", "--lazy", str(self.mount))

    def _inside(self, *command: str) -> None:
        subprocess.run([*self.enter, *command], check=True, capture_output=True)


@contextmanager
def small_disk(mount: Path, megabytes: int) -> Iterator[SmallDisk]:
    mount.mkdir()
    script = f"mount -t tmpfs -o size={megabytes}m small {mount} && echo there && exec cat"
    with subprocess.Popen(
        ["unshare", "--mount", "sh", "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdin is not None
        assert holder.stdout is not None
        try:
            assert holder.stdout.readline() == "there\n"
            seen = Path(f"/proc/{holder.pid}/root{mount}")
            yield SmallDisk(holder.pid, mount, seen)
        finally:
            holder.stdin.close()  # `cat` ends


@cache
def can_mount() -> bool:
    """Whether this process may make such a file system."""
    script = "mount -t tmpfs -o size=1m small /tmp"
    try:
        done = subprocess.run(["unshare", "--mount", "sh", "-c", script], capture_output=True)
    except OSError:
        return False
    return done.returncode == 0
