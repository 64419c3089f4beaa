"""Every way the page can look: accessible, within a small screen, and harmless whatever the ledger contains."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from axe_playwright_python.sync_playwright import Axe

from browser import screenshots, states
from browser.page_server import TOKEN, PageServer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from playwright.sync_api import Browser, Page

    from browser.conftest import Visitor

    Visit = Callable[..., Visitor]

SCHEMES = ("light", "dark")
# WCAG 2.2 A and AA, and axe's own best practices.
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]


def faults(page: Page) -> list[str]:
    """Return what axe finds wrong with the page in its current state."""
    found = Axe().run(page, options={"runOnly": RULES, "resultTypes": ["violations"]}).response
    return [f"{rule['id']}: {rule['help']}: {[node['html'] for node in rule['nodes']]}" for rule in found["violations"]]


def is_too_wide(page: Page) -> bool:
    wide: bool = page.evaluate("document.documentElement.scrollWidth > innerWidth")
    return wide


@pytest.mark.thorough
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("state", states.ALL)
def test_each_state_is_accessible_and_fits_a_small_screen(visit: Visit, state: str, scheme: str) -> None:
    # The test injects axe into the page, which the page's own policy rightly forbids.
    page = visit(color_scheme=scheme, bypass_csp=True).page
    with PageServer(states.ALL[state]) as server:
        for width in (1280, 360):
            page.set_viewport_size({"width": width, "height": 900})
            page.goto(f"{server.url}/admin")
            assert not is_too_wide(page), width
            assert faults(page) == [], width


@pytest.mark.thorough
@pytest.mark.sampled(2)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_logging_in_is_accessible(visit: Visit, scheme: str) -> None:
    page = visit(color_scheme=scheme, bypass_csp=True, viewport={"width": 360, "height": 700}).page
    with PageServer(states.UP_TO_DATE, TOKEN) as server:
        page.goto(f"{server.url}/admin")
        assert faults(page) == []
        page.get_by_label("Token").fill("wrong")
        page.get_by_role("button", name="Log in").click()
        page.get_by_role("alert").wait_for()
        assert faults(page) == []
        assert not is_too_wide(page)
        page.get_by_label("Token").fill(TOKEN)
        page.get_by_role("button", name="Log in").click()
        page.get_by_role("heading", level=1, name="Up to date").wait_for()
        assert faults(page) == []


@pytest.mark.thorough
def test_an_inaccessible_page_would_be_found(visit: Visit) -> None:
    page = visit(bypass_csp=True).page
    with PageServer(states.UP_TO_DATE) as server:
        page.goto(f"{server.url}/admin")
        # Otherwise the live part repairs it.
        page.get_by_role("button", name="Pause").click()
        page.evaluate("document.querySelector('img').removeAttribute('alt'); document.body.style.color = '#ddd'")
        assert {fault.partition(":")[0] for fault in faults(page)} >= {"image-alt", "color-contrast"}
        page.set_viewport_size({"width": 360, "height": 700})
        page.evaluate("document.querySelector('h1').style.width = '500px'")
        assert is_too_wide(page)


@pytest.mark.parametrize("javascript", [True, pytest.param(False, marks=pytest.mark.thorough)])
def test_what_the_ledger_holds_is_text(visit: Visit, javascript: bool) -> None:  # noqa: FBT001 - a case
    visitor = visit(java_script_enabled=javascript)
    page = visitor.page
    with PageServer(states.EMPTY) as server:
        page.goto(f"{server.url}/admin")
        server.cache.snapshot = states.HOSTILE
        if javascript:
            # First as it arrives through the live part, in a page that is already open.
            page.get_by_role("heading", name="Needs attention").wait_for()
            check_hostile(page)
        page.goto(f"{server.url}/admin")
        check_hostile(page)
    assert visitor.complaints == []
    assert visitor.hosts == {server.url.removeprefix("http://")}


def check_hostile(page: Page) -> None:
    """Look for the attacks, which must be readable as text, and for any effect of them."""
    assert page.title() != "owned"
    assert page.locator("script").count() == 1
    assert page.locator("img, iframe, object, embed, base, [onerror], [onload], [onfocus], [autofocus]").count() == 1
    assert page.locator("a[href^='javascript']").count() == 0
    text = page.locator("main").text_content() or ""
    for attack in states.ATTACKS[:7]:
        # Once among the applied ones, and once each as a failed file, its message, and a pending one.
        assert text.count(attack) >= 4, attack
    assert states.RIGHT_TO_LEFT not in text
    assert "invoice⟨U+202E⟩lqs.exe" in text
    assert "bell⟨U+0007⟩ null⟨U+0000⟩ escape⟨U+001B⟩[31m line⟨U+2028⟩separator tag⟨U+E0041⟩" in text
    assert "longlonglong" in text
    assert "19800 more characters" in text
    # Nothing overflows.
    assert not is_too_wide(page)


@pytest.mark.thorough
def test_the_pictures_are_made_by_a_command(browser: Browser, tmp_path: Path) -> None:
    made = screenshots.take(browser, tmp_path, ["up-to-date"])
    assert {path.name for path in made} == {
        f"admin-{name}-{scheme}.png" for name in ("up-to-date", "log-in", "small") for scheme in SCHEMES
    }
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in made)
    # Those that the documentation shows, and not too many bytes of them.
    wanted = {f"admin-{name}-{scheme}.png" for name in (*screenshots.SHOWN, "log-in", "small") for scheme in SCHEMES}
    shown = list(screenshots.IMAGES.glob("admin-*.png"))
    assert {path.name for path in shown} == wanted
    assert sum(path.stat().st_size for path in shown) < 2_000_000


def test_a_bar_of_which_nobody_knows_the_end_moves_and_is_not_empty(visit: Visit) -> None:
    moving = "getComputedStyle(document.querySelector('progress:indeterminate')).animationName"
    ground = "getComputedStyle(document.querySelector('progress:indeterminate')).backgroundImage"
    for motion, name in (("no-preference", "along"), ("reduce", "none")):
        page = visit(reduced_motion=motion).page
        with PageServer(states.UNMEASURED) as server:
            page.goto(f"{server.url}/admin")
            work = page.get_by_role("region", name="Running now")
            bar = work.get_by_role("progressbar", name="PostgreSQL's progress")
            assert bar.get_attribute("value") is None
            assert (page.evaluate(moving), "gradient" in page.evaluate(ground)) == (name, True)
            # The only statement of a file is not half done.
            assert work.get_by_role("progressbar").count() == 1
            assert "statement 1 of 1" in work.inner_text()
            # Once the progress is known, the same bar shows it.
            server.cache.snapshot = states.MIGRATING
            work.get_by_text("62 % of this phase").wait_for()
            assert bar.get_attribute("value") == "62"


def test_a_long_version_is_cut_and_has_a_title(visit: Visit) -> None:
    page = visit(viewport={"width": 1280, "height": 900}).page
    version = "1.3.0+build.20261116.0557.gb2d91c03"
    with PageServer(states.STRANGER) as server:
        page.goto(f"{server.url}/admin")
        shown = page.get_by_title(version)
        assert shown.inner_text() == version
        assert shown.evaluate("(it) => it.scrollWidth > it.clientWidth && it.clientWidth > 100")
        short = page.get_by_title("1.0.0").first
        assert short.evaluate("(it) => it.scrollWidth <= it.clientWidth")


def test_what_failed_comes_first(visit: Visit) -> None:
    page = visit().page
    with PageServer(states.FAILED) as server:
        page.goto(f"{server.url}/admin")
        assert page.locator("main > section").evaluate_all("them => them.map(it => it.dataset.key)") == [
            *("banner", "problems", "overview", "pending", "timeline")
        ]
        files = page.get_by_role("region", name="Needs attention").locator("p.file bdi").all_inner_texts()
        assert files == ["013_invoices.sql", "004_networks_and_ip_addresses.sql"]
