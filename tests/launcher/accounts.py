"""Checks ``questions.jsonl``, the account of what a run was trained on."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from dataloaders.manifest import read_manifest
from launcher.config import RunConfig
from launcher.observe.lines import read_lines
from launcher.storage.run_folder import RunFolder
from launcher.training.data import build_plan, open_train

Pair = tuple[str, str]


def check_account(config: RunConfig, manifest: Path) -> dict[int, Counter[Pair]]:
    """Every step is there once, its questions are the plan's, and none is asked twice in an epoch.

    Returns:
        By epoch, how often each (video, question) was asked.
    """
    rows = list(read_lines(RunFolder(config.folder).questions))
    assert [row["step"] for row in rows] == list(range(1, config.optim.steps + 1))
    seen: dict[int, Counter[Pair]] = {}
    with open_train(config) as source:
        plan = build_plan(config, source)
        position = (0, 0)
        for row in rows:
            assert (row["epoch"], row["batch"]) == position, row
            assert row["left_out"] is None
            assert len(row["visits"]) == config.data.global_batch
            seen.setdefault(row["epoch"], Counter()).update(pairs(row))
            position = plan.advance(*position)
        whole = {(v.id, q.id) for v in read_manifest(manifest) for q in v.questions}
        for epoch, counts in seen.items():
            assert max(counts.values()) == 1, (epoch, counts.most_common(3))
            assert counts.keys() <= whole
            if epoch < position[0]:  # it has ended: only the plan's leftover was not asked
                missing = len(whole) - len(counts)
                least = most = plan.leftover(epoch)
                assert least <= missing <= most * config.data.questions_per_visit
    return seen


def pairs(row: dict[str, Any]) -> list[Pair]:
    return [(video, question) for video, questions in row["visits"] for question in questions]
