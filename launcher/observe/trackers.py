"""Experiment trackers: MLflow and Weights & Biases, one run of theirs for all attempts at a run.

Both work without a network: MLflow keeps files in ``mlflow/`` of the run's folder unless a server
is named, Weights & Biases ``wandb/`` there unless it is told to go online. ``tracking.json`` keeps
the identities by which a later attempt finds its tracker's run again. A tracker's history keeps the
figures of steps that were done again, too: the later ones have the later time.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import threading
import time
from typing import Any

from launcher.config import RunConfig, trajectory
from launcher.observe.sinks import CURVES, Numbers
from launcher.storage.run_folder import RunFolder, read_json, write_json

_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",  # no report to its makers
    "WANDB_ERROR_REPORTING": "false",
    # MLflow prefers a database to files by now. On storage that many machines share, files that one
    # process appends to are the safer choice: SQLite asks for locks that such storage may not have.
    "MLFLOW_ALLOW_FILE_STORE": "true",
}
_FOREIGN = re.compile(r"[^\w\-. :/]")  # MLflow takes no other characters in a metric's name
_LONGEST_VALUE = 500  # characters of a parameter; servers refuse longer ones


def quiet_environment() -> None:
    """Set before MLflow or W&B is imported; what the user set stays."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)


class MLflow:
    """Metrics ``train/…`` and ``val/…``, and as parameters what decides what is learned.

    ``iop@0.3`` is ``val/iop_0.3`` there.
    """

    def __init__(self, config: RunConfig, folder: RunFolder) -> None:
        quiet_environment()
        from mlflow.tracking import MlflowClient  # pyright: ignore[reportMissingImports]

        self._folder = folder
        section = config.log.mlflow
        uri = section.tracking_uri or (folder.growing / "mlflow").absolute().as_uri()
        self._client: Any = MlflowClient(tracking_uri=uri)
        self._run = self._find(uri) or self._create(uri, section.experiment, config)
        self._client.update_run(self._run, status="RUNNING")

    def _find(self, uri: str) -> str | None:
        from mlflow.exceptions import MlflowException  # pyright: ignore[reportMissingImports]

        known = (read_json(self._folder.tracking) or {}).get("mlflow", {})
        if known.get("uri") != uri:
            return None
        with contextlib.suppress(MlflowException):  # it was deleted there
            return self._client.get_run(known["run"]).info.run_id
        return None

    def _create(self, uri: str, experiment: str, config: RunConfig) -> str:
        from mlflow.entities import Param  # pyright: ignore[reportMissingImports]

        found = self._client.get_experiment_by_name(experiment)
        number = found.experiment_id if found else self._client.create_experiment(experiment)
        tags = {"gcg.folder": str(self._folder.root)}
        run = self._client.create_run(number, run_name=config.run.name, tags=tags).info.run_id
        values = [Param(k, str(v)[:_LONGEST_VALUE]) for k, v in trajectory(config).items()]
        for start in range(0, len(values), 100):  # the most that a request may carry
            self._client.log_batch(run, params=values[start : start + 100])
        remember(self._folder, "mlflow", {"uri": uri, "run": run})
        return run

    def write(self, kind: str, step: int, numbers: Numbers) -> None:
        from mlflow.entities import Metric  # pyright: ignore[reportMissingImports]

        if kind in CURVES:
            now = int(time.time() * 1000)
            metrics = [
                Metric(_FOREIGN.sub("_", f"{kind}/{name}"), value, now, step)
                for name, value in numbers.items()
            ]
            self._client.log_batch(self._run, metrics=metrics)

    def rewind(self, step: int) -> None:
        """Nothing: MLflow keeps all values of a step."""

    def close(self) -> None:
        status = "FINISHED" if self._folder.is_complete else "KILLED"
        self._client.set_terminated(self._run, status=status)


class Wandb:
    """The same with ``step`` as the axis of all curves, since W&B's own step never goes back."""

    def __init__(self, config: RunConfig, folder: RunFolder) -> None:
        quiet_environment()
        import wandb  # pyright: ignore[reportMissingImports]

        known = (read_json(folder.tracking) or {}).get("wandb", {})
        identity = known.get("id") or secrets.token_hex(8)
        remember(folder, "wandb", {"id": identity})
        section = config.log.wandb
        self._run: Any = wandb.init(
            project=section.project,
            entity=section.entity,
            mode=section.mode,
            id=identity,
            name=config.run.name,
            resume="allow",
            dir=str(folder.growing),
            config=config.model_dump(mode="json"),
            settings=wandb.Settings(console="off", disable_git=True, save_code=False, silent=True),
        )
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def write(self, kind: str, step: int, numbers: Numbers) -> None:
        if kind in CURVES:
            self._run.log({"step": step, **{f"{kind}/{n}": v for n, v in numbers.items()}})

    def rewind(self, step: int) -> None:
        """Nothing: what comes again is another point of the same step."""

    def close(self) -> None:
        self._run.finish()


_remembering = threading.Lock()


def remember(folder: RunFolder, tracker: str, identity: dict[str, str]) -> None:
    """Keep a tracker's identity for the attempts to come. Each tracker has a thread of its own."""
    with _remembering:
        write_json(folder.tracking, {**(read_json(folder.tracking) or {}), tracker: identity})
