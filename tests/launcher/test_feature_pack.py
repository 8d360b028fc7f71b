"""Features made elsewhere, by the commands: packed, labelled, checked, and read by a model."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from dataloaders.labels import LabelSet
from dataloaders.manifest import Question, Video, write_manifest
from gcg.build import build_model
from launcher.checks.preflight import preflight
from launcher.cli import main
from launcher.config import load_run_config, parse_run_config
from launcher.training.build import build_parts
from launcher.training.data import build_loader
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


def test_a_mixture_of_two_sets(run: Path, tmp_path: Path):
    """One set packed twice, under two names: both come into an epoch, with labels of their own."""
    assert pack(tmp_path, "--encoder", "mine") == 0
    assert main(["label", str(tmp_path / "out"), "--config", str(run)]) == 0
    shutil.copytree(tmp_path / "out", tmp_path / "more")
    tree = yaml.safe_load(run.read_text())
    tree["data"] |= {"train": None, "mixture": [
        {"place": str(tmp_path / "out"), "repeat": 2}, {"place": str(tmp_path / "more")}
    ]}  # fmt: skip
    config = parse_run_config(tree)
    preflight(config)
    parts = build_parts(config.model, build_model(config.model))
    source, loader = build_loader(config, parts, 0, 1, tmp_path / "quarantine.jsonl")
    with source, loader:
        steps = [next(loader) for _ in range(loader.plan.steps_per_epoch(0))]
    batches = [batch for step in steps for batch in step.micro]
    videos = Counter(name for batch in batches for name in batch.meta.videos)
    assert all(b.frame_tokens is not None and len(b.frame_tokens) == 2 for b in batches)
    assert all(videos[f"v{number}"] >= 2 for number in range(6))
    output = parts.model(**batches[0].model_inputs())
    assert (output.loss_vqa + output.loss_reg + output.loss_con).isfinite().all()


def spoil_a_question(manifest: Path) -> None:
    lines = manifest.read_text().splitlines()
    row = json.loads(lines[2])
    row["questions"][1]["answer"] = ""
    lines[2] = json.dumps(row)
    manifest.write_text("\n".join(lines) + "\n")


def test_bad_questions_are_left_out_up_to_the_share(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """As of clips: listed with file and line; 0 refuses the first, too many the file."""
    spoil_a_question(tmp_path / "train.jsonl")
    place = f"{tmp_path / 'train.jsonl'}:3"
    assert pack(tmp_path, "--encoder", "mine", "--max-bad-questions", "0") == 2
    assert f"{place}: " in capsys.readouterr().err
    assert pack(tmp_path, "--encoder", "mine", "--max-bad-questions", "0.001") == 2
    assert "1 of 12 questions cannot be asked" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    for state in ("packed", "already packed"):
        assert pack(tmp_path, "--encoder", "mine") == 0
        said = capsys.readouterr().out
        assert f"{state} features of 6 videos, 11 questions" in said
        assert "0 videos left out, 1 questions left out, see" in said
    row = json.loads((tmp_path / "out" / "quarantine.jsonl").read_text())
    assert (row["key"], row["question"], row["place"]) == ("v2", "1", place)


def test_labels_without_the_run_file_are_refused(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert pack(tmp_path, "--encoder", "mine") == 0
    assert main(["label", str(tmp_path / "out")]) == 2
    assert "model.input=features" in capsys.readouterr().err
    wide = ["--set", "model.features.width=30", "--set", "model.features.embedding_width=24"]
    assert main(["label", str(tmp_path / "out"), "--config", str(run), *wide]) == 2
    assert "its frames have width 24, not 30" in capsys.readouterr().err
