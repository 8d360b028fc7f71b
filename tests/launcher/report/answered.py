"""Rows of an evaluation, as `gcg eval` writes them, and a run's folder that holds some."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from launcher.config import dump
from launcher.evaluation.rows import Header, Row, write_rows
from launcher.storage.run_folder import RunFolder, write_text
from tests.launcher.toy import toy_config

FRAMES = 4


def header(**changes: Any) -> Header:
    values = {
        "split": "test", "mode": "grounding", "weights": "final", "step": 4, "seed": 0,
        "data": "nowhere", "fingerprint": "f", "sigma": 0.1, "grid": [0.25, 0.5, 0.75, 1.0],
        "questions": 0,
    }  # fmt: skip
    return Header(**{**values, **changes})


def answered(video: str, question: str, **changes: Any) -> Row:
    """A clip of 8 s; the question is answered from its second quarter, where the answer is."""
    row: Row = {
        "video": video, "question": question, "type": "what", "text": "What happens?",
        "options": ["a", "b"], "scores": [-1.0, -2.0], "predicted": "a", "answer": "a",
        "choice": 0, "answer_index": 0, "correct": True, "selected": [1], "moments": [1],
        "weights": [0.2, 1.0, 0.2, 0.0],
        "centers": [0.5], "times": [1.0, 3.0, 5.0, 7.0], "span": [2.0, 4.0],
        "gold": [[2.0, 4.0]], "duration": 8.0,
    }  # fmt: skip
    return {**row, **changes}


def skipped(video: str, question: str) -> Row:
    return {"video": video, "question": question, "type": "what", "skipped": "damaged: at 3"}


def run_with(root: Path, rows: list[Row], **changes: Any) -> RunFolder:
    """A run that has a run file and these rows."""
    folder = RunFolder(root)
    write_text(folder.config, dump(toy_config(root.parent)))
    write_rows(root, header(questions=len(rows), **changes), rows)
    return folder
