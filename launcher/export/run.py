"""A trained run: its configuration and the weights that were asked for."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from gcg.build import build_model
from gcg.config import GCGConfig
from gcg.model import GCGModel
from launcher.checkpoints.commit import META
from launcher.checkpoints.find import newest
from launcher.config import RunConfig, load_run_config
from launcher.errors import UserError
from launcher.storage.run_folder import RunFolder, read_json
from launcher.training.weights import load_trained_weights

Weights = Literal["final", "best", "last"]
WEIGHTS = get_args(Weights)


@dataclass(frozen=True)
class TrainedRun:
    """A run's folder, its run file, and the ``place`` of its weights: a checkpoint or ``final``."""

    folder: RunFolder
    config: RunConfig
    weights: Weights
    place: Path

    @property
    def meta(self) -> dict[str, Any]:
        """What was written beside the weights: ``step``, ``data``, ``versions``."""
        return read_json(self.place / META) or {}

    def state(self) -> dict[str, Tensor]:
        """The trained weights, float32 on the CPU, by the model's names."""
        return load_trained_weights(self.place)

    def model(
        self, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
    ) -> GCGModel:
        """The whole model as it is used on clips (:meth:`gcg.config.GCGConfig.served`), in
        evaluation mode; raises as :meth:`trained_model`."""
        return self._filled(self.config.model.served(), dtype, device)

    def trained_model(
        self, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
    ) -> GCGModel:
        """The whole model as it was trained, on clips or on features, in evaluation mode.

        Raises:
            UserError: the weights are of another model than the run file says.
        """
        return self._filled(self.config.model, dtype, device)

    def _filled(
        self, config: GCGConfig, dtype: torch.dtype, device: torch.device | str
    ) -> GCGModel:
        model = build_model(config, self.config.run.seed, dtype, device)
        missing, unexpected = model.load_state_dict(self.state(), strict=False)
        trained = {n for n, p in model.named_parameters() if p.requires_grad}
        lost = sorted(trained & set(missing))
        if lost or unexpected:
            raise UserError(
                f"{self.folder.root}: its weights do not fit its config.yaml (missing {lost[:3]}, "
                f"unexpected {list(unexpected)[:3]}); was one of them changed by hand?"
            )
        return model.eval()


def open_run(run: Path, weights: Weights = "final") -> TrainedRun:
    """The run in a folder, or at a URL (:func:`launcher.storage.places.run_place`).

    Args:
        run: the folder.
        weights: ``final``, of a run that is complete; ``best``, by the validation metric; ``last``,
            the newest checkpoint, of a run that may still be going on.

    Raises:
        UserError: there is no run, or it has no such weights yet.
    """
    found = run_fault(run, weights)
    if isinstance(found, str):
        raise UserError(found)
    return TrainedRun(RunFolder(run), load_run_config(run / "config.yaml"), weights, found)


def run_fault(run: Path, weights: str) -> str | Path:
    """What is wrong with such a wish in a line, or else the place of the weights."""
    folder = RunFolder(run)
    if not folder.config.is_file():
        return f"{run}: no config.yaml there, so no run of `gcg train`; name a run's folder"
    if weights == "final" and folder.final.exists():
        return folder.final
    if weights == "best" and folder.best.exists():
        return run / json.loads(folder.best.read_text())["path"]
    if weights == "last" and (checkpoint := newest(folder)) is not None:
        return checkpoint.path
    wanted = {"final": folder.final, "best": folder.best, "last": folder.checkpoints}[weights]
    return f"{wanted}: not there yet; let `gcg train` finish, or choose other --weights"
