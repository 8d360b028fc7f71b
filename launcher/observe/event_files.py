"""TensorBoard's event files, in ``tensorboard/`` of a run's folder."""

from __future__ import annotations

from typing import Any

from launcher.observe.sinks import CURVES, Numbers
from launcher.storage.run_folder import RunFolder


class EventFiles:
    """Scalars as ``kind/name``; steps past ``step`` that an attempt before wrote are purged."""

    def __init__(self, folder: RunFolder, step: int) -> None:
        self._folder = folder
        self._open(step)

    def _open(self, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(
            str(self._folder.growing / "tensorboard"), purge_step=step + 1, max_queue=100
        )

    def write(self, kind: str, step: int, numbers: Numbers) -> None:
        for name, value in numbers.items() if kind in CURVES else ():
            self._writer.add_scalar(f"{kind}/{name}", value, step)

    def rewind(self, step: int) -> None:
        self.close()
        self._open(step)

    def close(self) -> None:
        self._writer.close()
