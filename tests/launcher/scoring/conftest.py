"""Run `gcg score` and read what it says."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from launcher.cli import main

Score = Callable[..., dict[str, Any]]
Refused = Callable[..., str]


@pytest.fixture
def score(capsys: pytest.CaptureFixture[str]) -> Score:
    """The result of a scoring that goes well, as its --json."""

    def run(*arguments: object) -> dict[str, Any]:
        capsys.readouterr()
        assert main(["score", *map(str, arguments), "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    return run


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Refused:
    """The one line in which a scoring is refused."""

    def run(*arguments: object) -> str:
        capsys.readouterr()
        assert main(["score", *map(str, arguments)]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: ")
        return line

    return run


def write(path: Path, value: Any) -> Path:
    """A file of text, or of anything else as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path
