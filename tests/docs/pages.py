"""The commands that README and the pages of docs/ show."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
_FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"`([^`]+)`")
# Of a shell's line: what stands behind a command, or before it.
_ENDS = {"|", ">", ">>", "&&", "&", ";", "2>&1"}


@dataclass(frozen=True)
class Shown:
    """A command on a page, in words. ``whole``: it stands in a block by itself, to be typed."""

    page: Path
    words: tuple[str, ...]
    whole: bool

    def __str__(self) -> str:
        return f"{self.page.name}: {' '.join(self.words)}"


def shown_commands(page: Path) -> Iterator[Shown]:
    """Commands in blocks, and what is set as code within text."""
    text = page.read_text(encoding="utf-8")
    for language, block in _FENCE.findall(text):
        if language in ("", "sh"):
            for line in re.sub(r"\\\n\s*", " ", block).splitlines():
                for words in _split(line):
                    yield Shown(page, words, whole=True)
    for code in _CODE.findall(_FENCE.sub("", text)):
        for words in _split(" ".join(code.split())):
            yield Shown(page, words, whole=False)


def _split(line: str) -> Iterator[tuple[str, ...]]:
    """The commands of a line: with the options in brackets, without other words there."""
    line = re.sub(r"(?<![\w=])\[(-[^\]]*)\]", r"\1", line)
    line = re.sub(r"(?<![\w=])\[[A-Z][^\]]*\]", "", line).replace(";", " ; ")
    try:
        words = shlex.split(line, comments=True)
    except ValueError:  # prose with an apostrophe
        return
    command: list[str] = []
    for word in [*words, ";"]:
        if word in _ENDS:
            if command:
                yield tuple(command)
            command = []
        else:
            command.append(word)
