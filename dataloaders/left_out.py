"""``quarantine.jsonl`` of a packed data set: what is not in it, and why."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from dataloaders.bad_questions import BadQuestion
from dataloaders.index import write_atomic
from dataloaders.ingest import BadVideo

QUARANTINE_NAME = "quarantine.jsonl"


def write_quarantine(
    out: Path, videos: Iterable[BadVideo], questions: Iterable[BadQuestion] = ()
) -> None:
    """One line a clip (with ``path``) or question (with ``place``, its file and line)."""
    rows: list[dict[str, object]] = [
        {"data": str(out), "stage": "pack", "shard": None, "key": v.key, "path": v.path,
         "reason": v.reason, "num_questions": v.num_questions}
        for v in videos
    ]  # fmt: skip
    rows += [
        {"data": str(out), "stage": "pack", "shard": None, "key": q.video, "question": q.question,
         "place": q.place, "reason": q.reason, "num_questions": 1}
        for q in questions
    ]  # fmt: skip
    write_atomic(out / QUARANTINE_NAME, "".join(json.dumps(row) + "\n" for row in rows))


def read_quarantine(out: Path) -> tuple[tuple[BadVideo, ...], tuple[BadQuestion, ...]]:
    """What :func:`write_quarantine` wrote; nothing where the file is lost or damaged."""
    try:
        lines = (out / QUARANTINE_NAME).read_text(encoding="utf-8").splitlines()
        rows = [json.loads(line) for line in lines]
        videos = tuple(
            BadVideo(r["key"], r["path"], r["reason"], int(r["num_questions"]))
            for r in rows
            if "path" in r
        )
        questions = tuple(
            BadQuestion(r["place"], r["key"], r["question"], r["reason"])
            for r in rows
            if "place" in r
        )
    except (OSError, ValueError, KeyError, TypeError):
        return (), ()
    return videos, questions
