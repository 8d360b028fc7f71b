"""Which prediction is for which question; what is missing, unknown or there twice."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from dataloaders.importers.asked import Asked
from launcher.errors import UserError
from launcher.scoring.files import Given


@dataclass(frozen=True)
class Matched:
    """A result file against the questions: by key what counts, and what does not fit."""

    given: dict[str, Given]
    missing: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    repeated: list[str] = field(default_factory=list)

    def of(self, asked: Asked) -> Given | None:
        """A question's entry; None where it has none."""
        found = self.given.get(asked.key)
        return self.given.get(asked.shared_key) if not found and asked.shared_key else found

    @property
    def whole(self) -> bool:
        return not (self.missing or self.unknown or self.repeated)


class Keys:
    """Finds the question that an entry means: by its key, its video and id, or its id alone (where
    no two videos have questions of one id)."""

    def __init__(self, asked: Sequence[Asked]) -> None:
        self._known = {each.key for each in asked} | {
            each.shared_key for each in asked if each.shared_key
        }
        alone = {each.id: each.key for each in asked}
        self._alone = alone if len(alone) == len(asked) else {}
        # Some write <video>_<id> where the benchmark's ids need no video (MSVD-QA, STAR).
        self._both = {f"{each.video}_{each.id}": each.key for each in asked}

    def __call__(self, given: Given) -> str | None:
        if given.id in self._known:
            return given.id
        if given.video is not None:
            for key in (f"{given.video}_{given.id}", f"v_{given.video}_{given.id}"):
                if key in self._known:
                    return key
            return self._both.get(f"{given.video}_{given.id}")
        return self._both.get(given.id) or self._alone.get(given.id)


def check_questions(asked: Sequence[Asked]) -> None:
    """Raises UserError: a question cannot be scored, or two have the same key."""
    first: dict[str, str] = {}
    for each in asked:
        if each.fault is not None:
            raise UserError(f"{each.place}: {each.fault}; give annotations with the right answers")
        if first.setdefault(each.key, each.place) != each.place:
            raise UserError(
                f"{each.place}: question {each.key} is already at {first[each.key]}; ids are unique"
            )


def match(asked: Sequence[Asked], given: Iterable[Given]) -> Matched:
    """Of several entries for one question the last counts, as for a repeated key in JSON."""
    find = Keys(asked)
    found = Matched({})
    for each in given:
        key = find(each)
        if key is None:
            found.unknown.append(f"{each.video}_{each.id}" if each.video else each.id)
            continue
        if key in found.given or each.repeated:
            found.repeated.append(key)
        found.given[key] = each
    found.missing.extend(each.key for each in asked if found.of(each) is None)
    return found


def first_few(keys: Sequence[Any], most: int = 3) -> str:
    more = "" if len(keys) <= most else ", ..."
    return ", ".join(str(key) for key in keys[:most]) + more
