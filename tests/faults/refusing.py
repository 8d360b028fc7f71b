"""A folder that takes no new files for a while, as a storage that has turned read-only."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path


@contextmanager
def refusing(folder: Path) -> Iterator[None]:
    """While entered, nothing can be made in ``folder`` or below; what is open stays so.

    Permission bits stop no superuser, so it gets the folder mounted over itself, read-only.
    """
    if os.geteuid():
        mode = folder.stat().st_mode
        folder.chmod(0o555)
        try:
            yield
        finally:
            folder.chmod(mode)
        return
    _run("mount", "--bind", str(folder), str(folder))
    try:
        _run("mount", "-o", "remount,bind,ro", str(folder))
        yield
    finally:
        _run("umount", "--lazy", str(folder))


@cache
def can_refuse() -> bool:
    """Whether this machine lets a test do so."""
    with tempfile.TemporaryDirectory() as place:
        try:
            with refusing(Path(place)):
                (Path(place) / "file").touch()
        except OSError:
            return True
        except subprocess.CalledProcessError:
            return False
    return False


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)
