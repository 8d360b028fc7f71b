from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dataloaders.errors import DataError
from dataloaders.manifest import Question, read_manifest
from dataloaders.shards import pack
from gcg.build import build_model
from launcher.config import RunConfig, parse_run_config
from launcher.evaluation.evaluate import evaluate_split, normalise_answer
from launcher.evaluation.scores import summarise
from tests.launcher.conftest import run_tree

MODES = ["grounding", "uniform", "oracle"]


def with_mode(packed: Path, mode: str, **data: Any) -> RunConfig:
    data = {"test": str(packed / "test"), **data}
    tree = run_tree(packed, packed / "runs", model={"mode": mode}, data=data)
    return parse_run_config(tree)


@pytest.mark.parametrize("mode", MODES)
def test_every_question_once(packed: Path, mode: str) -> None:
    config = with_mode(packed, mode)
    rows = evaluate_split(build_model(config.model), config, "test")
    asked = [(v.id, q.id) for v in read_manifest(packed / "raw" / "test.jsonl")
             for q in v.questions]  # fmt: skip
    assert sorted((row["video"], row["question"]) for row in rows) == sorted(asked)
    figures = summarise(rows)
    assert figures["num_questions"] == len(asked)
    assert 0 <= figures["miou"] <= figures["miop"] <= 1
    if mode == "uniform":
        assert all(row["span"] == (0.0, pytest.approx(row["duration"])) for row in rows)


@pytest.mark.parametrize("world_size", [2, 3, 7])
def test_ranks_together_answer_what_one_answers(packed: Path, world_size: int) -> None:
    config = with_mode(packed, "grounding", questions_per_visit=2)
    model = build_model(config.model)
    whole = evaluate_split(model, config, "train")
    parts = [
        row
        for rank in range(world_size)
        for row in evaluate_split(model, config, "train", rank, world_size)
    ]
    assert [(r["video"], r["question"], r["predicted"]) for r in parts] == [
        (r["video"], r["question"], r["predicted"]) for r in whole
    ]


def test_training_mode_is_restored(packed: Path) -> None:
    config = with_mode(packed, "uniform")
    model = build_model(config.model).train()
    evaluate_split(model, config, "val", max_videos=1)
    assert model.training


def test_open_questions_are_answered_by_generation(packed: Path, tmp_path: Path) -> None:
    manifest = packed / "raw" / "val.jsonl"
    rows = [
        video.model_copy(
            update={"questions": [Question(id="o", question="What happens?", answer="a thing")]}
        )
        for video in read_manifest(manifest)
    ]
    pack(rows, tmp_path / "open", root=manifest.parent)
    config = with_mode(packed, "uniform", val=str(tmp_path / "open"))
    (row, *_) = evaluate_split(build_model(config.model), config, "val")
    assert isinstance(row["predicted"], str)
    assert row["correct"] == (normalise_answer(row["predicted"]) == "thing")
    assert row["gold"] is None


def test_oracle_needs_labels(packed: Path, tmp_path: Path) -> None:
    manifest = packed / "raw" / "val.jsonl"
    pack(read_manifest(manifest), tmp_path / "bare", root=manifest.parent)
    config = with_mode(packed, "oracle", val=str(tmp_path / "bare"))
    with pytest.raises(DataError, match="gcg label"):
        evaluate_split(build_model(config.model), config, "val")


def test_a_split_that_is_not_configured(packed: Path) -> None:
    config = with_mode(packed, "uniform", test=None)
    with pytest.raises(DataError, match=r"data\.test"):
        evaluate_split(build_model(config.model), config, "test")


@pytest.mark.parametrize(
    ("one", "other"),
    [("The red circle.", "red circle"), ("A  Dog!", "dog"), ("moves-left", "moves left")],
)
def test_open_answers_are_compared_by_their_words(one: str, other: str) -> None:
    assert normalise_answer(one) == normalise_answer(other)
