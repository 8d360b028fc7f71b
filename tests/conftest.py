"""Fixtures every room's tests may use."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.dataloaders.s3_server import S3, s3_server

# Shared machines stall now and then: a slow example is no failure, and examples are not random.
settings.register_profile("gcg", deadline=None, derandomize=True)
settings.load_profile("gcg")

ROOT = Path(__file__).resolve().parents[1]

# Before anything imports torch: files of tests beside one another on the same cores, each with as
# many threads as there are cores, take twice the time.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real clips and annotations beside the checkout, where there is one."""
    folder = Path(os.environ.get("GCG_SHARED", ROOT.parent / "shared"))
    if not (folder / "videos").is_dir():
        pytest.skip(f"no real test data: {folder} is absent (set GCG_SHARED to its place)")
    return folder


@pytest.fixture(scope="module")
def s3() -> Iterator[S3]:
    """A real S3 server behind a proxy that can spoil answers; the environment points to it."""
    pytest.importorskip("moto", reason="needs moto and s3fs: pip install -e '.[dev]'")
    pytest.importorskip("s3fs", reason="needs moto and s3fs: pip install -e '.[dev]'")
    with s3_server() as server:
        yield server


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown() -> None:
    """Some encoders make a process of root's real-time (SVT-AV1): what it starts later, a browser
    or a compiler, would keep everything else on the machine from running."""
    if sys.platform == "linux" and os.sched_getscheduler(0) != os.SCHED_OTHER:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest file first: else it is still running when all others are done."""
    items.sort(key=lambda item: item.path.name != "test_ray_job.py")
