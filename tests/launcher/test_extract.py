"""`gcg extract`, and training on what it writes: the same plan, batches, losses and answers."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from dataloaders.batch import Batch
from dataloaders.errors import DataError
from dataloaders.index import read_index
from dataloaders.labels import LabelSet
from dataloaders.loader import Loader
from dataloaders.open_source import open_source
from gcg.build import build_model
from launcher.build import build_parts
from launcher.cli import main
from launcher.config import ConfigError, RunConfig, dump, load_run_config, parse_run_config
from launcher.data import build_loader
from launcher.errors import PreflightError
from launcher.evaluate import evaluate_split
from launcher.extract import extract
from launcher.label import label_data
from launcher.preflight import preflight
from launcher.run_folder import RunFolder
from launcher.runlog import read_metrics
from launcher.worker import run_worker
from tests.spawn import run_ranks

from .conftest import MODEL, run_tree

FP32: dict[str, Any] = {"engine": {"micro_batch": 2, "precision": "fp32"}}


@pytest.fixture(scope="module")
def made(packed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``train`` and ``val`` in fp32, ``half`` the training features in fp16."""
    root = tmp_path_factory.mktemp("features")
    config = clips_config(packed, root)
    for split in ("train", "val"):
        extract(config, split, root / split, dtype="fp32")
    extract(config, "train", root / "half")
    return root


def clips_config(packed: Path, storage: Path, **sections: dict[str, Any]) -> RunConfig:
    return parse_run_config(run_tree(packed, storage, **{**FP32, **sections}))


def features_config(
    packed: Path, made: Path, storage: Path, train: str = "train", **sections: dict[str, Any]
) -> RunConfig:
    tree = run_tree(packed, storage, **{**FP32, **sections})
    tree["data"] |= {"train": str(made / train), "val": str(made / "val")}
    tree["model"] = {**tree["model"], "input": "features"}
    return parse_run_config(tree)


def loader_of(config: RunConfig, folder: Path) -> tuple[Any, Loader]:
    parts = build_parts(config.model, build_model(config.model, config.run.seed))
    _, loader = build_loader(config, parts, 0, 1, folder / "quarantine.jsonl")
    return parts.model, loader


def micro_batches(config: RunConfig, folder: Path, steps: int) -> tuple[Any, list[Batch]]:
    model, loader = loader_of(config, folder)
    with loader:
        return model, [batch for _ in range(steps) for batch in next(loader).micro]


def assert_same_but_frames(one: Batch, other: Batch) -> None:
    for name, value in one.model_inputs().items():
        if name not in ("pixel_values", "frame_tokens", "frame_embeddings"):
            theirs = getattr(other, name)
            if value is None:
                assert theirs is None, name
            else:
                assert torch.equal(value, theirs), name
    assert torch.equal(one.meta.times, other.meta.times)
    metas = [replace(batch.meta, times=None) for batch in (one, other)]  # type: ignore[arg-type]
    assert metas[0] == metas[1]


@pytest.mark.parametrize("train", ["train", "half"])
def test_losses_and_gradients_are_those_of_the_clips(
    packed: Path, made: Path, tmp_path: Path, train: str
):
    video, clips = micro_batches(clips_config(packed, tmp_path), tmp_path, 2)
    config = features_config(packed, made, tmp_path, train)
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
    packed: Path, made: Path, tmp_path: Path
):
    """Given the pixels in the groups they were extracted in, the same to the bit."""
    config = clips_config(packed, tmp_path)
    model = build_model(config.model)
    with open_source(packed / "val") as clips, open_source(made / "val") as features:
        pixels = in_order(config, clips)
        stored = in_order(features_config(packed, made, tmp_path), features)
    for batch, kept in zip(pixels, stored, strict=True):
        encoded = model.encode(batch.pixel_values, batch.question_ids, batch.question_mask)
        assert kept.frame_tokens is not None
        assert kept.frame_embeddings is not None
        assert torch.equal(encoded.tokens, kept.frame_tokens)
        assert torch.equal(encoded.joint, kept.frame_embeddings)


