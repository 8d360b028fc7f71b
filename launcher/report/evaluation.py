"""What `gcg eval` left of a run, and of the runs that it is held against."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launcher.errors import UserError
from launcher.evaluation.names import named
from launcher.evaluation.rows import SPLITS, EvalRows, read_rows
from launcher.report.comparison import compare, figures_of
from launcher.storage.run_folder import RunFolder, read_json


@dataclass(frozen=True)
class Evaluated:
    """One run's rows on a split; ``name``: :func:`launcher.evaluation.names.named`."""

    root: Path
    name: str
    found: EvalRows


@dataclass(frozen=True)
class Evaluation:
    """``own`` rows of the run the page is about, None without any, those of ``others``, and
    ``notes``: what is missing or does not fit, and which command makes it."""

    split: str
    own: Evaluated | None
    others: list[Evaluated]
    notes: list[str]

    @property
    def runs(self) -> list[Evaluated]:
        return self.others if self.own is None else [self.own, *self.others]


def read_evaluation(root: Path, against: Sequence[Path], split: str | None) -> Evaluation:
    """The rows of a run and of others, as far as there are any.

    Args:
        split: None: of test, val and train the first that the run has rows of.

    Raises:
        UserError: one of ``against`` is no run.
    """
    wrong = [f"--against {each}: no config.yaml there; name a run's folder"
             for each in against if not RunFolder(each).config.is_file()]  # fmt: skip
    if wrong:
        raise UserError(wrong)
    notes: list[str] = []
    split, own = _own(root, split, notes)
    found = [(root, own)] if own is not None else []
    for other in against:
        rows = _read(other, split, notes)
        found += [(other, rows)] if rows is not None else []
    names = named([rows.header.mode for _, rows in found], [place for place, _ in found])
    runs = [Evaluated(place, name, rows) for (place, rows), name in zip(found, names, strict=True)]
    notes += [note for run in runs if (note := _stale(run)) is not None]
    if own is None:
        return Evaluation(split, None, runs, notes)
    notes += [note for run in runs[1:] if (note := _elsewhere(runs[0], run)) is not None]
    return Evaluation(split, runs[0], runs[1:], notes)


def evaluation_figures(evaluation: Evaluation) -> dict[str, Any]:
    """The evaluation as plain JSON values: of each run, and how far the run is from each other."""
    runs = [
        {
            "name": run.name,
            "folder": str(run.root),
            **{key: getattr(run.found.header, key) for key in ("mode", "weights", "step")},
            **figures_of(run.found.rows),
        }
        for run in evaluation.runs
    ]
    differences = []
    if evaluation.own is not None:
        asked = evaluation.own.found.asked
        differences = [
            {"against": other.name, **compare(asked, other.found.asked)}
            for other in evaluation.others
        ]
    notes, split = evaluation.notes, evaluation.split
    return {"split": split, "notes": notes, "runs": runs, "differences": differences}


def _own(root: Path, split: str | None, notes: list[str]) -> tuple[str, EvalRows | None]:
    if split is not None:
        return split, _read(root, split, notes)
    for each in SPLITS:
        unread: list[str] = []
        rows = _read(root, each, unread, missing=False)
        if rows is not None or unread:
            notes += unread
            return each, rows
    notes.append(_missing(root, SPLITS[0]))
    return SPLITS[0], None


def _read(root: Path, split: str, notes: list[str], *, missing: bool = True) -> EvalRows | None:
    """The rows; where there are none, or none that can be read, a note says so."""
    try:
        rows = read_rows(root, split)
    except UserError as error:
        notes += error.lines
        return None
    if rows is None and missing:
        notes.append(_missing(root, split))
    return rows


def _missing(root: Path, split: str) -> str:
    return (
        f"{root}: its answers to the {split} questions are not there; "
        f"gcg eval {root} --split {split} makes them"
    )


def _stale(run: Evaluated) -> str | None:
    """Whether the run has been trained further since, or its best checkpoint is another."""
    header = run.found.header
    place = run.root / ("best.json" if header.weights == "best" else "final/meta.json")
    step = (read_json(place) or {}).get("step")
    if step is None or step == header.step:
        return None
    return (
        f"{run.root}: the answers are those of step {header.step}, its {header.weights} weights "
        f"are of step {step} now; gcg eval {run.root} --split {header.split} "
        f"--weights {header.weights} asks again"
    )


def _elsewhere(own: Evaluated, other: Evaluated) -> str | None:
    """Whether the two were asked about different data."""
    if own.found.header.fingerprint == other.found.header.fingerprint:
        return None
    return (
        f"{other.root}: answered other data ({other.found.header.data}) than this run "
        f"({own.found.header.data}); only questions that both have are compared"
    )
