"""Finding a model's weights among a checkpoint's: other spellings, shapes, one line per fault."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from gcg.weights.tensors import Rows, Weight

log = logging.getLogger(__name__)


@dataclass
class Lookup:
    """A checkpoint's tensors while a model's are taken from it.

    ``problems`` collects a line for each tensor that is missing or has another shape; ``remedy``
    ends each of them.
    """

    place: Path
    tensors: dict[str, Weight]
    remedy: str
    problems: list[str] = field(default_factory=list)
    used: set[str] = field(default_factory=set)

    def find(self, keys: Iterable[str]) -> Weight | None:
        """The first of several spellings that the checkpoint has."""
        for key in keys:
            if key in self.tensors:
                self.used.add(key)
                return self.tensors[key]
        return None

    def take(
        self, keys: Iterable[str], shape: tuple[int, ...], *, more_rows: bool = False
    ) -> Weight | None:
        """The tensor under one of ``keys``, of ``shape``; None, and a problem, where it is not.

        ``more_rows``: the checkpoint's may be longer. Vocabularies are padded with rows that no
        token uses, and not all revisions of a checkpoint alike.
        """
        keys = list(keys)
        found = self.find(keys)
        if found is None:
            self.problems.append(f"{self.place}: has no {keys[0]}; {self.remedy}")
            return None
        if more_rows and found.shape[1:] == shape[1:] and found.shape[0] > shape[0]:
            log.info("%s: %s rows %d of %d", self.place, keys[0], shape[0], found.shape[0])
            found = Rows(found, 0, shape[0])
        if found.shape != shape:
            self.problems.append(
                f"{self.place}: {keys[0]} has shape {list(found.shape)}, the model needs "
                f"{list(shape)}; {self.remedy}"
            )
            return None
        return found

    def log_unused(self) -> None:
        """Tensors that nothing asked for are no fault: heads, buffers, other towers."""
        unused = sorted(set(self.tensors) - self.used)
        if unused:
            some = ", ".join(unused[:5])
            log.debug("%s: %d tensors unused: %s ...", self.place, len(unused), some)
