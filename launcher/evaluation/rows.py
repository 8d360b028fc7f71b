"""What an evaluation leaves in a run's folder: a row a question, for the run's page.

``eval/<split>.jsonl`` begins with a line that says which weights answered what; the rows follow in
the data set's order, as :func:`launcher.evaluation.evaluate.evaluate_split` makes them in detail.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, model_validator

from dataloaders.manifest import describe
from launcher.errors import UserError
from launcher.storage.places import refused
from launcher.storage.run_folder import write_text

ROWS_VERSION = 1
SPLITS = ("test", "val", "train")
Row = dict[str, Any]
T = TypeVar("T")

_FROZEN = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
Seconds = tuple[float, float]


class Header(BaseModel):
    """Which weights answered what: of ``step``, ``weights`` final, best or last, in ``mode``;
    ``seed`` is the run's, ``data`` the place of the split and ``fingerprint`` its content's.

    ``grid``: where the T frames lie in [0, 1], as the Gaussians of width ``sigma`` see them.
    """

    model_config = _FROZEN

    version: int = ROWS_VERSION
    split: str
    mode: str
    weights: str
    step: int | None
    seed: int
    data: str
    fingerprint: str
    sigma: float = Field(gt=0)
    grid: list[float] = Field(min_length=1)
    questions: int = Field(ge=0)


class Answered(BaseModel):
    """A question that was asked; see ``evaluate_split`` and ``_details`` there. ``moments``: its
    pseudo-label frames, where the split has any."""

    model_config = _FROZEN

    video: str
    question: str
    type: str
    text: str
    options: list[str] | None
    scores: list[float] | None
    predicted: str
    choice: int | None
    answer: str
    answer_index: int | None
    correct: bool
    selected: list[int]
    moments: list[int] | None = None
    weights: list[float]
    centers: list[float]
    times: list[float]
    span: Seconds | None
    gold: list[Seconds] | None
    duration: float | None

    @model_validator(mode="after")
    def _check_lengths(self, info: ValidationInfo) -> Answered:
        for name, values in (("weights", self.weights), ("times", self.times)):
            if len(values) != info.context:
                raise ValueError(f"{name}: {len(values)} for {info.context} frames")
        if self.scores is not None and len(self.scores) != len(self.options or ()):
            raise ValueError(f"scores: {len(self.scores)} for {len(self.options or ())} options")
        for frame in (*self.selected, *(self.moments or ())):
            if not 0 <= frame < len(self.weights):
                raise ValueError(f"frame {frame}: there are {len(self.weights)}")
        return self


class Skipped(BaseModel):
    """A question whose clip does not decode; ``skipped`` says why."""

    model_config = _FROZEN

    video: str
    question: str
    type: str
    skipped: str


@dataclass(frozen=True)
class EvalRows:
    """What was read: ``rows`` as plain dicts, each an :class:`Answered` or a :class:`Skipped`."""

    header: Header
    rows: list[Row]

    @property
    def asked(self) -> list[Row]:
        return [row for row in self.rows if "skipped" not in row]


def rows_path(run: Path, split: str) -> Path:
    return run / "eval" / f"{split}.jsonl"


def write_rows(run: Path, header: Header, rows: Sequence[Mapping[str, Any]]) -> None:
    """Replace a split's rows of a run; a reader finds the old ones or the new ones.

    Raises:
        OSError: or an error of an object store's client: the storage refused.
    """
    lines = (json.dumps(row, ensure_ascii=False, separators=(",", ":")) for row in rows)
    text = "".join(f"{line}\n" for line in [header.model_dump_json(), *lines])
    write_text(rows_path(run, header.split), text)


def read_rows(run: Path, split: str) -> EvalRows | None:
    """A split's rows of a run; None where there are none.

    Raises:
        UserError: what lies there is damaged or another release's, or the storage refused.
    """
    path = rows_path(run, split)
    remedy = f"run `gcg eval {run} --split {split}` again"
    try:
        first, *lines = path.read_bytes().splitlines() or [b""]
    except FileNotFoundError:
        return None
    except Exception as error:
        why = refused(error)
        if why is None:
            raise
        raise UserError(f"{path}: cannot be read ({why})") from None
    header = _checked(partial(Header.model_validate_json, first), f"{path}:1", remedy)
    if header.version != ROWS_VERSION:
        rule = f"this release reads {ROWS_VERSION}"
        raise UserError(f"{path}: version: {header.version}: {rule}; {remedy}")
    rows = [
        _checked(partial(_row, line, header), f"{path}:{number}", remedy)
        for number, line in enumerate(lines, 2)
    ]
    if len(rows) != header.questions:
        raise UserError(f"{path}: {len(rows)} rows of {header.questions}; {remedy}")
    return EvalRows(header, rows)


def _checked(read: Callable[[], T], where: str, remedy: str) -> T:
    try:
        return read()
    except ValidationError as error:
        raise UserError(f"{where}: {describe(error)}; {remedy}") from None


def _row(line: bytes, header: Header) -> Row:
    """One row, checked.

    Raises:
        ValidationError: it breaks a rule.
    """
    skipped = b'"skipped":' in line and b'"weights":' not in line
    if skipped:
        return Skipped.model_validate_json(line).model_dump()
    return Answered.model_validate_json(line, context=len(header.grid)).model_dump()
