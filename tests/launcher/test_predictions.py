"""What a run answered, written for `gcg score` and for benchmarks' own scripts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dataloaders.manifest import read_manifest
from gcg.build import build_model
from launcher.cli import main
from launcher.config import parse_run_config
from launcher.errors import UserError
from launcher.evaluation.evaluate import evaluate_split
from launcher.evaluation.names import named
from launcher.evaluation.predictions import write_predictions
from launcher.evaluation.scores import summarise
from tests.launcher.conftest import run_tree
from tests.launcher.trained_runs import trained_run


def scored(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, Any]:
    capsys.readouterr()
    assert main(["score", *map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_scoring_a_run_gives_what_evaluation_gave(
    packed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = parse_run_config(
        run_tree(packed, packed / "runs", data={"test": str(packed / "test")})
    )
    rows = evaluate_split(build_model(config.model), config, "test")
    figures = summarise(rows)
    questions = tmp_path / "test.jsonl"
    with questions.open("w") as out:
        for video in read_manifest(packed / "raw" / "test.jsonl"):
            for q in video.questions:
                row = {"video": video.id, **q.model_dump(), "answer": q.answer_index}
                out.write(json.dumps(row) + "\n")
    for benchmark in (None, "table", "nextgqa"):
        files = write_predictions(tmp_path / str(benchmark), rows, benchmark)
        found = scored(
            capsys,
            *("table", "--annotations", questions, "--predictions", files[0], "--spans", files[1]),
        )["figures"]
        assert found["Acc"] == pytest.approx(100 * figures["accuracy"])
        for ours, theirs in (("miop", "mIoP"), ("miou", "mIoU"), ("acc_gqa", "Acc@GQA")):
            assert found[theirs] == pytest.approx(100 * figures[ours])


def test_runs_that_are_called_alike_keep_apart(
    packed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither the figures nor the predictions of one may take another's place."""
    folders = [trained_run(packed, tmp_path / place).folder for place in ("a", "b")]
    assert [folder.name for folder in folders] == ["test", "test"]
    command = ["eval", *map(str, folders), "--split", "val", "--json"]
    (tmp_path / "file").write_text("")
    for out in (tmp_path, tmp_path / "file" / "x.json"):
        assert main([*command, "--out", str(out)]) == 2
        said = capsys.readouterr()
        assert said.err.startswith(f"error: --out {out}: ")
        assert "answering" not in said.err
    assert main([*command, "--write-predictions", str(tmp_path / "said")]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {name: each["run"] for name, each in found.items()} == {
        "test": str(folders[0]),
        "test-2": str(folders[1]),
    }
    assert (tmp_path / "said" / "test-2" / "predictions.json").exists()
    assert named(["a", "b", "b"], [Path("x"), Path("y"), Path("z")]) == ["a", "y", "z"]
    assert named(["a", "a", "a"], [Path("y"), Path("y"), Path("y-2")]) == ["y", "y-2", "y-2-2"]


def row(video: str, question: str, **values: Any) -> dict[str, Any]:
    given = {"type": "", "predicted": "b", "choice": None, "answer_index": None, "span": None}
    return {"video": video, "question": question, **given, **values}


def test_each_benchmark_gets_its_own_form(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    chosen = row("v", "1", choice=1, answer_index=2, type="Sequence", span=(0.0, 1.5))
    written = row("v", "2", predicted="a cat")

    def form(benchmark: str | None, *rows: dict[str, Any]) -> Any:
        return json.loads(write_predictions(tmp_path, rows, benchmark)[0].read_text())

    for name in ("nextqa", "nextgqa", "intentqa", "causalvidqa"):
        assert form(name, chosen) == {"v_1": {"prediction": 1, "answer": 2}}
    assert json.loads((tmp_path / "spans.json").read_text()) == {"v_1": [0.0, 1.5]}
    assert form("nextoe", written) == {"v": {"2": "a cat"}}
    assert form("star", chosen) == {"Sequence": [{"question_id": "1", "answer": 1}]}
    assert form("msvdqa", written) == [{"id": "2", "answer": "a cat"}]
    assert form("activitynetqa", written) == [{"question_id": "2", "answer": "a cat"}]
    skipped = {"video": "v", "question": "3", "type": "", "skipped": "did not decode"}
    assert form(None, chosen, written, skipped) == [
        {"video": "v", "question_id": "1", "prediction": 1},
        {"video": "v", "question_id": "2", "prediction": "a cat"},
    ]
    # Data without options get the general form, and a warning: the answers are not lost.
    assert form("star", written) == form(None, written)
    assert "--benchmark star: question v_2 of the data has no options" in caplog.text
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"--write-predictions .*file.*name another folder"):
        write_predictions(tmp_path / "file", [written], None)


def test_the_forms_go_through_scoring(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "val_a.json").write_text(
        json.dumps([{"question_id": "v_x-1_2", "answer": "cat", "type": 5}])
    )
    rows = [row("x-1", "v_x-1_2", predicted="cat")]
    for benchmark in (None, "activitynetqa"):
        (path,) = write_predictions(tmp_path / str(benchmark), rows, benchmark)
        given = ("activitynetqa", "--annotations", tmp_path / "val_a.json", "--predictions", path)
        assert scored(capsys, *given)["printed"]["All"] == "1.0000"
