"""The command's side of leaving: signals, the time of grace, and exit codes that say "go on later".

SIGTERM (a batch system, `ray job stop`, Kubernetes) or Ctrl-C asks the workers to leave with a
checkpoint. A second signal, or the end of the grace, ends the command at once: then the checkpoint
before stands.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any

from launcher.storage.places import fault_of, is_remote
from launcher.storage.run_folder import RunFolder, write_text

logger = logging.getLogger(__name__)

# EX_TEMPFAIL of sysexits.h: nothing is wrong, the same command goes on.
EXIT_RESUME = 75
EXIT_INTERRUPTED = 130
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class DepartedError(KeyboardInterrupt):
    """The command ends before the run does; as Ctrl-C, no ``except Exception`` stops it.

    ``step``: of the last checkpoint if the workers had time to make one, else None.
    """

    def __init__(self, number: int, step: int | None) -> None:
        super().__init__(f"signal {number}")
        self.step = step
        self.exit_code = EXIT_INTERRUPTED if number == signal.SIGINT else EXIT_RESUME

    def __str__(self) -> str:
        if self.step is None:
            return "interrupted; run the same command again to continue from the last checkpoint"
        return f"left with a checkpoint of step {self.step}; run the same command again to continue"


class ClusterLostError(Exception):
    """Ray can say no more about the run: its head has gone, or what controls the run there."""

    exit_code = EXIT_RESUME

    def __init__(self, why: str) -> None:
        super().__init__(
            f"the Ray cluster was lost ({why}); run the same command again to continue from the "
            "last checkpoint, in this cluster if it is up, or in another"
        )


class Departure:
    """Turns signals into a wish to leave while it is entered. In the main thread alone.

    Args:
        folder: of the run, where workers see the wish.
        grace_s: seconds that the workers have.
    """

    def __init__(self, folder: RunFolder, grace_s: float) -> None:
        self._folder = folder
        self._grace_s = grace_s
        self._before: dict[int, Any] = {}
        self._deadline: float | None = None
        self._again = False
        self.number: int | None = None

    def __enter__(self) -> Departure:
        self._folder.leave.unlink(missing_ok=True)
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                self._before[number] = signal.signal(number, self._ask)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        # Where the storage refuses, the next command removes it.
        fault_of(lambda: self._folder.leave.unlink(missing_ok=True))

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.number is not None:
            self._again = True
            return
        self.number = number
        self._deadline = time.monotonic() + self._grace_s
        name = signal.Signals(number).name
        if is_remote(self._folder.leave):  # which may keep us waiting for longer than the grace
            threading.Thread(target=self._wish, args=[name], name="leave", daemon=True).start()
        else:
            self._wish(name)

    def _wish(self, name: str) -> None:
        why = fault_of(lambda: write_text(self._folder.leave, f"{name}\n"))
        if why is not None:
            logger.warning("%s: the workers cannot be asked to save: %s", self._folder.leave, why)
            self._again = True

    @property
    def is_over(self) -> bool:
        """Whether the workers have had their time."""
        late = self._deadline is not None and time.monotonic() > self._deadline
        return self._again or late
