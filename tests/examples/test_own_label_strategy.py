"""A strategy that somebody else wrote: labels are made by it, and training takes them."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
import torch
import yaml

from dataloaders.labels import LabelSet
from examples.own_label_strategy import Lasting, main
from gcg.labels import Evidence
from launcher.cli import main as gcg
from tests.launcher.conftest import packed, run_tree

__all__ = ["packed"]  # the fixture


def test_a_moment_that_lasts_wins_over_a_single_frame():
    row = torch.tensor([[0.0, 0.9, 0.0, 0.0, 0.6, 0.7, 0.6, 0.0]])
    evidence = Evidence(row, row, torch.zeros(7), torch.zeros(1, dtype=torch.int64))
    assert Lasting(reach=0).choose(evidence, 1).moments.tolist() == [[1]]
    found = Lasting(reach=1).choose(evidence, 1)
    assert found.moments.tolist() == [[5]]
    torch.testing.assert_close(found.similarity[0, [0, 5, 7]], torch.tensor([0.3, 1.9 / 3, 0.2]))


def test_its_labels_are_made_and_trained_on(
    packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):  # fmt: skip
    data = tmp_path / "train"
    shutil.copytree(packed / "train", data, ignore=shutil.ignore_patterns("labels"))
    tree = run_tree(packed, tmp_path / "runs", data={"train": str(data), "labels": "lasting"})
    config = tmp_path / "run.yaml"
    config.write_text(yaml.safe_dump(tree))
    monkeypatch.setattr(sys, "argv", ["", str(data), "--config", str(config), "--reach", "2"])
    main()
    assert capsys.readouterr().out.startswith(f"{data / 'labels' / 'lasting'}: ")
    labels = LabelSet(data / "labels" / "lasting")
    assert labels.meta.strategy == "lasting"
    assert labels.meta.options == {"reach": 2}
    assert gcg(["train", str(config), "--dry-run"]) == 0
