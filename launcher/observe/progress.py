"""The driver's view of a run: a bar in a terminal, a line now and then elsewhere.

Workers run in other processes, perhaps on other machines, and Ray prefixes what they print. So
rank 0 writes ``metrics.jsonl`` and the driver follows the file.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from tqdm import tqdm

from launcher.storage.places import is_remote, refused

_POLL_S = 0.3
_POLL_REMOTE_S = 5.0  # each is a request, and workers write there twice a minute
_LINE_EVERY_S = 10.0


class Progress:
    """Follows a metrics file in a thread while it is entered.

    Args:
        path: ``metrics.jsonl``; it may not exist yet, and is replaced when a run resumes, or
            whenever it has grown (in an object store).
        total: the steps of the run.
        title: shown in front.
        stream: where to; a bar if it is a terminal, lines otherwise.
    """

    def __init__(self, path: Path, total: int, title: str, stream: TextIO | None = None) -> None:
        self._path, self._total, self._title = path, total, title
        self._stream = stream if stream is not None else sys.stderr
        self._follower = _Follower(path)
        self._follower.skip_existing()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="progress", daemon=True)
        self._bar: tqdm[Any] | None = None
        self._last_line = 0.0
        self._pace: tuple[int, float] | None = None  # step and time the attempt began with

    def __enter__(self) -> Progress:
        if self._stream.isatty():
            self._bar = tqdm(
                total=self._total, desc=self._title, unit="step", file=self._stream,
                dynamic_ncols=True, smoothing=0.1,
            )  # fmt: skip
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()
        if self._bar is not None:
            self._bar.close()

    def _run(self) -> None:
        while not self._stop.wait(_POLL_REMOTE_S if is_remote(self._path) else _POLL_S):
            self._show_new()
        self._show_new()

    def _show_new(self) -> None:
        for row in self._follower.new_rows():
            kind = row.get("kind")
            if kind == "train":
                self._show_step(row)
            elif kind == "val":
                self._say(_validation(row))
            elif kind == "start":
                self._begin(row)
            elif kind == "convert":
                self._say(str(row.get("text")))

    def _begin(self, row: dict[str, Any]) -> None:
        step, attempt = row["step"], row.get("attempt", 1)
        self._pace = (step, row["time"])
        for line in row.get("passed_over", ()):
            self._say(f"passed over: {line}")
        if step or attempt > 1:
            self._say(f"continues from step {step} (attempt {attempt})")
        if self._bar is not None:
            self._bar.n = self._bar.initial = step
            self._bar.start_t = self._bar.last_print_t = time.time()
            self._bar.refresh()

    def _show_step(self, row: dict[str, Any]) -> None:
        if self._bar is not None:
            self._bar.set_postfix_str(_losses(row), refresh=False)
            self._bar.update(row["step"] - self._bar.n)
            self._bar.refresh()
            return
        now = time.monotonic()
        if now - self._last_line >= _LINE_EVERY_S or row["step"] == self._total:
            self._last_line = now
            self._say(f"step {row['step']}/{self._total} {_losses(row)}{self._time_left(row)}")

    def _time_left(self, row: dict[str, Any]) -> str:
        if self._pace is None or row["step"] <= self._pace[0]:
            return ""
        seconds = (row["time"] - self._pace[1]) / (row["step"] - self._pace[0])
        return f", {tqdm.format_interval(seconds * (self._total - row['step']))} left"

    def _say(self, text: str) -> None:
        if self._bar is not None:
            self._bar.write(f"{self._title}: {text}", file=self._stream)
        else:
            self._stream.write(f"{self._title}: {text}\n")
            self._stream.flush()


class _Follower:
    """New whole lines of a file that grows and is now and then replaced."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._identity: object = None
        self._offset = 0
        self._known: set[int] = set()  # hashes of the lines that were given out

    def skip_existing(self) -> None:
        """Treat what lies there now as known."""
        for _ in self.new_rows():
            pass

    def _new_bytes(self) -> bytes:
        identity = _file_id(self._path)
        if is_remote(self._path) and identity == self._identity:
            return b""
        with self._path.open("rb") as file:
            if identity != self._identity:  # replaced: known lines come again at the front
                self._identity, self._offset = identity, 0
            file.seek(self._offset)
            return file.read()

    def new_rows(self) -> list[dict[str, Any]]:
        try:
            data = self._new_bytes()
        except Exception as error:
            if refused(error) is None:
                raise
            return []  # not there yet, or at the next look
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        rows = []
        for line in whole.splitlines():
            if hash(line) in self._known:
                continue
            self._known.add(hash(line))
            try:
                row = json.loads(line)
            except ValueError:
                continue
            if isinstance(row, dict):
                rows.append(row)
        return rows


def _file_id(path: Path) -> object:
    stat = path.stat()
    return stat.st_size if is_remote(path) else stat.st_ino


def _losses(row: dict[str, Any]) -> str:
    parts = [f"loss {row['loss']:.3f}"]
    parts += [f"{name} {row[f'loss_{name}']:.3f}" for name in ("vqa", "reg", "con")]
    parts.append(f"{row['pairs_per_s']:.1f} pairs/s")
    if row.get("bad"):
        parts.append(f"{row['bad']} bad clips")
    return ", ".join(parts)


def _validation(row: dict[str, Any]) -> str:
    names = ("accuracy", "miop", "miou", "acc_gqa")
    found = [f"{name} {100 * row[name]:.1f} %" for name in names if row.get(name) is not None]
    return f"step {row['step']}: validation: {', '.join(found) or 'no question could be asked'}"
