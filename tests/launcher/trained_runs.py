"""Runs' folders as `gcg train` leaves them, without the training: for what reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from gcg.build import build_model
from launcher.checkpoints.fits import versions
from launcher.config import RunConfig, dump, fingerprint, parse_run_config
from launcher.observe.lines import LineFile
from launcher.storage.run_folder import RunFolder, write_json, write_text
from launcher.training.weights import WEIGHTS
from tests.launcher.conftest import run_tree


def trained_run(packed: Path, storage: Path, **sections: dict[str, Any]) -> RunConfig:
    """A complete run of the packed clips whose weights were moved at random."""
    config = parse_run_config(run_tree(packed, storage, **sections))
    folder = RunFolder(config.folder)
    folder.final.mkdir(parents=True)
    write_text(folder.config, dump(config))
    write_json(folder.identity, {"config": fingerprint(config), "data": "d" * 16})
    model = build_model(config.model, config.run.seed)
    generator = torch.Generator().manual_seed(1)
    state = {
        name: value.detach() + 0.02 * torch.randn(value.shape, generator=generator)
        for name, value in model.named_parameters()
        if value.requires_grad
    }
    save_file(state, folder.final / WEIGHTS)
    write_text(folder.final / "config.yaml", dump(config))
    write_json(
        folder.final / "meta.json",
        {"step": config.optim.steps, "data": "d" * 16, "versions": versions()},
    )
    log = LineFile(folder.metrics)
    log.write({"kind": "val", "step": 4, "time": 0.0, "accuracy": 0.25, "num_questions": 12})
    log.close()
    return config
