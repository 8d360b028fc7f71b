"""What scoring says: a benchmark's figures, and how well the result files fit its questions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from launcher.scoring.match import Matched, first_few


@dataclass(frozen=True)
class Figure:
    """One official figure: percent or a share as the benchmark prints it, with so many digits.

    ``value`` is None where there is nothing to take it of; ``count`` is of how many questions.
    """

    name: str
    value: float | None
    count: int
    digits: int = 2

    @property
    def printed(self) -> str:
        return "-" if self.value is None else f"{self.value:.{self.digits}f}"


@dataclass(frozen=True)
class Result:
    """The figures of a result file.

    ``files`` are the result files by option, ``rules`` say how the benchmark counts what is
    missing in each, ``notes`` are what else a reader of the figures has to know.
    """

    benchmark: str
    num_questions: int
    figures: Sequence[Figure]
    files: dict[str, Matched]
    rules: dict[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()

    @property
    def whole(self) -> bool:
        return all(matched.whole for matched in self.files.values())

    def lines(self) -> list[str]:
        width = max(len(figure.name) for figure in self.figures)
        lines = [f"{self.benchmark}: {self.num_questions} questions"]
        lines += [f"{f.name:<{width}}  {f.printed:>7}  of {f.count}" for f in self.figures]
        for option, matched in self.files.items():
            lines.append(
                f"{option}: {len(matched.given)} fit; {len(matched.missing)} missing, "
                f"{len(matched.unknown)} unknown, {len(matched.repeated)} duplicate"
            )
            lines += self._misfits(option, matched)
        return lines + [f"note: {note}" for note in self.notes]

    def _misfits(self, option: str, matched: Matched) -> list[str]:
        found = (
            ("missing", matched.missing, self.rules.get(option, "counted as wrong")),
            ("unknown", matched.unknown, "in no figure"),
            ("duplicate", matched.repeated, "the last entry counts"),
        )
        return [f"  {what} ({rule}): {first_few(keys)}" for what, keys, rule in found if keys]

    def as_json(self) -> dict[str, Any]:
        return {
            "benchmark": self.benchmark,
            "questions": self.num_questions,
            "figures": {f.name: f.value for f in self.figures},
            "printed": {f.name: f.printed for f in self.figures},
            "counts": {f.name: f.count for f in self.figures},
            "files": {
                option: {
                    "fit": len(m.given),
                    "missing": m.missing,
                    "unknown": m.unknown,
                    "duplicate": m.repeated,
                }
                for option, m in self.files.items()
            },
            "rules": self.rules,
            "notes": list(self.notes),
        }


def percent(name: str, right: int, count: int, digits: int = 2) -> Figure:
    """A share in percent, computed in the order of the benchmarks' scripts so that it rounds
    alike."""
    return Figure(name, right * 100.0 / count if count else None, count, digits)


def tally(
    asked: Sequence[Any], right: Sequence[bool], group: Callable[[Any], str | None]
) -> dict[str, tuple[int, int]]:
    """How many are right, and how many there are, by group; None is in no group."""
    found: dict[str, tuple[int, int]] = {}
    for each, correct in zip(asked, right, strict=True):
        name = group(each)
        if name is not None:
            hits, count = found.get(name, (0, 0))
            found[name] = hits + correct, count + 1
    return found
