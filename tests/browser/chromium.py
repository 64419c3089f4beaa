"""Debian's Chromium, headless, driven by Playwright."""

from __future__ import annotations

import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING

from playwright.sync_api import sync_playwright

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser

# No sandbox, as tests may run as root, and nothing that asks for the network by itself.
_FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    # Names that are not this machine's are not even looked up.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE 127.0.0.1",
)


def path() -> str | None:
    """Return where Chromium is, if it is on this machine."""
    return shutil.which("chromium")


@contextmanager
def launched() -> Iterator[Browser]:
    """Start it; end it and all that belongs to it."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path(), args=list(_FLAGS), headless=True)
        try:
            yield browser
        finally:
            browser.close()
