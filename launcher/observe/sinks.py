"""Where a run's figures go beside ``metrics.jsonl``, chosen by the run file's ``log`` section.

None of them can stop training or hold it up: one that fails is warned about once and left alone
from then on, and those that may talk to a server do it in a thread of their own.
"""

from __future__ import annotations

import logging
import queue
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from typing import Any, Protocol

from launcher.config import RunConfig
from launcher.storage.run_folder import RunFolder

logger = logging.getLogger(__name__)

_WAITING = 1000  # lines that a slow server may be behind
_LAST_WORDS_S = 15.0  # that training waits at its end for them

Numbers = Mapping[str, float]
CURVES = ("train", "val")  # kinds of lines that are drawn over steps


class Sink(Protocol):
    """Takes the numbers of a line of ``metrics.jsonl``."""

    def write(self, kind: str, step: int, numbers: Numbers) -> None: ...

    def rewind(self, step: int) -> None:
        """Training went back to a step: what comes next replaces what came after it."""
        ...

    def close(self) -> None: ...


class Guarded:
    """A sink that is given up, with one warning, when it fails.

    Args:
        name: for the warning.
        make: called at once; fails likewise.
    """

    def __init__(self, name: str, make: Callable[[], Sink]) -> None:
        self._name = name
        self._sink: Sink | None = None
        self._try(lambda: setattr(self, "_sink", make()))

    def write(self, kind: str, step: int, numbers: Numbers) -> None:
        self._try(lambda: self._sink and self._sink.write(kind, step, numbers))

    def rewind(self, step: int) -> None:
        self._try(lambda: self._sink and self._sink.rewind(step))

    def close(self) -> None:
        self._try(lambda: self._sink and self._sink.close())

    def _try(self, action: Callable[[], object]) -> None:
        try:
            action()
        except Exception as error:
            self._sink = None
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            logger.warning("%s: no more figures go there: %s", self._name, reason)


class Background:
    """A guarded sink in a thread: whoever writes never waits, and lines that come too fast go.

    Args:
        name: for warnings.
        make: called in the thread.
        waiting: lines that may lie in wait.
        last_words_s: that :meth:`close` waits for them.
    """

    def __init__(
        self,
        name: str,
        make: Callable[[], Sink],
        waiting: int = _WAITING,
        last_words_s: float = _LAST_WORDS_S,
    ) -> None:
        self._name = name
        self._last_words_s = last_words_s
        self._dropped = False
        self._lines: queue.Queue[tuple[str, tuple[Any, ...]]] = queue.Queue(waiting)
        self._thread = threading.Thread(target=self._run, args=(make,), name=name, daemon=True)
        self._thread.start()

    def _run(self, make: Callable[[], Sink]) -> None:
        sink = Guarded(self._name, make)
        method = ""
        while method != "close":
            method, arguments = self._lines.get()
            getattr(sink, method)(*arguments)

    def write(self, kind: str, step: int, numbers: Numbers) -> None:
        self._put("write", kind, step, numbers)

    def rewind(self, step: int) -> None:
        self._put("rewind", step)

    def _put(self, method: str, *arguments: Any) -> None:
        try:
            self._lines.put_nowait((method, arguments))
        except queue.Full:
            if not self._dropped:
                self._dropped = True
                logger.warning("%s: is too slow, figures are left out there", self._name)

    def close(self) -> None:
        try:
            self._lines.put(("close", ()), timeout=self._last_words_s)
        except queue.Full:
            pass
        else:
            self._thread.join(self._last_words_s)
        if self._thread.is_alive():
            logger.warning("%s: did not take its last figures in time", self._name)


def open_sinks(config: RunConfig, folder: RunFolder, step: int) -> list[Sink]:
    """The sinks of a run that continues from ``step``. Rank 0's."""
    log = config.log
    sinks: list[Sink] = []
    if log.tensorboard:
        from launcher.observe.event_files import EventFiles

        sinks.append(Guarded("TensorBoard", lambda: EventFiles(folder, step)))
    if log.prometheus and _ray_is_here():
        from launcher.cluster.metrics import RayMetrics

        sinks.append(Guarded("Ray's metrics", lambda: RayMetrics(config.run.name)))
    if log.mlflow.enabled:
        from launcher.observe.trackers import MLflow

        sinks.append(Background("MLflow", lambda: MLflow(config, folder)))
    if log.wandb.enabled:
        from launcher.observe.trackers import Wandb

        sinks.append(Background("Weights & Biases", lambda: Wandb(config, folder)))
    return sinks


def _ray_is_here() -> bool:
    # A worker that Ray did not start has not imported it, and shall not for this.
    ray = sys.modules.get("ray")
    return ray is not None and ray.is_initialized()


def missing_sinks(config: RunConfig) -> Iterator[str]:
    """A line for each sink of the run file that cannot be had here."""
    for name in ("mlflow", "wandb"):
        if not getattr(config.log, name).enabled:
            continue
        from launcher.observe.trackers import quiet_environment

        quiet_environment()
        try:
            import_module(name)
        except Exception as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            yield (
                f"log.{name}.enabled = true: {name} cannot be imported ({reason}); "
                f"pip install 'gcg-train[tracking]', or set log.{name}.enabled=false"
            )
