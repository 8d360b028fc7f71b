"""A real browser, and what it is asked about a page."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

_BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """The system's Chromium, without a window."""
    api = pytest.importorskip("playwright.sync_api", reason="needs gcg-train[browser]")
    names = filter(None, (os.environ.get("GCG_BROWSER"), *_BROWSERS))
    program = next(filter(None, map(shutil.which, names)), None)
    if program is None:
        pytest.skip("no Chromium is installed (or name a browser with GCG_BROWSER)")
    with api.sync_playwright() as playwright:
        # Its sandbox needs rights that containers do not give; all it opens is our own page.
        running = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield running
        running.close()


def faults(page: Any) -> dict[str, str]:
    """What axe-core finds, with its weight."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    return {each["id"]: each["impact"] for each in axe.run(page).response["violations"]}


def beyond(page: Any) -> list[str]:
    """What reaches over the window's right edge, but for what scrolls in a box of its own."""
    return page.evaluate(
        """() => [...document.querySelectorAll('body *')].filter(each => {
            const box = each.closest('.wide, pre');
            const inside = box && box !== each && getComputedStyle(box).overflowX === 'auto';
            return !inside && each.getBoundingClientRect().right > innerWidth + 1;
        }).map(each => `${each.tagName}.${each.getAttribute('class')}`)"""
    )
