"""Checks that end badly, for the process around them to survive."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator

from launcher.doctor.finding import Finding, Options


def crashes(options: Options) -> Iterator[Finding]:
    yield Finding("first", "ok", "before the crash")
    ctypes.string_at(0)


def hangs(options: Options) -> Iterator[Finding]:
    yield Finding("first", "ok", "before the hang")
    threading.Event().wait()


def raises(options: Options) -> Iterator[Finding]:
    yield Finding("first", "ok", "before the error")
    raise OSError("no such\n device")


def lacks(options: Options) -> Iterator[Finding]:
    import a_package_nobody_has  # type: ignore # noqa: F401

    yield Finding("never", "ok", "")


def exits(options: Options) -> Iterator[Finding]:
    raise SystemExit(7)
    yield
