"""Take the pictures in docs/admin-page.md: `make screenshots`."""

# ruff: noqa: T201 - a program that prints

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from browser import chromium, states
from browser.page_server import TOKEN, PageServer

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Literal

    from playwright.sync_api import Browser

    from entrypoint.service.snapshot import Snapshot

    Scheme = Literal["light", "dark"]

IMAGES = Path(__file__).parents[2] / "docs" / "images"
SCHEMES: tuple[Scheme, ...] = ("light", "dark")
WIDTH = 1080
HEIGHT = 1080
PHONE = 360
# What was seen of the database before it went away.
BEFORE: dict[str, Snapshot] = {"database-away": states.UP_TO_DATE}
SHOWN = ("up-to-date", "pending", "migrating", "failed", "database-away")


def take(browser: Browser, directory: Path, names: Iterable[str] = SHOWN) -> list[Path]:
    """Write pictures of each state in both colour schemes, the log-in, and a small screen; return their paths."""
    directory.mkdir(parents=True, exist_ok=True)
    made = []
    for scheme in SCHEMES:
        made += [_take(browser, directory / f"admin-{name}-{scheme}.png", scheme, name) for name in names]
        made.append(_take(browser, directory / f"admin-log-in-{scheme}.png", scheme, None))
        made.append(_take(browser, directory / f"admin-small-{scheme}.png", scheme, "migrating", width=PHONE))
    return made


def _take(browser: Browser, path: Path, scheme: Scheme, name: str | None, *, width: int = WIDTH) -> Path:
    tokens = (TOKEN,) if name is None else ()
    with PageServer(BEFORE.get(name or "", states.ALL[name or "up-to-date"]), *tokens) as server:
        context = browser.new_context(
            color_scheme=scheme, viewport={"width": width, "height": 480 if name is None else HEIGHT}, locale="en-GB"
        )
        page = context.new_page()
        page.clock.set_fixed_time(datetime.fromtimestamp(states.NOW, UTC))
        # Everything is frozen, including the time of the last check: no live answer arrives, even on a slow machine.
        page.route("**/admin/live", lambda _route: None)
        page.goto(f"{server.url}/admin")
        if name in BEFORE:
            server.cache.snapshot = states.ALL[name]
            page.goto(f"{server.url}/admin")
        page.screenshot(path=path, animations="disabled")
        context.close()
    return path


if __name__ == "__main__":
    with chromium.launched() as started:
        found = take(started, Path(sys.argv[1]) if len(sys.argv) > 1 else IMAGES)
    for image in found:
        print(f"{image.stat().st_size:8} {image}")
