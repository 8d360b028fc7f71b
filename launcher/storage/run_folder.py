"""What lies in a run's folder, and how its small files are written and read.

::

    <storage>/<name>/
        config.yaml        the resolved run file
        run.json           fingerprints of the run file and the data
        attempts/          which attempt owns the folder, and what each went on from
        metrics.jsonl      one line a logged step, validation or event
        events.jsonl       what happened when, in all attempts; never shortened
        bad_steps.jsonl    updates that were left out, with the questions to blame
        questions.jsonl    the questions of every step, with log.questions
        checkpoints/       step-00000100.attempt-1/, …
        best.json          the checkpoint with the best validation metric
        final/             trained weights as safetensors, once the run is complete
        eval/              test.jsonl, …: how `gcg eval` saw each question answered
        tracking.json      identities of the run in MLflow and W&B
        tensorboard/  mlflow/  wandb/  logs/  quarantine/
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launcher.storage.mirror import Mirror
from launcher.storage.places import is_remote


@dataclass(frozen=True)
class RunFolder:
    """Names the places in a run's folder.

    ``root``: a folder, or a URL's path (:func:`launcher.storage.places.run_place`). ``mirror``: a
    worker's, if ``root`` is in an object store; files that grow are written through it.
    """

    root: Path
    mirror: Mirror | None = None

    @property
    def growing(self) -> Path:
        """Where this process writes the files that it appends to."""
        return self.root if self.mirror is None else self.mirror.local

    @property
    def config(self) -> Path:
        return self.root / "config.yaml"

    @property
    def identity(self) -> Path:
        return self.root / "run.json"

    @property
    def attempts(self) -> Path:
        return self.root / "attempts"

    @property
    def metrics(self) -> Path:
        return self.growing / "metrics.jsonl"

    @property
    def profile(self) -> Path:
        return self.growing / "profile"

    @property
    def events(self) -> Path:
        return self.growing / "events.jsonl"

    @property
    def tracking(self) -> Path:
        return self.growing / "tracking.json"

    @property
    def bad_steps(self) -> Path:
        return self.growing / "bad_steps.jsonl"

    @property
    def questions(self) -> Path:
        return self.growing / "questions.jsonl"

    @property
    def checkpoints(self) -> Path:
        return self.root / "checkpoints"

    @property
    def best(self) -> Path:
        return self.root / "best.json"

    @property
    def final(self) -> Path:
        return self.root / "final"

    @property
    def stopped(self) -> Path:
        """Why training stopped by its own rule; gone once a new launch begins."""
        return self.root / "stopped.json"

    @property
    def leave(self) -> Path:
        """The driver's wish that the workers leave with a checkpoint."""
        return self.root / "leave"

    @property
    def grow(self) -> Path:
        """The driver's wish that they leave at their next checkpoint, so that more can start."""
        return self.root / "grow"

    @property
    def left(self) -> Path:
        """At which step and why the workers left before the end."""
        return self.root / "left.json"

    def hang(self, rank: int, attempt: int) -> Path:
        """The stacks of a worker that made no progress."""
        return self.growing / "logs" / f"hang-worker-{rank}-attempt-{attempt}.txt"

    def log(self, rank: int) -> Path:
        return self.growing / "logs" / f"worker-{rank}.log"

    def quarantine(self, rank: int) -> Path:
        return self.growing / "quarantine" / f"worker-{rank}.jsonl"

    def of_worker(self, rank: int) -> RunFolder:
        """The same for a worker, which writes into it; to be closed by :meth:`close`."""
        if not is_remote(self.root):
            return self
        mirror = Mirror(self.root, rank)
        mirror.start()
        return RunFolder(self.root, mirror)

    def push(self) -> None:
        """See to it that what was written so far outlives this machine."""
        if self.mirror is not None:
            self.mirror.push()

    def close(self) -> None:
        """Write no more; on a worker."""
        if self.mirror is not None:
            self.mirror.close()

    @property
    def is_complete(self) -> bool:
        return (self.final / "meta.json").is_file()


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file so that a reader finds the old one or the new one, never half of one."""
    write_text(path, json.dumps(content, indent=1, sort_keys=True) + "\n")


def write_text(path: Path, text: str) -> None:
    """As :func:`write_json`, for text."""
    if is_remote(path):  # an object appears whole
        path.write_text(text, encoding="utf-8")
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with partial.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def read_json(path: Path) -> dict[str, Any] | None:
    """A JSON object, or None where there is no readable one.

    Raises:
        OSError: an object store did not answer. Of that it must not follow that nothing is there.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    except OSError:
        if is_remote(path):
            raise
        return None
    return content if isinstance(content, dict) else None