def in_order(config: RunConfig, source: Any) -> list[Batch]:
    from dataloaders.eval_loader import EvalLoader
    from launcher.build import build_coders, build_collator
    from launcher.data import build_decoder

    loader = EvalLoader(
        source,
        build_collator(config.model, build_coders(config.model), 0),
        build_decoder(config, 96, source),
        num_frames=config.model.num_frames,
        questions_per_visit=100,  # one visit a clip
        micro_batch=config.engine.micro_batch,
    )
    return [batch for batch in loader if batch is not None]


def test_answers_and_spans_are_those_of_the_clips(packed: Path, made: Path, tmp_path: Path):
    config = clips_config(packed, tmp_path)
    rows = evaluate_split(build_model(config.model), config, "val")
    config = features_config(packed, made, tmp_path)
    assert evaluate_split(build_model(config.model), config, "val") == rows


def test_a_run_on_features_resumes_to_the_bit(packed: Path, made: Path, tmp_path: Path):
    config = features_config(packed, made, tmp_path)
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


def test_shards_mirror_the_clips_and_labels_come_along(packed: Path, made: Path):
    with open_source(packed / "train") as clips, open_source(made / "half") as features:
        assert [s.name for s in clips.shards] == [s.name for s in features.shards]
        for number in range(len(clips.shards)):
            keys = [entry.key for entry in clips.entries(number)]
            assert [entry.key for entry in features.entries(number)] == keys
            assert clips.read_record(number, clips.entries(number)[0]) == features.read_record(
                number, features.entries(number)[0]
            )
        labels = LabelSet(made / "half" / "labels" / "topk")
        labels.check(data=features.fingerprint)
        stem = clips.shards[0].stem
        assert dict(labels.for_shard(stem)) == dict(
            LabelSet(packed / "train" / "labels" / "topk").for_shard(stem)
        )


def test_labels_of_features_are_those_of_the_clips(packed: Path, made: Path, tmp_path: Path):
    copy = shutil.copytree(made / "val", tmp_path / "val")
    shutil.rmtree(copy / "labels")
    config = clips_config(packed, tmp_path).model
    folder = label_data(copy, config).folder
    ours, theirs = LabelSet(folder), LabelSet(packed / "val" / "labels" / "topk")
    assert ours.meta.encoder == theirs.meta.encoder
    with open_source(copy) as source:
        for shard in source.shards:
            rows, expected = ours.for_shard(shard.stem), theirs.for_shard(shard.stem)
            assert {k: v.moments for k, v in rows.items()} == {
                k: v.moments for k, v in expected.items()
            }


def test_what_is_there_is_not_made_again(packed: Path, made: Path, tmp_path: Path):
    out = shutil.copytree(made / "train", tmp_path / "out")
    config = clips_config(packed, tmp_path)
    before = read_index(out)
    assert extract(config, "train", out, dtype="fp32").made == 0
    victim = min(out.glob("*.tar"))
    lost = len(victim.with_name(f"{victim.stem}.index.jsonl").read_text().splitlines())
    victim.unlink()
    (out / "index.json").unlink()
    victim.with_name(f"{victim.name}.partial").write_bytes(b"cut short")
    assert extract(config, "train", out, dtype="fp32").made == lost
    assert read_index(out) == before
    with pytest.raises(DataError, match="--overwrite"):
        extract(config, "train", out)
    assert extract(config, "train", out, overwrite=True).made > lost


def test_parts_together_make_the_whole(packed: Path, made: Path, tmp_path: Path):
    config, out = clips_config(packed, tmp_path), tmp_path / "out"
    assert extract(config, "train", out, dtype="fp32", part=(2, 2)).num_bytes is None
    assert extract(config, "train", out, dtype="fp32", part=(1, 2)).num_bytes is not None
    assert read_index(out) == read_index(made / "train")


