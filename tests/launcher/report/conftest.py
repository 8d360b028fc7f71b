"""Runs of each mode that were asked about real clips."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import save_file

from gcg.build import build_model
from launcher.checkpoints.commit import META
from launcher.config import dump, parse_run_config
from launcher.evaluation.compare import evaluate_runs
from launcher.observe.ledger import Ledger
from launcher.observe.runlog import RunLog
from launcher.storage.run_folder import RunFolder, write_json, write_text
from launcher.training.weights import WEIGHTS
from tests.launcher.conftest import run_tree

MODES = ("grounding", "uniform", "oracle")


def make_run(packed: Path, storage: Path, mode: str) -> Path:
    """A run's folder as it is after a training of no step: its weights are those it began with."""
    tree = run_tree(
        packed,
        storage,
        run={"name": mode},
        model={"mode": mode},
        data={"test": str(packed / "test")},
    )
    config = parse_run_config(tree)
    folder = RunFolder(config.folder)
    write_text(folder.config, dump(config))
    model = build_model(config.model, config.run.seed)
    folder.final.mkdir()
    learned = {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}
    save_file(learned, folder.final / WEIGHTS)
    write_json(folder.final / META, {"step": 0})
    ledger, log = Ledger(folder, 1, flush_every_s=0), RunLog(folder, 0)
    ledger.record("start", world_size=1)
    ledger.record("ready", step=0)
    for step in range(1, 5):
        ledger.step(step, 0.0, 0.0, made=True)
        log.write("train", step, {"loss": 4 / step, "loss_vqa": 3 / step, "loss_con": 1 / step})
    ledger.record("end", how="complete", step=4)
    log.close()
    return folder.root


@pytest.fixture(scope="session")
def evaluated(packed: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Runs by mode, evaluated on the test split."""
    storage = tmp_path_factory.mktemp("runs")
    runs = {mode: make_run(packed, storage, mode) for mode in MODES}
    evaluate_runs(list(runs.values()), "test")
    return runs
