"""`gcg export`: a run's folder in, a model's folder out, which says the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from gcg import GCGModel, GCGProcessor
from launcher.cli import main
from launcher.export.run import open_run
from tests.launcher.trained_runs import trained_run

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


def test_weights_that_do_not_fit_are_said(packed: Path, tmp_path: Path) -> None:
    config = trained_run(packed, tmp_path / "runs")
    path = config.folder / "config.yaml"
    tree = yaml.safe_load(path.read_text())
    tree["model"]["num_moments"] = 3
    path.write_text(yaml.safe_dump(tree))
    assert main(["export", str(config.folder), "--to", str(tmp_path / "out")]) == 2
