"""From a run file to what is trained on: a mixture's parts and their budgets."""

from __future__ import annotations

from pathlib import Path

import pytest

from dataloaders.errors import DataError
from dataloaders.mixed_source import MixedSource
from dataloaders.quarantine import BadSample, Budget
from launcher.config import parse_run_config
from launcher.extract import extract
from launcher.training.data import mixture_budgets, open_train

from .conftest import run_tree


def test_each_part_of_a_mixture_has_its_own_budget_however_its_place_is_written(
    packed: Path, tmp_path: Path
):
    sets = [
        {"place": f"{packed / 'train'}/", "max_bad_share": 0.2},
        {"place": (packed / "test").as_uri(), "max_consecutive_bad": 3},
    ]
    config = parse_run_config(run_tree(packed, tmp_path, data={"train": None, "mixture": sets}))
    with open_train(config) as source:
        assert isinstance(source, MixedSource)
        # A bad clip goes under its part's name.
        first, second = (BadSample(part.name, "s", "k", "r").data for part in source.parts)
        default = config.data
        assert mixture_budgets(config, source) == {
            first: Budget(0.2, default.max_consecutive_bad),
            second: Budget(default.max_bad_share, 3),
        }
    with pytest.raises(DataError, match="features are made one set at a time"):
        extract(config, "train", tmp_path / "out")
