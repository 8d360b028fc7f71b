"""The commands as functions, and the page that shows them."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import yaml

from launcher.api import evaluate, export, load, predict, train
from launcher.errors import UserError
from launcher.predict.predictor import Predictor
from tests.conftest import ROOT
from tests.launcher.trained_runs import trained_run

PAGE = ROOT / "docs" / "python.md"


def blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)


def clip(packed: Path) -> Path:
    return sorted((packed / "raw").rglob("*.mp4"))[0]


def test_the_page_s_examples(
    packed: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """In a folder with a run that is complete, so that `train` has nothing left to do."""
    config = trained_run(packed, tmp_path / "runs")
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    shutil.copy(clip(packed), tmp_path / "clip.mp4")
    monkeypatch.chdir(tmp_path)
    assert len(blocks()) == 3
    for block in blocks():
        exec(compile(block, str(PAGE), "exec"), {})
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith(("it moves left", "it blinks"))
    assert said[1] == "torch.Size([2, 8]) torch.Size([2, 2])"
    assert len(said) == 1 + 3 + 2


def test_in_other_forms(packed: Path, tmp_path: Path) -> None:
    config = trained_run(packed, tmp_path / "runs", model={"mode": "uniform"})
    assert train(config.model_dump(mode="json"), dry_run=True) is None
    run = train(config)
    assert run is not None
    figures = evaluate([config.folder], "val")
    assert figures["uniform"]["num_questions"] > 0
    folder = export(str(config.folder), tmp_path / "out", "all", dtype="bf16")
    model, processor = load(folder)
    assert processor.num_frames == 8
    predictor = Predictor(model, processor)
    one = predict(predictor, clip(packed), "what moves", ["a", "b"])
    both = predict(config.folder, clip(packed), ["what moves", "who"], [["a", "b"], None])
    assert [len(one), len(both)] == [1, 2]
    assert one[0].prediction.selected == both[0].prediction.selected
    assert both[1].prediction.probabilities is None
    oracle = predict(
        config.folder, clip(packed), "what moves", ["a", "b"], mode="oracle", answers="a"
    )
    assert oracle[0].mode == "oracle"


def test_what_does_not_fit(packed: Path, tmp_path: Path) -> None:
    config = trained_run(packed, tmp_path / "runs")
    with pytest.raises(UserError, match="change the mapping instead"):
        train(config, ["optim.lr=1"])
    with pytest.raises(UserError, match=r"config\.yaml"):
        evaluate(tmp_path / "nothing")
    with pytest.raises(ValueError, match="options: 1 lists for 2"):
        predict(config.folder, clip(packed), ["a", "b"], [["x", "y"]])
    with pytest.raises(ValueError, match="answers: 1 for 2 questions"):
        predict(config.folder, clip(packed), ["a", "b"], answers=["x"])
    with pytest.raises(ValueError, match="the predictor asks in mode grounding; leave it out"):
        predict(Predictor.load(config.folder), clip(packed), "a", mode="uniform")
