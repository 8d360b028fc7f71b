"""Causal-VidQA, STAR, open answers and one's own table: figures by hand."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest

from dataloaders.importers.star import TYPES

from .conftest import Score, write


def test_causal_vidqa_is_right_only_with_the_reason(
    causal: Path, score: Score, tmp_path: Path
) -> None:
    right = [1, 1, 1, 2, 1, 2]
    results = {f"{v}_{n}": {"prediction": right[n], "answer": right[n]}
               for v in ("v_1", "v2") for n in range(6)}  # fmt: skip
    results["v2_0"]["prediction"] = results["v2_3"]["prediction"] = 0
    results["v_1_4"]["prediction"] = 4
    path = write(tmp_path / "r.json", results)
    found = score("causalvidqa", "--annotations", causal, "--predictions", path)
    assert found["printed"] == {
        "Description": "50.00", "Explanation": "100.00", "Predictive-Answer": "100.00",
        "Predictive-Reason": "50.00", "Counterfactual-Answer": "50.00",
        "Counterfactual-Reason": "100.00", "Predictive": "50.00", "Counterfactual": "50.00",
        "Acc": "62.50",
    }  # fmt: skip
    # As the benchmark's script: from the result file alone, whatever its order.
    write(path, dict(sorted(results.items(), reverse=True)))
    alone = score("causalvidqa", "--predictions", path)
    assert alone["printed"] == found["printed"]
    assert "what is missing cannot be told" in alone["notes"][0]
    (tmp_path / "valid.pkl").write_bytes(pickle.dumps(["v2"]))
    ids = ["--annotations", causal, "--ids", tmp_path / "valid.pkl"]
    found = score("causalvidqa", *ids, "--predictions", path)
    assert found["questions"] == 6
    assert len(found["files"]["predictions"]["unknown"]) == 6


STAR = [
    {
        "question_id": f"{kind}_T1_{n}", "video_id": "6H78U", "start": 1.5, "end": 9,
        "question": "Which?", "answer": "The bag.",
        "choices": [{"choice_id": 1, "choice": "The bag."}, {"choice_id": 0, "choice": "No."}],
    }
    for n, kind in enumerate(["Interaction", *TYPES])
]  # fmt: skip


@pytest.mark.parametrize("form", ["leaderboard", "by id"])
def test_star_ranks_by_the_mean_of_its_types(score: Score, tmp_path: Path, form: str) -> None:
    keys = [item["question_id"] for item in STAR]
    chosen = dict(zip(keys, [1, 0, 1, 1, 0], strict=True))
    if form == "by id":
        results: Any = {key: {"prediction": p, "answer": 1} for key, p in chosen.items()}
    else:
        results = {kind: [{"question_id": k, "answer": p} for k, p in chosen.items() if kind in k]
                   for kind in TYPES}  # fmt: skip
    found = score(
        *("star", "--annotations", write(tmp_path / "STAR_val.json", STAR)),
        *("--predictions", write(tmp_path / "p.json", results)),
    )
    assert found["printed"] == {
        "Interaction": "50.00", "Sequence": "100.00", "Prediction": "100.00", "Feasibility": "0.00",
        "Mean": "62.50", "Overall": "60.00",
    }  # fmt: skip


WORDS = [
    {"video_id": 7010, "question": "what is it?", "answer": "cat", "id": 5, "category_id": 1},
    {"video_id": 7010, "question": "Who runs?", "answer": "man", "id": 6, "category_id": 1},
    {"video_id": 7011, "question": "is it?", "answer": "2", "id": 7, "category_id": 1},
]


def test_words_are_compared_to_the_letter(score: Score, tmp_path: Path) -> None:
    questions = write(tmp_path / "test_qa.json", WORDS)
    answers = write(tmp_path / "prediction.json", [
        {"id": 5, "answer": "cat"}, {"id": 6, "answer": "A man"}, {"id": 7, "answer": 2},
    ])  # fmt: skip
    found = score("msrvttqa", "--annotations", questions, "--predictions", answers)
    assert [found["printed"][n] for n in ("What", "Who", "When", "Other", "All")] == [
        "100.00", "0.00", "-", "100.00", "66.67",
    ]  # fmt: skip
    assert found["notes"][0].startswith("1 answers are right but for case")
    # Numbers of a vocabulary, as classifiers write them: video and id in the key.
    numbers = {"7010_5": {"prediction": 3, "answer": 3}, "7010_6": {"prediction": 1, "answer": 9}}
    found = score("msrvttqa", "--annotations", questions, "--predictions",
                  write(tmp_path / "n.json", numbers))  # fmt: skip
    assert found["printed"]["All"] == "33.33"
    assert found["files"]["predictions"]["missing"] == ["7"]
    assert found["notes"][0].startswith("2 answers are numbers")


def test_ones_own_table(score: Score, tmp_path: Path) -> None:
    table = write(
        tmp_path / "mine.tsv",
        "video\tquestion\tanswer\ttype\toptions\tstart\tend\n"
        'a\tq\tleft\twhere\t["left", "right"]\t1\t3\n'
        'a\tr\tright\twhere\t["left", "right"]\t\t\n'
        "b\ts\tThe dog.\twho\t\t2\t4\n",
    )
    predictions = write(tmp_path / "p.json", {"a_0": "right", "a_1": "right", "b_0": "dog"})
    spans = write(tmp_path / "s.json", {"a_0": [1, 2], "b_0": [0, 4]})
    given = ["table", "--annotations", table, "--predictions", predictions, "--spans", spans]
    printed = score(*given)["printed"]
    assert [printed[n] for n in ("where", "who", "Acc", "Acc@GQA", "mIoP", "mIoU")] == [
        "50.00", "100.00", "66.67", "50.0", "75.0", "50.0",
    ]  # fmt: skip


# Command (-a: --annotations, -p: --predictions), and what the line says.
