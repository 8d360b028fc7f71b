"""A folder that a command writes for a user: a new one, with room for it, there only when whole."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from launcher.errors import UserError
from launcher.storage.places import refused


def check_new(setting: str, out: Path) -> None:
    """That a folder is not there, or is empty.

    Args:
        setting: how the user named it, such as ``--to DIR``.

    Raises:
        UserError: it holds something, or is no folder.
    """
    try:
        taken = out.exists() and (not out.is_dir() or any(out.iterdir()))
    except OSError as error:
        raise UserError(
            f"{setting}: cannot be looked at ({error.strerror}); name another"
        ) from None
    if taken:
        raise UserError(f"{setting}: is there already; give a new folder, or delete it")


def check_room(setting: str, out: Path, num_bytes: int) -> None:
    """That its disk has room for so much.

    Raises:
        UserError: it has less.
    """
    place = next(folder for folder in (out, *out.resolve().parents) if folder.is_dir())
    free = shutil.disk_usage(place).free
    if free < num_bytes:
        raise UserError(
            f"{setting}: needs {num_bytes / 1e9:.1f} GB, {place} has {free / 1e9:.1f} GB; use "
            "another disk, or --dtype bf16"
        )


@contextmanager
def new_folder(setting: str, out: Path) -> Iterator[Path]:
    """Where to write meanwhile; it takes its name at the end, if nothing went wrong. What an
    attempt that was stopped has left goes first.

    Raises:
        UserError: the disk refuses.
    """
    partial = out.with_name(f"{out.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        yield partial
        if out.exists():
            out.rmdir()  # empty: it was looked at before
        partial.rename(out)
    except Exception as error:
        why = refused(error)
        if why is None:
            raise
        raise UserError(
            f"{setting}: cannot be written ({why}); make room, or name another folder"
        ) from None
