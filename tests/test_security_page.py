"""Every threat in docs/security.md names tests, and those are there."""

from __future__ import annotations

import re

from tests.conftest import ROOT

PAGE = (ROOT / "docs" / "security.md").read_text()
# `launcher/test_x.py::test_y`, `launcher/test_x.py`, or `…::test_y` of the file most are in.
MOST = "dataloaders/test_hostile_data.py"
CITED = re.compile(r"`(?:([\w/]+/test_\w+\.py)|…)(?:::(test_\w+))?`")


def test_the_tests_it_names_are_there() -> None:
    cited = CITED.findall(PAGE)
    assert len(cited) > 20
    for file, test in cited:
        text = (ROOT / "tests" / (file or MOST)).read_text()
        assert not test or f"def {test}(" in text, (file, test)


def test_every_threat_names_some() -> None:
    parts = re.split(r"^## (\d.*)$", PAGE, flags=re.MULTILINE)[1:]
    assert len(parts) == 12
    for title, body in zip(parts[::2], parts[1::2], strict=True):
        assert CITED.search(body), title
        assert "Left to the platform" in body, title
