"""What a run says about itself: ``metrics.jsonl``, and the sinks beside it. Written by rank 0.

A line of ``metrics.jsonl`` is one JSON object with ``kind``: ``train`` (a logged step), ``val``
(a validation), ``saved`` (a checkpoint), ``start`` (an attempt began, at which step, and which
checkpoints it passed over), ``convert`` (how far the conversion of a checkpoint is), ``left`` (the
workers were asked to go), ``bad_step`` (an update was left out) or ``roll_back`` (training went
back to a checkpoint). A resumed run drops the lines past the step it continues from, so each step
is there once.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from launcher.observe.lines import LineFile, drop_after, read_lines
from launcher.observe.sinks import Sink
from launcher.storage.run_folder import RunFolder


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
        self._bad_steps = LineFile(folder.bad_steps)
        self._open(step)

    def _open(self, step: int) -> None:
        drop_after(self._folder.metrics, step)
        self._file = LineFile(self._folder.metrics)

    def rewind(self, step: int) -> None:
        """Drop the lines past a step to which training has returned."""
        self._file.close()
        self._open(step)
        for sink in self._sinks:
            sink.rewind(step)

    def write(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        """Add a line; its finite numbers (not lists or texts) also go to the sinks."""
        row = {"kind": kind, "step": step, "time": round(time.time(), 3), **values}
        self._file.write(row)
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
        self._bad_steps.write({**row, "pairs": list(pairs)})

    def close(self) -> None:
        self._file.close()
        self._bad_steps.close()
        for sink in self._sinks:
            sink.close()


def add_event(path: Path, kind: str, step: int, text: str) -> None:
    """Append a line with a text, where no :class:`RunLog` is open yet."""
    file = LineFile(path)
    file.write({"kind": kind, "step": step, "time": round(time.time(), 3), "text": text})
    file.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """All whole lines of a metrics file; a last line that a killed run left half is not one."""
    return [row for row in read_lines(path) if "kind" in row and "step" in row]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