def test_a_bad_clip_keeps_its_place_and_is_a_bad_sample(packed: Path, tmp_path: Path):
    data = shutil.copytree(packed / "train", tmp_path / "data")
    with open_source(data) as source:
        entry = source.entries(0)[1]
        tar = data / source.shards[0].name
        damaged = bytearray(tar.read_bytes())
        damaged[entry.video.offset + entry.video.size // 2] ^= 0xFF
        tar.write_bytes(bytes(damaged))
    out = tmp_path / "out"
    sections: dict[str, Any] = {"model": {**MODEL, "mode": "uniform"}}
    sections["data"] = {"train": str(data), "max_bad_share": 1.0}
    clips = clips_config(packed, tmp_path, **sections)
    assert extract(clips, "train", out).bad == 1
    model = {**sections["model"], "input": "features"}
    features = clips_config(
        packed, tmp_path, data={"train": str(out), "max_bad_share": 1.0}, model=model
    )
    kept = []
    for name, config in {"clips": clips, "features": features}.items():
        kept.append(micro_batches(config, tmp_path / name, 12)[1])
    for one, other in zip(*kept, strict=True):
        assert_same_but_frames(one, other)
    clips_bad, features_bad = (
        (tmp_path / name / "quarantine.jsonl").read_text().splitlines()
        for name in ("clips", "features")
    )
    assert len(clips_bad) == len(features_bad) > 0
    assert all("could not be read" in line for line in features_bad)


def wrong(config: RunConfig) -> list[str]:
    with pytest.raises(PreflightError) as caught:
        preflight(config)
    return caught.value.lines


def run_all(configs: list[RunConfig]) -> None:
    for config in configs:
        run_worker(config, lambda figures: None)


def test_whole_runs_on_two_workers_learn_what_the_clips_teach(
    packed: Path, made: Path, tmp_path: Path
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
        "features": features_config(packed, made, tmp_path, **sections, engine=engine),
        "sharded": features_config(
            packed, made, tmp_path, **sections, engine={**engine, "zero": 3}
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


def test_features_of_another_model_or_kind_are_refused(packed: Path, made: Path, tmp_path: Path):
    config = features_config(packed, made, tmp_path)
    preflight(config)
    mixed = config.model_copy(
        update={"data": config.data.model_copy(update={"val": str(packed / "val")})}
    )
    assert any("holds clips" in line and "gcg extract" in line for line in wrong(mixed))
    video = clips_config(packed, tmp_path, data={"train": str(made / "train")})
    assert any("model.input=features" in line for line in wrong(video))
    frames = features_config(packed, made, tmp_path, model={"num_frames": 4, "num_moments": 2})
    assert any("features of 8 frames" in line for line in wrong(frames))
    copy = shutil.copytree(made / "train", tmp_path / "copy")
    index = (copy / "index.json").read_text()
    encoder = read_index(copy).features.encoder  # type: ignore[union-attr]
    (copy / "index.json").write_text(index.replace(encoder, "other-0"))
    other = config.model_copy(update={"data": config.data.model_copy(update={"train": str(copy)})})
    assert any("features of encoder other-0" in line for line in wrong(other))


def test_a_trained_image_encoder_is_refused(packed: Path, made: Path, tmp_path: Path):
    with pytest.raises(ConfigError, match="image encoder that stays"):
        features_config(packed, made, tmp_path, model={"vision": {"train": True}})


def test_the_command(packed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run = tmp_path / "run.yaml"
    run.write_text(dump(clips_config(packed, tmp_path)))
    out = tmp_path / "out"
    assert main(["extract", str(run), str(out), "--split", "val"]) == 0
    said = capsys.readouterr().out
    assert "carried over" in said
    assert "model.input=features" in said
    assert main(["extract", str(run), str(tmp_path / "x"), "--part", "3/2"]) == 2
    again = ["extract", str(run), str(tmp_path / "x"), "--set", f"data.train={out}"]
    assert main(again) == 2
    assert "holds features already" in capsys.readouterr().err
    assert load_run_config(run).model.input == "video"
