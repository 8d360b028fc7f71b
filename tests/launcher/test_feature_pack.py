"""Features made elsewhere, by the commands: packed, labelled, checked, and read by a model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from dataloaders.labels import LabelSet
from dataloaders.manifest import Question, Video, write_manifest
from gcg.build import build_model
from launcher.build import build_parts
from launcher.cli import main
from launcher.config import load_run_config
from launcher.data import build_loader
from launcher.preflight import preflight
from tests.gcg.test_features import WIDTH, sentences

from .conftest import run_tree

__all__ = ["sentences"]  # the fixture


@pytest.fixture
def run(tmp_path: Path, sentences: Path) -> Path:
    """A run file, its manifest and a file of features for each of six videos."""
    generator = np.random.default_rng(0)
    folder = tmp_path / "arrays"
    folder.mkdir()
    videos = []
    for number in range(6):
        frames = 5 + 3 * number  # one a second
        np.save(folder / f"v{number}.npy", generator.normal(size=(frames, WIDTH)).astype("f4"))
        questions = [
            Question(id=str(i), question=f"what does the circle do {i}", answer="it moves")
            for i in range(2)
        ]
        videos.append(
            Video(id=f"v{number}", path=f"v{number}.mp4", duration=frames, questions=questions)
        )
    write_manifest(tmp_path / "train.jsonl", videos)
    tree = run_tree(tmp_path, tmp_path / "runs")
    tree["data"] |= {"train": str(tmp_path / "out"), "val": None}
    features = {"tokens": 1, "width": WIDTH, "text_encoder": str(sentences)}
    tree["model"] = {
        **tree["model"], "input": "features", "features": features,
        "grounding": {"noise_samples": 20, "width": 16},
    }  # fmt: skip
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump(tree))
    return file


def pack(root: Path, *more: str) -> int:
    arguments = ["pack", "--features", str(root / "arrays"), "--min-shards", "3"]
    return main([*arguments, *more, str(root / "train.jsonl"), str(root / "out")])


def test_from_arrays_to_losses(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert pack(tmp_path) == 2
    assert "--encoder" in capsys.readouterr().err
    assert pack(tmp_path, "--encoder", "mine") == 0
    assert "features of 6 videos, 12 questions" in capsys.readouterr().out
    assert pack(tmp_path, "--encoder", "mine") == 0
    assert "already packed" in capsys.readouterr().out
    assert main(["label", str(tmp_path / "out"), "--config", str(run)]) == 0
    labels = LabelSet(tmp_path / "out" / "labels" / "topk")
    assert labels.meta.encoder.startswith("sentence-")
    config = load_run_config(run)
    preflight(config)
    parts = build_parts(config.model, build_model(config.model))
    source, loader = build_loader(config, parts, 0, 1, tmp_path / "quarantine.jsonl")
    with source, loader:
        batch = next(loader).micro[0]
    assert batch.frame_tokens is not None
    assert batch.frame_tokens.shape == (2, 8, 1, WIDTH)
    assert batch.frame_tokens.dtype == torch.float16
    output = parts.model(**batch.model_inputs())
    assert (output.loss_vqa + output.loss_reg + output.loss_con).isfinite().all()


def test_labels_without_the_run_file_are_refused(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert pack(tmp_path, "--encoder", "mine") == 0
    assert main(["label", str(tmp_path / "out")]) == 2
    assert "model.input=features" in capsys.readouterr().err
    wide = ["--set", "model.features.width=30", "--set", "model.features.embedding_width=24"]
    assert main(["label", str(tmp_path / "out"), "--config", str(run), *wide]) == 2
    assert "its frames have width 24, not 30" in capsys.readouterr().err
