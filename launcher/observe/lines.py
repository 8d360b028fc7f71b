"""Files of JSON lines that a run appends to, on a storage that may refuse for a while.

Training does not end for such a line, and none is lost as long as the process lives: what could not
be written is written before the next. A process that is killed may leave half a line, which every
reader passes over.
"""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)


class LineFile:
    """Appends to a file, which is opened at the first line.

    Args:
        path: its folder is made.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._pending = b""
        self._descriptor: int | None = None
        self._warned = False

    def write(self, row: Mapping[str, Any], *, sync: bool = False) -> None:
        """Add a line. ``sync``: it is on the disk when this returns, unless the storage refuses."""
        self._pending += json.dumps(plain(row), allow_nan=False).encode() + b"\n"
        try:
            self._write_pending()
            if sync and self._descriptor is not None:
                os.fsync(self._descriptor)
        except OSError as error:
            if not self._warned:
                logger.warning("%s: lines wait until the storage takes them: %s", self._path, error)
            self._warned = True
        else:
            self._warned = False

    def _write_pending(self) -> None:
        if self._descriptor is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._descriptor = _open(self._path)
        while self._pending:  # a storage that is nearly full takes a part
            self._pending = self._pending[os.write(self._descriptor, self._pending) :]

    def close(self) -> None:
        """Try once more to write what waits."""
        try:
            if self._pending:
                self._write_pending()
        except OSError as error:
            logger.warning("%s: the last lines are lost: %s", self._path, error)
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _open(path: Path) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        # A half line left by a killed worker must not swallow the next one.
        size = os.fstat(descriptor).st_size
        if size and os.pread(descriptor, 1, size - 1) != b"\n":
            os.write(descriptor, b"\n")
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The whole lines of a file that hold an object, one at a time; none where there is no file."""
    try:
        file = path.open(encoding="utf-8", errors="replace")
    except OSError:
        return
    with file:
        for line in file:
            try:
                row = json.loads(line)
            except ValueError:
                continue
            if isinstance(row, dict):
                yield row


def drop_after(path: Path, step: int) -> None:
    """Replace a file by one without the lines past ``step``, and without broken ones.

    A worker that lives on after its run was begun again elsewhere still writes to the old one.
    """
    if not path.exists():
        return
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with partial.open("w", encoding="utf-8") as file:
        for row in read_lines(path):
            if row.get("step", math.inf) <= step:
                file.write(json.dumps(row) + "\n")
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def plain(value: Any) -> Any:
    """NaN is not JSON: a figure that does not exist is null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value
