"""Fixtures every room's tests may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real clips and annotations that lies beside the checkout, where there is one."""
    folder = Path(os.environ.get("GCG_SHARED", ROOT.parent / "shared"))
    if not (folder / "videos").is_dir():
        pytest.skip(f"no real test data: {folder} is absent (set GCG_SHARED to its place)")
    return folder
