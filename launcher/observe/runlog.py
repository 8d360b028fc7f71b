"""What a run says about itself: ``metrics.jsonl``, and the sinks beside it. Written by rank 0.

A line of ``metrics.jsonl`` is one JSON object with ``kind``: ``train`` (a logged step), ``val``
(a validation), ``saved`` (a checkpoint), ``start`` (an attempt began, at which step, and which
checkpoints it passed over), ``convert`` (how far the conversion of a checkpoint is), ``left`` (the
workers were asked to go), ``bad_step`` (an update was left out) or ``roll_back`` (training went
back to a checkpoint). A resumed run drops the lines past the step it continues from, so each step
is there once.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from launcher.observe.sinks import Sink
from launcher.storage.run_folder import RunFolder, write_text


class RunLog:
    """Appends to a run's metrics.

    Args:
        folder: the run's folder.
        step: the step the run continues from; lines past it are dropped.
        sinks: where its numbers go, too; closed with it.
    """

    def __init__(self, folder: RunFolder, step: int, sinks: Sequence[Sink] = ()) -> None:
        self._folder = folder
        self._sinks = sinks
        self._open(step)

    def _open(self, step: int) -> None:
        metrics = self._folder.metrics
        drop_after(metrics, step)
        metrics.parent.mkdir(parents=True, exist_ok=True)
        self._file = metrics.open("a", encoding="utf-8")

    def rewind(self, step: int) -> None:
        """Drop the lines past a step to which training has returned."""
        self._file.close()
        self._open(step)
        for sink in self._sinks:
            sink.rewind(step)

    def write(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        """Add a line; its finite numbers (not lists or texts) also go to the sinks."""
        row = {"kind": kind, "step": step, "time": round(time.time(), 3), **values}
        self._file.write(json.dumps(_plain(row), allow_nan=False) + "\n")
        self._file.flush()
        numbers = {name: float(value) for name, value in values.items() if _is_number(value)}
        for sink in self._sinks:
            sink.write(kind, step, numbers)

    def bad_step(
        self,
        step: int,
        attempt: int,
        cause: str,
        epoch: int,
        batch: int,
        pairs: Sequence[Mapping[str, Any]],
    ) -> None:
        """Note an update that was left out, here and, with its questions, in bad_steps.jsonl.

        That file is never shortened: a step that is run again comes again, in a later attempt.
        """
        self.write("bad_step", step, {"cause": cause, "pairs": len(pairs)})
        row = {"step": step, "attempt": attempt, "cause": cause, "epoch": epoch, "batch": batch}
        with self._folder.bad_steps.open("a", encoding="utf-8") as file:
            file.write(json.dumps({**row, "pairs": list(pairs)}) + "\n")

    def close(self) -> None:
        self._file.close()
        for sink in self._sinks:
            sink.close()


def add_event(path: Path, kind: str, step: int, text: str) -> None:
    """Append a line with a text, where no :class:`RunLog` is open yet."""
    path.parent.mkdir(parents=True, exist_ok=True)
    row = {"kind": kind, "step": step, "time": round(time.time(), 3), "text": text}
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """All whole lines of a metrics file; a last line that a killed run left half is not one."""
    rows = []
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    for line in text.splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and "kind" in row and "step" in row:
            rows.append(row)
    return rows


def drop_after(path: Path, step: int) -> None:
    """Rewrite a metrics file without the lines past ``step`` and without broken ones."""
    if path.exists():
        kept = [row for row in read_metrics(path) if row["step"] <= step]
        write_text(path, "".join(json.dumps(row) + "\n" for row in kept))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _plain(value: Any) -> Any:
    # NaN is not JSON: a figure that does not exist is null.
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value
