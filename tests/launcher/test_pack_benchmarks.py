"""`gcg pack --from NAME`: a benchmark's files and real clips become shards with its questions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dataloaders.manifest import Question
from dataloaders.shard_source import ShardSource
from launcher.cli import main
from tests.dataloaders.clips import clip

KINDS = ("descriptive", "explanatory", "predictive", "counterfactual")
CHOICES = [{"choice_id": n, "choice": text} for n, text in enumerate(["bag", "dog"])]
ITEM = {"question": "what is it?", "answer": "bag"}
CAUSAL = {k: {"question": k, "answer": list("abcde"), "reason": list("vwxyz")} for k in KINDS}
# Name, annotations by file, the one to name, the clip's file, and (id, type, answer, split).
CASES: list[tuple[str, dict[str, Any], str, str, tuple[str, str, str, str | None]]] = [
    (
        "star",
        {"STAR_val.json": [{**ITEM, "question_id": "Sequence_T1_1", "video_id": "6H78U",
                            "start": 0.5, "end": 1, "choices": CHOICES}]},
        "STAR_val.json", "6H78U.mp4", ("Sequence_T1_1", "Sequence", "bag", "val"),
    ),
    (
        "msrvttqa",
        {"train_qa.json": [{**ITEM, "id": 7, "video_id": 12, "category_id": 1}]},
        "train_qa.json", "video12.mp4", ("7", "what", "bag", "train"),
    ),
    (
        "activitynetqa",
        {"test_q.json": [{"video_name": "x-1", "question": "q", "question_id": "v_x-1_1"}],
         "test_a.json": [{"answer": "bag", "type": 5, "question_id": "v_x-1_1"}]},
        "test_q.json", "v_x-1.mp4", ("v_x-1_1", "object", "bag", "test"),
    ),
    (
        "causalvidqa",
        {"QA/k_7/text.json": CAUSAL,
         "QA/k_7/answer.json": {k: {"answer": 0, "reason": 1} for k in KINDS}},
        "QA", "k_7.mp4", ("0", "description", "a", None),
    ),
    (
        "table", {"mine.jsonl": {"video": "pan.mp4", **ITEM}}, "mine.jsonl", "pan.mp4",
        ("0", "", "bag", None),
    ),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "files", "annotations", "video", "expected"), CASES, ids=[case[0] for case in CASES]
)
def test_pack(
    tmp_path: Path,
    name: str,
    files: dict[str, Any],
    annotations: str,
    video: str,
    expected: tuple[str, str, str, str | None],
) -> None:
    for file, value in files.items():
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(json.dumps(value))
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / video).write_bytes(clip())
    given = ["--annotations", str(tmp_path / annotations), "--videos", str(tmp_path / "videos")]
    out = tmp_path / "out"
    assert main(["pack", str(out), "--from", name, *given]) == 0
    with ShardSource(out) as source:
        record = source.read_record(0, source.entries(0)[0])
    assert record.frame_count == 60
    question: Question = record.questions[0]
    assert (question.id, question.type, question.answer, question.split) == expected
    assert question.spans == ([(0.5, 1.0)] if name == "star" else None)


def test_what_goes_with_no_benchmark(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, none = str(tmp_path / "out"), str(tmp_path / "none.jsonl")
    assert main(["pack", none, out, "--from", "star"]) == 2
    assert f"MANIFEST: {none}: goes with no --from star" in capsys.readouterr().err
    assert main(["pack", out, "--from", "star"]) == 2
    assert "--from star: needs --annotations F and --videos DIR" in capsys.readouterr().err
    assert main(["pack", out, "--from", "star", "--features", none]) == 2
    assert "--features: goes with a manifest" in capsys.readouterr().err
    assert main(["pack", none, out, "--split", "val"]) == 2
    assert "--split: only goes with a benchmark's name" in capsys.readouterr().err
