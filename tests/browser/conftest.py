"""A headless Chromium for the pages that people look at."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

# Chromium asks servers of its maker for nothing, neither through its own services nor over QUIC
QUIET_FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)


def chromium() -> str | None:
    """The installed browser."""
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    executable = chromium()
    if executable is None:
        pytest.skip("no Chromium on PATH: pages are not looked at (`apt install chromium fonts-dejavu-core`)")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=executable, args=list(QUIET_FLAGS))
        yield started
        started.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """An empty page that fails its test when a script on it throws."""
    opened = browser.new_page(viewport={"width": 1280, "height": 900})
    failures: list[str] = []
    opened.on("pageerror", lambda error: failures.append(str(error)))
    yield opened
    opened.close()
    assert not failures, failures


@pytest.fixture
def report_page(tmp_path: Path) -> Path:
    """Where a test writes the page that it opens."""
    return tmp_path / "a report.html"
