"""`gcg plan` on clips against features: from real shards, and what it says of either."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from dataloaders.feature_info import FeatureInfo
from dataloaders.features import VideoFeatures, pack_features
from launcher.cli import main
from launcher.config import RunConfig, parse_run_config
from launcher.extract import extract
from launcher.planning import Plan, make_plan
from launcher.planning.frames import DECODE_SECONDS, FeatureReading, FrameCosts
from launcher.planning.timing import READ, Hardware
from tests.launcher.conftest import run_tree


def plan(config: RunConfig, read: float = READ) -> Plan:
    return make_plan(config, Hardware(memory=80e9, read=read), device="cuda")


def config_of(packed: Path, tmp_path: Path, **sections) -> RunConfig:
    return parse_run_config(run_tree(packed, tmp_path, **sections))


def costs_of(found: Plan) -> FrameCosts:
    assert isinstance(found.frames, FrameCosts)
    return found.frames


@pytest.mark.parametrize("dtype", ["fp16", "fp32"])
def test_sample_bytes_are_those_of_the_tensors(dtype):
    import torch

    info = FeatureInfo(tokens=3, width=64, embedding_width=32, dtype=dtype, encoder="x")
    video = VideoFeatures(torch.rand(50, 3, 64), torch.rand(50, 32), torch.rand(50).double())
    header = 1000  # safetensors' own, names and shapes
    assert 0 < len(pack_features(video, dtype)) - info.sample_bytes(50) < header


def test_clips_are_measured_and_the_totals_add_up(packed: Path, tmp_path: Path):
    model = {**run_tree(packed, tmp_path)["model"], "num_frames": 32}
    config = config_of(packed, tmp_path, model=model)
    found = costs_of(plan(config))
    assert found.measured > 0
    assert 0 < found.decode_per_clip < 60
    assert found.decode == pytest.approx(found.visits * found.decode_per_clip)
    assert found.feature_bytes > found.clip_bytes  # 37 tokens of 128 a frame
    assert found.trunk is not None
    limits = plan(config).limits
    assert limits is not None
    assert limits.data.known  # and not the stated clip
    assert limits.data.decode_rate > 0
    assert limits.data.bytes * limits.data.clips > 0
    # A slow disk, and the larger of the two is the worse; a fast one, and decoding is.
    slow = costs_of(plan(config, read=1e3))
    assert slow.cheaper == "clips"
    assert slow.pays_after is None
    steps = {**run_tree(packed, tmp_path)["optim"], "steps": 100_000}
    fast = costs_of(plan(config_of(packed, tmp_path, model=model, optim=steps), read=1e12))
    assert fast.cheaper == "features"
    assert fast.pays_after is not None
    assert fast.pays_after < fast.epochs


def test_a_trained_image_encoder_has_no_features(packed: Path, tmp_path: Path):
    model = {**run_tree(packed, tmp_path)["model"], "vision": {"train": True}}
    found = plan(config_of(packed, tmp_path, model=model)).frames
    assert isinstance(found, str)
    assert "model.vision.train" in found


def test_without_the_data_nothing_is_compared(packed: Path, tmp_path: Path):
    config = config_of(packed, tmp_path, data={"train": str(tmp_path / "nowhere")})
    assert "not here" in plan(config).frames  # type: ignore[operator]
    assert DECODE_SECONDS > 0


def test_a_run_on_features_has_no_image_encoder(packed: Path, tmp_path: Path):
    config = config_of(packed, tmp_path)
    out = tmp_path / "out"
    extract(config, "train", out)
    model = {**run_tree(packed, tmp_path)["model"], "input": "features"}
    features = plan(config_of(packed, tmp_path, data={"train": str(out)}, model=model))
    clips = plan(config)
    assert isinstance(features.frames, FeatureReading)
    expected = costs_of(clips).feature_bytes
    # The data set has headers and records, too.
    assert expected < features.frames.bytes < 1.3 * expected
    assert {part.part for part in clips.census.parts} - {
        part.part for part in features.census.parts
    } == {"vision trunk", "joint head"}
    gone = {"vision trunk", "joint head"}
    of_clips = {part.part: part for part in clips.flops if part.part not in gone}
    assert {part.part: part for part in features.flops} == of_clips
    assert features.memory.peak < clips.memory.peak


def test_the_report_has_both(packed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run = tmp_path / "run.yaml"
    run.write_text(yaml.safe_dump(run_tree(packed, tmp_path)))
    assert main(["plan", str(run), "--gpus", "2", "--device", "cuda"]) == 0
    said = capsys.readouterr().out
    assert "CPU-s a clip, measured on" in said
    assert "GPU-s image encoder" in said
    assert "cheaper: " in said
    assert main(["plan", str(run), "--read", "0"]) == 2
