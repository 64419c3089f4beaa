"""Fixtures: one Chromium for a module's tests, and pages that collect what went wrong in them."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from browser import chromium
from conftest import missing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from playwright.sync_api import Browser, BrowserContext, Dialog, Page


class Visitor:
    """Somebody with a separate browser window: its pages, its cookies, and everything the browser complained about."""

    def __init__(self, browser: Browser, **options: object) -> None:
        """Open a window; `options` are those of Playwright's `new_context`."""
        self.context: BrowserContext = browser.new_context(locale="en-GB", **options)  # type: ignore[arg-type]
        self.complaints: list[str] = []
        self.hosts: set[str] = set()
        self.requests: list[str] = []
        self.context.on("console", lambda message: self._note("console", message.type, message.text))
        self.context.on("weberror", lambda error: self._note("error", "error", str(error.error)))
        self.context.on("dialog", self._dismiss)
        self.context.on("request", lambda request: self._asked(request.url))
        self.page: Page = self.context.new_page()
        self.page.set_default_timeout(15_000)

    def _note(self, source: str, kind: str, text: str) -> None:
        if kind in {"error", "warning"}:
            self.complaints.append(f"{source}: {text}")

    def _dismiss(self, dialog: Dialog) -> None:
        self._note("dialog", "error", dialog.message)
        dialog.dismiss()

    def _asked(self, url: str) -> None:
        self.requests.append(url)
        self.hosts.add(urlsplit(url).netloc)

    def without(self, *expected: str) -> list[str]:
        """Return the complaints, except those that contain one of `expected`."""
        return [one for one in self.complaints if not any(words in one for words in expected)]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Start Chromium. Playwright's event loop ends with it, since other modules may have their own."""
    if chromium.path() is None:
        missing("no Chromium `chromium` for the tests of the page")
    with chromium.launched() as browser:
        yield browser


@pytest.fixture
def visit(browser: Browser) -> Iterator[Callable[..., Visitor]]:
    """Return a function that opens a separate browser window: `visit(java_script_enabled=False)`."""
    visitors: list[Visitor] = []

    def open_window(**options: object) -> Visitor:
        visitors.append(Visitor(browser, **options))
        return visitors[-1]

    yield open_window
    for visitor in visitors:
        visitor.context.close()


@pytest.fixture
def visitor(visit: Callable[..., Visitor]) -> Visitor:
    """Return somebody with an ordinary browser."""
    return visit()
