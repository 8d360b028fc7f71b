"""A check that crashes, hangs, raises or lacks a package is a finding, and what it said is kept."""

from __future__ import annotations

import pytest

from launcher.doctor.finding import Finding, Options
from launcher.doctor.isolate import Check, run_isolated

BROKEN = "tests.launcher.doctor.broken"


def run(function: str, limit_s: float = 60.0) -> list[Finding]:
    return run_isolated(Check("it", f"{BROKEN}:{function}", limit_s), Options())


def test_a_segmentation_fault_ends_one_check() -> None:
    first, last = run("crashes")
    assert first == Finding("first", "ok", "before the crash")
    assert (last.check, last.state) == ("it", "failed")
    assert last.found.startswith("crashed (SIGSEGV); its last words: Fatal Python error: Segm")
    assert last.why
    assert last.remedy


def test_a_check_that_hangs_is_ended() -> None:
    assert run("hangs", 2.0)[-1].found.startswith("no answer within 2 s")


@pytest.mark.parametrize(
    ("function", "state", "text"),
    [
        ("raises", "failed", "OSError: no such device"),
        ("lacks", "missing", "the package a_package_nobody_has is not installed"),
        ("exits", "failed", "ended with exit code 7"),
        ("is_not_there", "failed", "AttributeError: "),
    ],
)
def test_other_ends(function: str, state: str, text: str) -> None:
    last = run(function)[-1]
    assert (last.check, last.state) == ("it", state)
    assert last.found.startswith(text)
