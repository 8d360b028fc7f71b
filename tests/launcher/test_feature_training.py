"""Training on what `gcg extract` writes: the same plan, batches, losses and answers."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from dataloaders.batch import Batch
from dataloaders.index import read_index
from dataloaders.open_source import open_source
from gcg.build import build_model
from gcg.tokens import load_tokens
from launcher.checks.preflight import preflight
from launcher.config import ConfigError, RunConfig
from launcher.errors import PreflightError
from launcher.evaluation.evaluate import evaluate_split
from launcher.observe.runlog import read_metrics
from launcher.report.clips import Clips
from launcher.storage.run_folder import RunFolder
from launcher.training.worker import run_worker
from tests.spawn import run_ranks

from .feature_runs import (
    assert_same_but_frames,
    clips_config,
    features_config,
    loader_of,
    micro_batches,
)


@pytest.mark.parametrize("train", ["train", "half"])
def test_losses_and_gradients_are_those_of_the_clips(
    packed: Path, extracted: Path, tmp_path: Path, train: str
):
    video, clips = micro_batches(clips_config(packed, tmp_path), tmp_path, 2)
    config = features_config(packed, extracted, tmp_path, train)
    model, batches = micro_batches(config, tmp_path, 2)
    assert model.vision is None
    names = {name for name, _ in video.named_parameters()}
    left_out = names - {name for name, _ in model.named_parameters()}
    assert left_out == {name for name in names if name.startswith("vision.")}
    # The encoder ran over other groups of clips, so products round in another order; in fp16 a
    # value of size 1 is off by up to 5e-4, and the losses sum some thousands of such.
    tolerance = {"train": 1e-4, "half": 2e-2}[train]
    for one, other in zip(clips, batches, strict=True):
        assert_same_but_frames(one, other)
        assert other.pixel_values is None
        losses = []
        for net, batch in ((video, one), (model, other)):
            net.train().zero_grad()
            output = net(**batch.model_inputs())
            (output.loss_vqa + output.loss_reg + output.loss_con).sum().backward()
            losses.append(output)
        for name in ("loss_vqa", "loss_reg", "loss_con", "weights"):
            ours, theirs = (getattr(output, name) for output in losses)
            torch.testing.assert_close(ours, theirs, atol=tolerance, rtol=tolerance)
        gradient = model.get_parameter("generator.centers.weight").grad
        expected = video.get_parameter("generator.centers.weight").grad
        torch.testing.assert_close(gradient, expected, atol=10 * tolerance, rtol=10 * tolerance)


def test_features_of_a_batch_are_what_the_model_would_encode(
    packed: Path, extracted: Path, tmp_path: Path
):
    """Given the pixels in the groups they were extracted in, the same to the bit."""
    config = clips_config(packed, tmp_path)
    model = build_model(config.model)
    with open_source(packed / "val") as clips, open_source(extracted / "val") as features:
        pixels = in_order(config, clips)
        stored = in_order(features_config(packed, extracted, tmp_path), features)
    for batch, kept in zip(pixels, stored, strict=True):
        encoded = model.encode(batch.pixel_values, batch.question_ids, batch.question_mask)
        assert kept.frame_tokens is not None
        assert kept.frame_embeddings is not None
        assert torch.equal(encoded.tokens, kept.frame_tokens)
        assert torch.equal(encoded.joint, kept.frame_embeddings)


def in_order(config: RunConfig, source: Any) -> list[Batch]:
    from dataloaders.eval_loader import EvalLoader
    from launcher.training.build import build_collator
    from launcher.training.data import build_decoder

    loader = EvalLoader(
        source,
        build_collator(config.model, load_tokens(config.model), 0),
        build_decoder(config, 96, source),
        num_frames=config.model.num_frames,
        questions_per_visit=100,  # one visit a clip
        micro_batch=config.engine.micro_batch,
    )
    return [batch for batch in loader if batch is not None]


def test_answers_and_spans_are_those_of_the_clips(packed: Path, extracted: Path, tmp_path: Path):
    config = clips_config(packed, tmp_path)
    rows = evaluate_split(build_model(config.model), config, "val")
    config = features_config(packed, extracted, tmp_path)
    assert evaluate_split(build_model(config.model), config, "val") == rows
    with open_source(extracted / "val") as source:
        clips = Clips(source, config.model.num_frames, 1)
        clips.find({rows[0]["video"]})
        assert clips.film_strip(rows[0]["video"]).why == "the data set holds features, not clips"


def test_a_run_on_features_resumes_to_the_bit(packed: Path, extracted: Path, tmp_path: Path):
    config = features_config(packed, extracted, tmp_path)
    _, loader = loader_of(config, tmp_path)
    with loader:
        next(loader)
        state = loader.state_dict()
        expected = [batch for _ in range(3) for batch in next(loader).micro]
    _, again = loader_of(config, tmp_path)
    with again:
        again.load_state_dict(state)
        found = [batch for _ in range(3) for batch in next(again).micro]
    for one, other in zip(expected, found, strict=True):
        assert_same_but_frames(one, other)
        assert torch.equal(one.frame_tokens, other.frame_tokens)  # type: ignore[arg-type]
        assert torch.equal(one.frame_embeddings, other.frame_embeddings)  # type: ignore[arg-type]


def run_all(configs: list[RunConfig]) -> None:
    for config in configs:
        run_worker(config, lambda figures: None)


def test_whole_runs_on_two_workers_learn_what_the_clips_teach(
    packed: Path, extracted: Path, tmp_path: Path
):
    """Contrast groups span micro-batches and ranks, so that stored features are exchanged, too."""
    sections: dict[str, Any] = {
        "data": {"contrast_group": 4},
        "optim": {"steps": 3, "lr": 1e-3, "grounding_lr": 1e-3},
        "checkpoint": {"every": 3},
    }
    engine = {"micro_batch": 1, "precision": "fp32"}
    configs = {
        "clips": clips_config(packed, tmp_path, **sections, engine=engine),
        "features": features_config(packed, extracted, tmp_path, **sections, engine=engine),
        "sharded": features_config(
            packed, extracted, tmp_path, **sections, engine={**engine, "zero": 3}
        ),
    }
    configs = {
        name: config.model_copy(update={"run": config.run.model_copy(update={"name": name})})
        for name, config in configs.items()
    }
    run_ranks(run_all, 2, list(configs.values()))
    found = {}
    for name, config in configs.items():
        assert RunFolder(config.folder).is_complete
        rows = read_metrics(RunFolder(config.folder).metrics)
        found[name] = [
            [row[part] for part in ("loss_vqa", "loss_reg", "loss_con", "grad_norm")]
            for row in rows
            if row["kind"] == "train"
        ]
        assert len(found[name]) == 3
    # The encoder ran over other groups of clips; three updates carry the rounding on.
    for name in ("features", "sharded"):
        torch.testing.assert_close(
            torch.tensor(found[name]), torch.tensor(found["clips"]), rtol=1e-3, atol=1e-4
        )


def wrong(config: RunConfig) -> list[str]:
    with pytest.raises(PreflightError) as caught:
        preflight(config)
    return caught.value.lines


def test_features_of_another_model_or_kind_are_refused(
    packed: Path, extracted: Path, tmp_path: Path
):
    config = features_config(packed, extracted, tmp_path)
    preflight(config)
    mixed = config.model_copy(
        update={"data": config.data.model_copy(update={"val": str(packed / "val")})}
    )
    assert any("holds clips" in line and "gcg extract" in line for line in wrong(mixed))
    video = clips_config(packed, tmp_path, data={"train": str(extracted / "train")})
    assert any("model.input=features" in line for line in wrong(video))
    frames = features_config(packed, extracted, tmp_path, model={"num_frames": 4, "num_moments": 2})
    assert any("features of 8 frames" in line for line in wrong(frames))
    copy = shutil.copytree(extracted / "train", tmp_path / "copy")
    index = (copy / "index.json").read_text()
    encoder = read_index(copy).features.encoder  # type: ignore[union-attr]
    (copy / "index.json").write_text(index.replace(encoder, "other-0"))
    other = config.model_copy(update={"data": config.data.model_copy(update={"train": str(copy)})})
    assert any("features of encoder other-0" in line for line in wrong(other))


def test_a_trained_image_encoder_is_refused(packed: Path, extracted: Path, tmp_path: Path):
    with pytest.raises(ConfigError, match="image encoder that stays"):
        features_config(packed, extracted, tmp_path, model={"vision": {"train": True}})
