"""A run's answers and moments as result files that `gcg score` and benchmarks' own scripts read."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from launcher.errors import UserError

log = logging.getLogger(__name__)

ANSWERS, SPANS = "predictions.json", "spans.json"
Row = Mapping[str, Any]
# Result files of these are {"<video>_<question>": {"prediction": place, "answer": place}}.
_BY_KEY = ("nextqa", "nextgqa", "intentqa", "causalvidqa")


def write_predictions(folder: Path, rows: Sequence[Row], benchmark: str | None) -> list[Path]:
    """Write what was answered, and the spans where there are any; returns the files.

    Args:
        folder: made if need be.
        rows: of ``evaluate_split``; skipped questions are in no file, so scoring misses them.
        benchmark: a name of `gcg score`, whose own form the answers get; None: a list of objects
            with video, question and prediction, which all names take. So it is, with a warning,
            where a question has no options and the benchmark's have.

    Raises:
        UserError: the folder cannot be written.
    """
    answered = [row for row in rows if "skipped" not in row]
    open_ended = next((row for row in answered if row["choice"] is None), None)
    if open_ended is not None and benchmark in (*_BY_KEY, "star"):
        log.warning(
            "--benchmark %s: question %s of the data has no options: the answers get the general "
            "form, which `gcg score` reads too",
            benchmark, _key(open_ended),
        )  # fmt: skip
        benchmark = None
    spans = {_key(row): row["span"] for row in answered if row["span"] is not None}
    files = {folder / ANSWERS: _answers(answered, benchmark)}
    if spans:
        files[folder / SPANS] = spans
    make_folder(folder)
    for path, value in files.items():
        try:
            path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
        except OSError as error:
            raise UserError(f"{path}: {error.strerror}; name another folder") from None
    return list(files)


def make_folder(folder: Path) -> None:
    """Raises UserError: it cannot be made. Called before hours of answering, too."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"--write-predictions {folder}: {error.strerror}; name another folder"
        ) from None


def _key(row: Row) -> str:
    return f"{row['video']}_{row['question']}"


def _answers(rows: Sequence[Row], benchmark: str | None) -> Any:
    if benchmark in _BY_KEY:
        return {
            _key(row): {"prediction": row["choice"], "answer": row["answer_index"]} for row in rows
        }
    if benchmark == "nextoe":
        by_video: dict[str, dict[str, str]] = {}
        for row in rows:
            by_video.setdefault(row["video"], {})[row["question"]] = row["predicted"]
        return by_video
    if benchmark == "star":
        by_type: dict[str, list[dict[str, Any]]] = {}
        for row in rows:
            entry = {"question_id": row["question"], "answer": row["choice"]}
            by_type.setdefault(row["type"], []).append(entry)
        return by_type
    if benchmark in ("msvdqa", "msrvttqa"):
        return [{"id": row["question"], "answer": row["predicted"]} for row in rows]
    if benchmark == "activitynetqa":
        return [{"question_id": row["question"], "answer": row["predicted"]} for row in rows]
    return [
        {
            "video": row["video"],
            "question_id": row["question"],
            "prediction": row["predicted"] if row["choice"] is None else row["choice"],
        }
        for row in rows
    ]
