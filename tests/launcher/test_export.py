"""`gcg export`: a run's folder in, a model's folder out, which says the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from gcg import GCGModel, GCGProcessor
from gcg.build import build_model
from launcher.cli import main
from launcher.config import RunConfig, dump, parse_run_config
from launcher.export.run import open_run
from launcher.storage.run_folder import RunFolder, write_text
from launcher.training.worker import run_worker
from tests.dataloaders.s3_server import S3
from tests.launcher.conftest import run_tree
from tests.launcher.trained_runs import trained_run
from tests.spawn import run_ranks

VARIANTS: dict[str, dict[str, Any]] = {
    "paper": {},
    "released": {"profile": "released"},
    "lora": {"llm": {"train": "lora"}},
    "uniform": {"mode": "uniform"},
}


def clip(packed: Path) -> Path:
    return sorted((packed / "raw").rglob("*.mp4"))[0]


def asked(model: GCGModel, processor: GCGProcessor, video: Path) -> tuple[torch.Tensor, ...]:
    """What a model makes of a real encoded clip."""
    from dataloaders.container import probe
    from dataloaders.decode import decode_frames

    data = video.read_bytes()
    count = probe(data).frame_count
    frames = decode_frames(data, processor.frame_indices(count), frame_count=count).frames
    inputs = processor(frames, ["what moves left", "what blinks"], [["a", "b"], ["c", "d", "e"]])
    found = model.answer(inputs, max_new_tokens=3)
    assert found.option_scores is not None
    assert found.tokens is not None
    return found.weights, found.selected, found.option_scores, found.tokens


@pytest.mark.parametrize(
    ("variant", "parts"),
    [("paper", "trained"), ("released", "all"), ("lora", "trained"), ("uniform", "all")],
)
def test_the_folder_says_what_the_run_says(
    packed: Path, variant: str, parts: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = trained_run(packed, tmp_path / "runs", model=VARIANTS[variant])
    out = tmp_path / "out"
    assert main(["export", str(config.folder), "--to", str(out), "--parts", parts]) == 0
    assert "from_pretrained" in capsys.readouterr().out
    run = open_run(config.folder)
    before, after = run.model(), GCGModel.from_pretrained(out)
    assert all(torch.equal(v, after.state_dict()[k]) for k, v in before.state_dict().items())
    mine = asked(before, GCGProcessor(config.model), clip(packed))
    theirs = asked(after, GCGProcessor.from_pretrained(out), clip(packed))
    assert all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))


def test_the_page_has_figures_and_fingerprints(packed: Path, tmp_path: Path) -> None:
    config = trained_run(packed, tmp_path / "runs", model={"llm": {"train": "lora"}})
    results = tmp_path / "results.json"
    assert main(["eval", str(config.folder), "--out", str(results)]) == 0
    command = ["export", str(config.folder), "--to", str(tmp_path / "out")]
    assert main([*command, "--results", str(results)]) == 0
    page = (tmp_path / "out" / "README.md").read_text()
    _, front, text = page.split("---\n", 2)
    assert yaml.safe_load(front)["library_name"] == "gcg-train"
    figures = json.loads(results.read_text())["grounding"]
    assert f"| val split | {100 * figures['accuracy']:.1f} |" in text
    assert "| validation in training, step 4 | 25.0 |" in text
    assert f"| data fingerprint | `{'d' * 16}` |" in text
    assert "`adapter/` is the language model's LoRA adapter" in text
    assert "the tiny encoders, which ship with the package" in text
    described = json.loads((tmp_path / "out" / "config.json").read_text())
    assert described["run"]["step"] == 4
    assert described["run"]["encoder_fingerprint"].startswith("tiny-")


def test_what_cannot_be_exported_is_one_line_and_leaves_nothing(
    packed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = trained_run(packed, tmp_path / "runs")
    run, out = str(config.folder), tmp_path / "out"
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").write_text("x")
    (tmp_path / "other.json").write_text("{}")
    (tmp_path / "broken.json").write_text("{")
    for arguments, rule in (
        ([str(tmp_path), "--to", str(out)], "no config.yaml there"),
        ([run, "--to", str(tmp_path / "taken")], "is there already; give a new folder"),
        ([run, "--to", "s3://bucket/x"], "is a URL; export to a folder"),
        ([run, "--to", str(out), "--weights", "best"], "best.json: not there yet"),
        ([run, "--to", str(out), "--weights", "last"], "checkpoints: not there yet"),
        ([run, "--to", str(out), "--results", str(tmp_path / "other.json")], "holds no figures of"),
        ([run, "--to", str(out), "--results", str(tmp_path / "broken.json")], "cannot be read"),
    ):
        assert main(["export", *arguments]) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert line.startswith("error: ")
        assert rule in line
        assert not out.exists()
        assert not list(tmp_path.glob("*.partial"))


def test_a_run_in_an_object_store(packed: Path, tmp_path: Path, s3: S3) -> None:
    config = trained_run(packed, tmp_path / "runs")
    url = s3.upload(config.folder, "export/run")
    assert main(["export", url, "--to", str(tmp_path / "there")]) == 0
    assert main(["export", str(config.folder), "--to", str(tmp_path / "here")]) == 0
    for name in ("model.safetensors", "README.md", "config.json"):
        one, other = (tmp_path / place / name for place in ("here", "there"))
        assert one.read_bytes() == other.read_bytes(), name


def train_both(config: RunConfig) -> None:
    run_worker(config, lambda figures: None)


@pytest.mark.slow
def test_a_run_that_was_trained(packed: Path, tmp_path: Path) -> None:
    """By two ranks, ZeRO-2, with adapters: its last checkpoint is what its final weights are."""
    tree = run_tree(
        packed,
        tmp_path / "runs",
        model={"profile": "released", "llm": {"train": "lora"}},
        scale={"num_workers": 2},
    )
    config = parse_run_config(tree)
    write_text(RunFolder(config.folder).config, dump(config))
    run_ranks(train_both, 2, config, preloaded=True)
    models = []
    for weights in ("final", "last", "best"):
        out = tmp_path / weights
        command = ["export", str(config.folder), "--to", str(out), "--weights", weights]
        assert main(command) == 0
        models.append(GCGModel.from_pretrained(out).state_dict())
    final, last, _ = models
    assert all(torch.equal(value, last[name]) for name, value in final.items())
    fresh = build_model(config.model, config.run.seed).state_dict()
    moved = {name for name, value in final.items() if not torch.equal(value, fresh[name])}
    assert any(".lora_B." in name for name in moved)
    assert any(name.startswith("generator.") for name in moved)
    assert not any(name.startswith(("vision.", "text.")) for name in moved)
    page = (tmp_path / "last" / "README.md").read_text()
    assert "| validation in training, step 4 |" in page


def test_weights_that_do_not_fit_are_said(packed: Path, tmp_path: Path) -> None:
    config = trained_run(packed, tmp_path / "runs")
    path = config.folder / "config.yaml"
    tree = yaml.safe_load(path.read_text())
    tree["model"]["num_moments"] = 3
    path.write_text(yaml.safe_dump(tree))
    assert main(["export", str(config.folder), "--to", str(tmp_path / "out")]) == 2
