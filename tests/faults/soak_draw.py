"""Which faults a soak has, and when: a function of its seed alone."""

from __future__ import annotations

import random
from typing import NamedTuple

KINDS = (
    "a worker killed",
    "all workers killed",
    "a worker asked to leave",
    "a worker stopped",
    "a node lost",
    "a node drained",
    "the command killed",
    "the command asked to leave",
    "the newest checkpoint damaged, all workers killed",
    "all workers killed in a save",
    "the storage refuses",
)
GAPS = (5, 9)  # steps from one fault to the next, least and most


class Fault(NamedTuple):
    """``step``: it comes as soon as so many updates have been made; ``choice``: whom or what it
    hits, by its remainder."""

    kind: str
    step: int
    choice: int


def draw(seed: int, number: int) -> list[Fault]:
    """As many faults, in the order they come; every kind is there before any comes again."""
    generator = random.Random(seed)
    kinds: list[str] = []
    while len(kinds) < number:
        kinds += generator.sample(KINDS, len(KINDS))
    faults, step = [], 0
    for kind in kinds[:number]:
        step += generator.randint(*GAPS)
        faults.append(Fault(kind, step, generator.randrange(1000)))
    return faults
