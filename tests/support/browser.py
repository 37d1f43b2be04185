"""A real Chromium for tests: the one that is installed here, driven by Playwright, which downloads none."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def _without(reason: str) -> None:
    if os.environ.get("NPT_REQUIRE_BROWSER"):
        pytest.fail(reason)
    pytest.skip(reason)


@contextlib.contextmanager
def running_browser(*switches: str) -> Iterator[Browser]:
    """Start the browser; the test is skipped where there is none, and fails with NPT_REQUIRE_BROWSER=1.

    Args:
        switches: Further ones of Chromium's command line.
    """
    path = next((found for name in NAMES if (found := shutil.which(name))), None)
    if path is None:
        _without("no Chromium is installed; on Debian and Ubuntu: apt install chromium")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        _without("playwright is not installed; it is in requirements-dev.lock")
    sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []  # as root Chromium's sandbox cannot start
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=[*sandbox, *switches])
        try:
            yield browser
        finally:
            browser.close()


@dataclass
class Visit:
    """A page that is open, and what it did: URLs it asked for (not `data:`), lines of its console."""

    page: Page
    requests: list[str] = field(default_factory=list)
    console: list[str] = field(default_factory=list)


@contextlib.contextmanager
def visit(browser: Browser, url: str, *, width: int = 1100, dark: bool = False) -> Iterator[Visit]:
    """Open a page as somebody would who types its address."""
    opened = browser.new_context(viewport={"width": width, "height": 900}, color_scheme="dark" if dark else "light")
    try:
        page = opened.new_page()
        seen = Visit(page)
        page.on("request", lambda one: None if one.url.startswith("data:") else seen.requests.append(one.url))
        page.on("console", lambda one: seen.console.append(one.text))
        page.on("pageerror", lambda one: seen.console.append(str(one)))
        page.goto(url)
        yield seen
    finally:
        opened.close()
