"""What runs are called that stand side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath


def named(modes: Sequence[str], places: Sequence[PurePath]) -> list[str]:
    """A name for each run: its mode, its folder's name where modes repeat, and a number behind
    that where it is another's as well. No two are alike, and each can be a file's name.

    >>> named(["oracle", "uniform", "uniform"], [PurePath(p) for p in ("a/x", "a/y", "b/y")])
    ['oracle', 'y', 'y-2']
    """
    names: list[str] = []
    for mode, place in zip(modes, places, strict=True):
        name = first = mode if modes.count(mode) == 1 else place.name or mode
        number = 1
        while name in names:
            number += 1
            name = f"{first}-{number}"
        names.append(name)
    return names
