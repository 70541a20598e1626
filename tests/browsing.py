"""Pages opened in a real browser, which must neither complain nor ask for anything else."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright


@contextmanager
def started_browser() -> Iterator[Browser]:
    """Chromium; the test is skipped, and says so, where none is installed."""
    names = ("chromium", "chromium-browser", "google-chrome")
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        pytest.skip(f"no browser to open pages in: none of {', '.join(names)} is installed")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextmanager
def opened(
    browser: Browser, address: str, *allowed: str, width: int, **context: Any
) -> Iterator[Page]:
    """A page; at the end nothing complained, and only addresses that begin as allowed were asked.

    Args:
        browser: started.
        address: of the page.
        allowed: how other addresses may begin; those of data always may.
        width: of the window in pixels.
        context: further settings of the window.
    """
    opened = browser.new_context(viewport={"width": width, "height": 800}, **context)
    page = opened.new_page()
    page.set_default_timeout(10_000)
    complaints: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("dialog", lambda dialog: complaints.append(dialog.message))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(address)
    yield page
    opened.close()
    assert complaints == []
    assert {url for url in asked if not url.startswith(("data:", *allowed))} <= {address}
