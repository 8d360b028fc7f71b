"""Data that hurts in the middle of whole runs: a batch of which no loss can be computed, and a clip
that does not stop decoding."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
import yaml

from dataloaders.manifest import Question, Video, read_manifest, write_manifest
from dataloaders.shards import pack
from gcg.config import GCGConfig
from launcher.cli import main
from launcher.config import RunConfig, load_run_config, parse_run_config
from launcher.labelling.label import label_data
from launcher.observe.lines import read_lines
from launcher.observe.runlog import read_metrics
from launcher.storage.run_folder import RunFolder
from launcher.training.weights import load_trained_weights
from launcher.training.worker import run_worker
from tests.gcg.test_features import WIDTH, sentences
from tests.launcher.conftest import MODEL, run_tree
from tests.spawn import run_ranks

__all__ = ["sentences"]  # the fixture

NUM_VIDEOS = 6
POISONED = "v3"
EPOCHS = 3
STEPS = EPOCHS * NUM_VIDEOS // 2
LIMIT_S = 1.0


def train_quietly(config: RunConfig) -> None:
    run_worker(config, lambda figures: None)


@pytest.fixture
def poisoned(tmp_path: Path, sentences: Path) -> RunConfig:
    """A run on features of six videos. Those of one are finite, so that packing takes them, and so
    large that their squares are not."""
    generator = np.random.default_rng(0)
    (tmp_path / "arrays").mkdir()
    videos = []
    for number in range(NUM_VIDEOS):
        name = f"v{number}"
        values = generator.normal(size=(8, WIDTH)).astype("f4")
        np.save(tmp_path / "arrays" / f"{name}.npy", values * (1e37 if name == POISONED else 1))
        asked = [
            Question(id=str(i), question=f"what does the circle do {i}", answer="it moves")
            for i in range(2)
        ]
        videos.append(Video(id=name, path=f"{name}.mp4", duration=8.0, questions=asked))
    write_manifest(tmp_path / "train.jsonl", videos)
    tree = run_tree(tmp_path, tmp_path / "runs")
    tree["data"] |= {"train": str(tmp_path / "out"), "val": None}
    tree["data"] |= {"global_batch": 2, "contrast_group": 1}
    tree["model"] |= {
        "input": "features",
        "features": {"tokens": 1, "width": WIDTH, "text_encoder": str(sentences)},
        "grounding": {"noise_samples": 20, "width": 16},
    }
    tree["engine"] = {"micro_batch": 1, "precision": "fp32"}
    tree["optim"] |= {"steps": STEPS}
    tree["log"] |= {"questions": True}
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump(tree))
    arguments = ["--features", str(tmp_path / "arrays"), "--encoder", "mine", "--dtype", "fp32"]
    places = ["--min-shards", "6", str(tmp_path / "train.jsonl"), str(tmp_path / "out")]
    assert main(["pack", *arguments, *places]) == 0
    assert main(["label", str(tmp_path / "out"), "--config", str(file)]) == 0
    return load_run_config(file)


def test_a_poisoned_batch(poisoned: RunConfig):
    """The update is left out on all ranks, and its questions are named; the rest is trained on."""
    run_ranks(train_quietly, 2, poisoned, preloaded=True)
    folder = RunFolder(poisoned.folder)
    assert folder.is_complete
    rows = list(read_lines(folder.questions))
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    hit = [row["step"] for row in rows if POISONED in dict(row["visits"])]
    assert len(hit) == EPOCHS
    assert [row["step"] for row in rows if row["left_out"]] == hit
    named = [json.loads(line) for line in folder.bad_steps.read_text().splitlines()]
    assert [(row["step"], row["cause"]) for row in named] == [(step, "loss") for step in hit]
    for row in named:
        assert {(p["video"], p["question"]) for p in row["pairs"]} == {
            (POISONED, "0"),
            (POISONED, "1"),
        }
    made = [row for row in read_metrics(folder.metrics) if row["kind"] == "train"]
    assert all(row["loss"] is not None for row in made if row["step"] not in hit)
    weights = load_trained_weights(folder.final)
    assert all(torch.isfinite(value).all() for value in weights.values())


def endless(path: Path) -> None:
    """24 pictures of noise, each coded from the one before: seconds of decoding."""
    generator = np.random.default_rng(0)
    with av.open(str(path), "w") as out:
        options = {"preset": "ultrafast", "qp": "8", "threads": "1", "coder": "1"}
        track = out.add_stream("libx264", rate=4, options=options)
        track.width, track.height, track.pix_fmt, track.gop_size = 1280, 720, "yuv420p", 1000
        for _ in range(24):
            noise = generator.integers(0, 256, (720, 1280, 3), dtype=np.uint8)
            out.mux(track.encode(av.VideoFrame.from_ndarray(noise, format="rgb24")))
        out.mux(track.encode(None))


@pytest.mark.slow
def test_a_clip_that_does_not_stop_decoding(packed: Path, tmp_path: Path):
    """It is given up, listed, and another takes its place; the run does not wait for it again."""
    raw = packed / "raw"
    rows = [
        row.model_copy(update={"path": str(raw / row.path)})
        for row in list(read_manifest(raw / "train.jsonl"))[:7]
    ]
    endless(tmp_path / "endless.mp4")
    changes: dict[str, Any] = {"id": "endless", "path": str(tmp_path / "endless.mp4")}
    unknown = dict.fromkeys(("duration", "frame_count", "width", "height", "codec"))
    rows.append(rows[0].model_copy(update={**unknown, **changes}))
    pack(rows, tmp_path / "train", root=tmp_path, shard_bytes=1)
    label_data(tmp_path / "train", GCGConfig(**MODEL))
    tree = run_tree(
        tmp_path,
        tmp_path / "runs",
        data={"val": None, "decode_timeout_s": LIMIT_S, "max_bad_share": 0.1},
        optim={"steps": 8, "lr": 1e-3, "grounding_lr": 1e-3, "warmup_steps": 1},
        log={"questions": True},
    )
    config = parse_run_config(tree)
    run_ranks(train_quietly, 2, config, preloaded=True)
    folder = RunFolder(config.folder)
    assert folder.is_complete
    listed = [row for rank in (0, 1) for row in read_lines(folder.quarantine(rank))]
    assert [row["key"] for row in listed] == ["endless"]
    assert f"data.decode_timeout_s = {LIMIT_S:g} s" in listed[0]["reason"]
    made = [row for row in read_metrics(folder.metrics) if row["kind"] == "train"]
    assert [row["step"] for row in made] == list(range(1, 9))
    assert made[-1]["timeouts"] == 1  # at its later visits it is not tried again
    assert made[-1]["bad"] > 1
    asked = [visit for row in read_lines(folder.questions) for visit in row["visits"]]
    assert len(asked) == 8 * config.data.global_batch
    assert "endless" not in {video for video, _ in asked}
