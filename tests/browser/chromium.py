"""Debian's Chromium, headless, driven by Playwright."""

from __future__ import annotations

import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING

from playwright.sync_api import sync_playwright

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser

# No sandbox, since tests may run as root, and no network access of the browser's own.
_FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    # Do not even look up names other than this machine's.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE 127.0.0.1",
)


def path() -> str | None:
    """Return the path of Chromium, if this machine has it."""
    return shutil.which("chromium")


@contextmanager
def launched() -> Iterator[Browser]:
    """Start it; at the end, stop it and all its processes."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path(), args=list(_FLAGS), headless=True)
        try:
            yield browser
        finally:
            browser.close()
