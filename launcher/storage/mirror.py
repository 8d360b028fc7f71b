"""A worker's growing files (figures, events, logs) of a run whose storage is an object store.

Objects cannot be appended to. So each worker writes below :func:`~launcher.storage.places.\
working_place`, and a thread copies what has changed to the run's place: now and then, before every
commit of a checkpoint, and at the end. A worker that begins takes its files from there first, since
the attempt before may have run on another machine.
"""

from __future__ import annotations

import json
import logging
import re
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from launcher.errors import StaleAttemptError
from launcher.storage.places import download, fault_of, sizes_below, upload, working_place

logger = logging.getLogger(__name__)

_EVERY_S = 30.0
_WORKERS = re.compile(r"(?:logs|quarantine)/(?:hang-)?worker-(\d+)[.-].*")
_FILES = (
    "metrics.jsonl",
    "questions.jsonl",
    "events.jsonl",
    "bad_steps.jsonl",
    "tracking.json",
)
_FOLDERS = ("logs", "quarantine", "tensorboard", "mlflow", "wandb")
# Cut back when a run resumes: what lies at the run's place is never older than its checkpoint.
_THERE_WINS = ("metrics.jsonl", "questions.jsonl")
# The driver writes there itself; a worker that was killed left lines here that never got there.
_BOTH_COUNT = ("events.jsonl",)


class Mirror:
    """Keeps a rank's files at a run's place up to date.

    Args:
        place: the run's, in an object store.
        rank: rank 0 has all files that are not another worker's.
        every_s: seconds between two looks.

    ``local``: the folder that the rank writes its files in. ``check``: called on rank 0 before it
    copies; raises StaleAttemptError where a newer attempt has taken over.
    """

    def __init__(self, place: Path, rank: int, every_s: float = _EVERY_S) -> None:
        self.local = working_place(place)
        self.check: Callable[[], object] = lambda: None
        self._place = place
        self._rank = rank
        self._every_s = every_s
        self._pushed: dict[str, tuple[int, int] | None] = {}
        self._one_at_a_time = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="mirror", daemon=True)

    def start(self) -> None:
        """Fetch what earlier attempts left, and begin."""
        self.local.mkdir(parents=True, exist_ok=True)
        for name, size in self._there().items():
            file = self.local / name
            if name in _BOTH_COUNT and file.exists():
                _merge(file, self._place / name)
            elif name in _THERE_WINS or not file.exists() or file.stat().st_size < size:
                download(self._place / name, file)
                self._pushed[name] = _state(file)
        self._thread.start()

    def _there(self) -> dict[str, int]:
        """Bytes of this rank's files at the run's place. Not by a listing of all: there may be many
        ranks, and many files of checkpoints."""
        names = [f"logs/worker-{self._rank}.log", f"quarantine/worker-{self._rank}.jsonl"]
        found: dict[str, int] = {}
        if self._rank == 0:
            names += _FILES
            mlflow = sizes_below(self._place / "mlflow")
            found = {f"mlflow/{name}": size for name, size in mlflow.items()}
        for name in names:
            with suppress(FileNotFoundError):
                found[name] = (self._place / name).stat().st_size
        return found

    def push(self) -> None:
        """Copy what has changed.

        Raises:
            OSError: or an error of the client: the storage refused.
            StaleAttemptError: these files are a newer attempt's now.
        """
        with self._one_at_a_time:
            if self._rank == 0:
                self.check()
            for file in sorted(path for path in self.local.rglob("*") if path.is_file()):
                name = str(file.relative_to(self.local))
                now = _state(file)  # as it is before: it may grow meanwhile
                if self._is_own(name) and now is not None and now != self._pushed.get(name):
                    upload(file, self._place / name)
                    self._pushed[name] = now

    def close(self) -> None:
        """Copy the last of it; what cannot be copied is lost, with a warning."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()
        self._push_or_warn()

    def _run(self) -> None:
        while not self._ended.wait(self._every_s):
            self._push_or_warn()

    def _push_or_warn(self) -> None:
        try:
            why = fault_of(self.push)
        except StaleAttemptError:
            self._ended.set()
            return
        if why is not None:
            logger.warning("%s: figures and logs could not be written: %s", self._place, why)

    def _is_own(self, name: str) -> bool:
        if name not in _FILES and name.partition("/")[0] not in _FOLDERS:
            return False
        worker = _WORKERS.fullmatch(name)
        return self._rank == 0 if worker is None else int(worker[1]) == self._rank


def _state(file: Path) -> tuple[int, int] | None:
    """Size and time of the last change; None for one that is gone."""
    try:
        stat = file.stat()
    except OSError:
        return None
    return stat.st_size, stat.st_mtime_ns


def _merge(file: Path, other: Path) -> None:
    """All lines of both, each once, in the order of their times."""
    found: dict[str, float] = {}
    lines = file.read_text(encoding="utf-8") + "\n" + other.read_text(encoding="utf-8")
    for line in lines.splitlines():
        try:
            found.setdefault(line, float(json.loads(line)["time"]))
        except (ValueError, KeyError, TypeError):
            continue  # half a line
    merged = sorted(found, key=lambda line: found[line])
    file.write_text("".join(f"{line}\n" for line in merged), encoding="utf-8")
