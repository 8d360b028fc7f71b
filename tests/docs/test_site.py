"""The pages as a site: every page is there, every link leads somewhere, no network to read it."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from launcher.commands.usage import EXAMPLES
from launcher.config import RunConfig
from tests.conftest import ROOT

# What a browser fetches by itself; a link that is followed by hand is none.
_FETCHED = re.compile(
    r"""<(?:script|img|iframe)[^>]*\ssrc=["']?(https?:)?//|<link[^>]*stylesheet[^>]*https?://"""
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    for name in ("material", "mkdocstrings"):
        if importlib.util.find_spec(name) is None:
            pytest.skip("mkdocs-material is absent: pip install 'gcg-train[docs]'")
    out = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(out)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True, text=True, timeout=280,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return out


def text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def test_every_page_is_there(site: Path):
    pages = {path.stem for path in (ROOT / "docs").glob("*.md")}
    assert pages | {"commands", "settings"} <= {path.stem for path in site.glob("*.html")}


def test_reading_it_needs_no_network(site: Path):
    for path in site.glob("*.html"):
        assert not _FETCHED.search(text(path)), path.name


def test_every_command_and_every_setting_is_there(site: Path):
    commands, settings = text(site / "commands.html"), text(site / "settings.html")
    for name in EXAMPLES:
        assert f"gcg {name}" in commands
    for name, section in RunConfig.model_fields.items():
        assert f'id="{name}"' in settings
        for setting in getattr(section.annotation, "model_fields", {}):
            assert setting in settings


def test_the_model_is_there_with_its_shapes(site: Path):
    page = text(site / "api.html")
    assert 'id="gcg.model.GCGModel"' in page
    assert "(P, T)" in page
