"""Which questions every step was made of: ``questions.jsonl``, with ``log.questions``.

One line a step of the run::

    {"step": 7, "attempt": 2, "epoch": 0, "batch": 6, "left_out": null,
     "visits": [["video-3", ["q1", "q4"]], ...]}

``step`` counts updates from 1; ``epoch`` and ``batch`` are the place in the plan; ``left_out`` says
why the update was not made (``bad_steps.jsonl``); ``visits`` are those of the global batch, in the
plan's order, with the clips that were really taken: one in place of a bad clip stands under its own
name. A resumed run drops the lines past the step it goes on from, as in ``metrics.jsonl``, so the
file is the account of what the weights were trained on.

Ranks keep their own rows and put them together before a checkpoint, one exchange each: what a
checkpoint holds is on record first.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch.distributed as dist

from dataloaders.loader import StepBatch
from launcher.observe.lines import LineFile, drop_after
from launcher.storage.run_folder import RunFolder

_Visit = tuple[int, str, list[str]]  # place in the global batch, video, questions


class QuestionLog:
    """Keeps the account of one attempt. Every rank has one; rank 0 writes.

    Args:
        folder: the run's folder.
        attempt: this attempt's number.
        step: the step the run continues from; lines past it are dropped.
    """

    def __init__(self, folder: RunFolder, attempt: int, step: int) -> None:
        self._path = folder.questions
        self._attempt = attempt
        self._rows: list[tuple[dict[str, Any], list[_Visit]]] = []
        self._file: LineFile | None = None
        self._open(step)

    def _open(self, step: int) -> None:
        if dist.get_rank() == 0:
            drop_after(self._path, step)
            self._file = LineFile(self._path)

    def add(self, done: int, batch: StepBatch, left_out: str | None) -> None:
        """Note update number ``done``, of this rank's part ``batch``."""
        place = {"epoch": batch.epoch, "batch": batch.step, "left_out": left_out}
        row = {"step": done, "attempt": self._attempt, **place}
        self._rows.append((row, list(_visits(batch))))

    def write(self) -> None:
        """Put the rows of all ranks together and write them. Every rank calls it."""
        rows, self._rows = self._rows, []
        parts: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(parts, [visits for _, visits in rows])
        if self._file is None:
            return
        for (row, _), *shares in zip(rows, *parts, strict=True):
            visits = sorted(visit for share in shares for visit in share)
            whole = {**row, "visits": [[video, questions] for _, video, questions in visits]}
            self._file.write(whole, sync=row is rows[-1][0])

    def rewind(self, step: int) -> None:
        """Training has gone back to ``step``: what came after is undone. Every rank calls it."""
        self._rows.clear()
        self.close()
        self._open(step)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


def _visits(batch: StepBatch) -> Iterator[_Visit]:
    for micro in batch.micro:
        rows = micro.video_index.tolist()
        for row, position in enumerate(micro.positions.tolist()):
            pairs = [pair for pair, video in enumerate(rows) if video == row]
            questions = [micro.meta.questions[pair] for pair in pairs]
            yield position, micro.meta.videos[pairs[0]], questions
