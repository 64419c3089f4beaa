"""The page in Chromium during real migrations: the live part, logging in and out, the keyboard, no JavaScript."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING

import pytest
from itsdangerous import TimestampSigner

from browser import states
from browser.page_server import TOKEN as PAGE_TOKEN
from browser.page_server import PageServer
from entrypoint.service import sessions
from kit.processes import until
from kit.web import TOKEN
from scene import Gate, Scene

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from playwright.sync_api import Page

    from browser.conftest import Visitor
    from conftest import ServerFactory
    from kit.databases import Database
    from kit.processes import Run
    from kit.web import Serving

    Visit = Callable[..., Visitor]
    Serve = Callable[..., Serving]

# The table's 200 rows fill many pages. The index build gets to row 100, and waits at the gate there.
GATE = {
    "001_orders.sql": "CREATE TABLE orders (id integer, filler text);"
    " INSERT INTO orders SELECT i, repeat('x', 1000) FROM generate_series(1, 200) i;"
    " CREATE FUNCTION pass(i integer) RETURNS integer IMMUTABLE LANGUAGE plpgsql AS"
    " $$ BEGIN IF i = 100 THEN PERFORM pg_advisory_xact_lock_shared(4711); END IF; RETURN i; END $$;",
    "002_orders_by_id.sql": "SELECT 1; CREATE INDEX orders_by_id ON orders (pass(id)); SELECT 3;",
    "003_customers.sql": "CREATE TABLE customers ();",
}
# What a browser reports when it is redirected in the middle of a request.
CONNECTION_REFUSED = "net::ERR_"


@pytest.fixture
def scene(database: Database, migrations_dir: Path, run_entrypoint: Callable[..., Run]) -> Scene:
    scene = Scene(database, migrations_dir, run_entrypoint)
    scene.write(GATE)
    scene.start("migrate", "--to", "1", APP_VERSION="1.4.0").ok()
    return scene


def log_in(page: Page, url: str, token: str) -> None:
    page.goto(f"{url}/admin")
    page.get_by_label("Token").fill(token)
    page.get_by_role("button", name="Log in").click()
    page.locator("#headline").wait_for()


def headline(page: Page) -> str:
    return page.locator("h1").inner_text()


def await_headline(page: Page, words: str) -> None:
    page.get_by_role("heading", level=1, name=words).wait_for()


def url_of(service: Serving) -> str:
    return f"http://{service.host}:{service.port}"


# What a screen reader would say, and a mark that a reload would remove.
LISTEN = """
    window.said = [];
    for (const region of document.querySelectorAll('[role=status], [role=alert], [aria-live]'))
        new MutationObserver(() => said.push(region.textContent)).observe(region, {childList: true, subtree: true});
"""


def said(page: Page) -> list[str]:
    """Return what a screen reader was given to say since `LISTEN`. Fails if the page has been reloaded since."""
    found: list[str] = page.evaluate("window.said")
    return found


# --- While a migration runs -------------------------------------------------------------------------------


def test_pending_turns_to_up_to_date_while_a_migration_runs(scene: Scene, serve: Serve, visitor: Visitor) -> None:
    service, page = serve(scene.database.url), visitor.page
    log_in(page, url_of(service), TOKEN)
    assert headline(page) == "2 migrations are pending"
    assert "schema: version 1, 2 pending" in (page.locator("#badge").get_attribute("alt") or "")
    icon, badge = page.locator("#icon").get_attribute("href"), page.locator("#badge").get_attribute("src")
    page.evaluate(LISTEN)

    with Gate(scene.database) as gate:
        run = scene.start("migrate", APP_VERSION="1.5.0")
        gate.arrival()
        await_headline(page, "Migrating to version 3")
        work = page.get_by_role("region", name="Running now")
        work.get_by_text("002_orders_by_id.sql").wait_for()
        work.get_by_text("CREATE INDEX on orders: building index: scanning table").wait_for()
        # PostgreSQL says which command it is running, and only one statement begins with that.
        work.get_by_text("CREATE INDEX orders_by_id ON orders (pass(id))").wait_for()
        of_file = work.get_by_role("progressbar", name="Statements of this file")
        assert (of_file.get_attribute("value"), of_file.get_attribute("max")) == ("0", "3")
        # PostgreSQL has not yet sent the first statement's small result.
        assert re.search(r"statement 1 or later of 3, for \d+ s", work.inner_text())
        share = work.get_by_role("progressbar", name="PostgreSQL's progress").get_attribute("value")
        assert share is not None
        assert 30 < int(share) < 70
        assert f"process {run.pid}" in work.inner_text()
        # The clock advances, second by second.
        shown = work.inner_text()
        until(lambda: work.inner_text() != shown, 10)
        pending = page.get_by_role("region", name="Pending")
        assert re.sub(r"\s+", " ", pending.inner_text()) == (
            "Pending 2 002_orders_by_id.sql running now 003_customers.sql pending"
        )

    await_headline(page, "Up to date")
    run.ok()
    rows = page.get_by_role("table").get_by_role("row")
    assert [text.split()[0] for text in rows.all_inner_texts()[-3:]] == ["003", "002", "001"]
    assert "1.5.0" in rows.all_inner_texts()[-2]
    assert page.get_by_role("region", name="Running now").count() == 0
    assert re.fullmatch(r"Up to date · \S+ on \S+:\d+ as \S+, schema public", page.title())
    assert page.locator("#icon").get_attribute("href") != icon
    assert page.locator("#badge").get_attribute("src") != badge
    assert "schema: version 3, up to date" in (page.locator("#badge").get_attribute("alt") or "")
    # Without a reload, and without a word at each tick.
    assert said(page) == ["Migrating to version 3", "Up to date"]
    assert visitor.complaints == []
    assert visitor.hosts == {url_of(service).removeprefix("http://")}


@pytest.mark.thorough
def test_a_failure_is_shown_as_it_happens(scene: Scene, serve: Serve, visitor: Visitor) -> None:
    scene.write({"002_orders_by_id.sql": "SELECT 1;\nALTER TABLE customer ADD COLUMN name text;"})
    service, page = serve(scene.database.url), visitor.page
    log_in(page, url_of(service), TOKEN)
    page.evaluate(LISTEN)
    assert scene.migrate().code == 70
    await_headline(page, "Migration 002 has failed")
    problem = page.get_by_role("region", name="Needs attention")
    message = problem.get_by_role("region", name="Error in 002_orders_by_id.sql")
    assert 'relation "customer" does not exist' in message.inner_text()
    assert "entrypoint repair --failed" in problem.inner_text()
    # Patching the page leaves the message alone, including its focus and scroll position.
    message.focus()
    page.evaluate("document.activeElement.marked = true")
    scene.write({"001_orders.sql": "SELECT 'another text';"})
    problem.get_by_text("its checksum is different").wait_for()
    assert page.evaluate("document.activeElement.marked")
    scene.write({"001_orders.sql": GATE["001_orders.sql"], "002_orders_by_id.sql": "SELECT 2;"})
    scene.migrated()
    await_headline(page, "Up to date")
    # The element that had the focus is gone. The focus is not lost, but moves to the news.
    assert page.evaluate("document.activeElement.id") == "status"
    assert said(page)[0] == "Migration 002 has failed"
    assert said(page)[-1] == "Up to date"
    assert visitor.complaints == []


@pytest.mark.thorough
def test_the_service_ends_and_comes_back_under_open_pages(scene: Scene, serve: Serve, visit: Visit) -> None:
    service = serve(scene.database.url)
    visitors = [visit() for _ in range(4)]
    for visitor in visitors:
        log_in(visitor.page, url_of(service), TOKEN)
    page = visitors[0].page
    page.evaluate(LISTEN)
    began = time.monotonic()
    service.run.terminate()
    service.run.wait(10)
    assert time.monotonic() - began < 2
    lost = page.get_by_text("Lost the connection to the service; trying again.")
    lost.wait_for()
    assert page.get_by_text("Not live").is_visible()
    assert headline(page) == "2 migrations are pending"
    # It tries more than once, but reports it only once.
    asked = len(visitors[0].requests)
    until(lambda: page.evaluate("1") and len(visitors[0].requests) >= asked + 2, 20)
    serve(scene.database.url, port=service.port)
    lost.wait_for(state="hidden", timeout=30_000)
    scene.migrated()
    await_headline(page, "Up to date")
    assert len(said(page)) == 3, said(page)
    assert said(page)[0].startswith("Lost the connection to the service")
    assert said(page)[1:] == ["", "Up to date"]
    assert visitors[0].without(CONNECTION_REFUSED) == []


@pytest.mark.thorough
def test_the_database_goes_away_and_comes_back(
    fresh_server: ServerFactory, migrations_dir: Path, run_entrypoint: Callable[..., Run], serve: Serve, visit: Visit
) -> None:
    server = fresh_server()
    url = server.url()
    (migrations_dir / "001_a.sql").write_text("CREATE TABLE a ();")
    run_entrypoint("migrate", env={"DATABASE_URL": url}).ok()
    visitor = visit()
    page = visitor.page
    log_in(page, url_of(serve(url)), TOKEN)
    assert headline(page) == "Up to date"
    server.stop("immediate")
    await_headline(page, "The database cannot be reached")
    # What was last seen is still there, marked as such.
    assert "Last seen on" in page.locator("main").inner_text()
    assert page.get_by_role("table").get_by_text("001_a.sql").is_visible()
    assert page.locator("dl.facts").get_by_text("unknown").is_visible()
    server.start()
    await_headline(page, "Up to date")
    assert "Last seen on" not in page.locator("main").inner_text()
    assert visitor.complaints == []


@pytest.mark.thorough
def test_open_pages_cost_the_database_one_question_a_second(
    fresh_server: ServerFactory, migrations_dir: Path, run_entrypoint: Callable[..., Run], serve: Serve, visit: Visit
) -> None:
    server = fresh_server(log_statement="all")
    (migrations_dir / "001_a.sql").write_text("CREATE TABLE a ();")
    run_entrypoint("migrate", env={"DATABASE_URL": server.url()}).ok()
    (migrations_dir / "002_b.sql").write_text(Gate.PASS)
    service = serve(server.url())
    visitor = visit()
    log_in(visitor.page, url_of(service), TOKEN)
    pages = [visitor.context.new_page() for _ in range(11)]
    for page in pages:
        page.goto(f"{url_of(service)}/admin")
    start, began, asked = server.log_size(), time.monotonic(), len(visitor.requests)
    # Long enough for each page to ask twice.
    until(lambda: visitor.page.evaluate("1") and len(visitor.requests) - asked >= 2 * len(pages), 60)
    seconds = time.monotonic() - began
    questions = server.log_text(start).count('FROM "public".schema_migrations AS l')
    assert 1 <= questions <= seconds + 1


# --- Copying a command ------------------------------------------------------------------------------------


def test_a_command_that_is_suggested_can_be_copied(visit: Visit) -> None:
    visitor = visit(permissions=["clipboard-read", "clipboard-write"])
    page = visitor.page
    with PageServer(states.FAILED, PAGE_TOKEN) as server:
        log_in(page, server.url, PAGE_TOKEN)
        page.evaluate(LISTEN)
        suggested = page.locator("code").filter(has_text="entrypoint").all_inner_texts()
        assert suggested == ["entrypoint repair --failed", "entrypoint repair --checksums"]
        for command in suggested:
            button = page.get_by_role("button", name=f"Copy {command}")
            button.click()
            page.get_by_role("button", name=f"Copied {command}").wait_for()
            assert page.evaluate("navigator.clipboard.readText()") == command
            # Live updates leave it alone, with the focus, and then it can be copied again.
            asked = len(visitor.requests)
            until(lambda: page.evaluate("1") and len(visitor.requests) > asked, 10)  # noqa: B023
            button.wait_for()
            assert button.evaluate("(it) => it === document.activeElement")
        assert said(page) == [f"Copied: {command}" for command in suggested]
    assert visitor.complaints == []


@pytest.mark.parametrize("state", ["stranger", pytest.param("bad-files", marks=pytest.mark.thorough)])
def test_a_command_can_be_copied_where_the_browser_gives_no_clipboard(visit: Visit, state: str) -> None:
    """As over plain HTTP, from a host other than this one."""
    visitor = visit(permissions=["clipboard-read", "clipboard-write"])
    page = visitor.page
    page.add_init_script("Object.defineProperty(navigator, 'clipboard', {value: undefined})")
    with PageServer(states.ALL[state]) as server:
        page.goto(f"{server.url}/admin")
        command = {"stranger": "entrypoint unlock", "bad-files": "entrypoint check"}[state]
        page.get_by_role("button", name=f"Copy {command}").click()
        page.get_by_role("button", name=f"Copied {command}").wait_for()
        assert page.evaluate("getSelection().toString()") == command
        reader = visit(permissions=["clipboard-read", "clipboard-write"]).page
        reader.goto(f"{server.url}/admin")
        assert reader.evaluate("navigator.clipboard.readText()") == command
    assert visitor.complaints == []


# --- Logging in and out -----------------------------------------------------------------------------------


@pytest.mark.thorough
def test_logging_in_and_out(visitor: Visitor) -> None:
    page = visitor.page
    with PageServer(states.UP_TO_DATE, "another-token", PAGE_TOKEN) as server:
        page.goto(f"{server.url}/admin")
        assert page.url == f"{server.url}/admin/login"
        assert page.title() == "Log in · pg-entrypoint"
        assert "shop" not in page.locator("main").inner_text()  # nothing is shown yet
        page.get_by_label("Token").fill("a wrong token")
        page.get_by_role("button", name="Log in").click()
        assert page.get_by_role("alert").inner_text() == "Wrong token."
        assert page.get_by_label("Token").get_attribute("aria-invalid") == "true"
        assert visitor.context.cookies() == []
        page.get_by_label("Token").fill(f"  {PAGE_TOKEN} ")
        before = time.time()
        page.get_by_role("button", name="Log in").click()
        await_headline(page, "Up to date")
        assert page.url == f"{server.url}/admin"
        (cookie,) = visitor.context.cookies()
        assert cookie["httpOnly"]
        assert cookie["sameSite"] == "Strict"
        assert cookie["path"] == "/admin"
        assert not cookie["secure"]  # it would not come back over plain HTTP
        assert PAGE_TOKEN not in cookie["value"]
        assert abs(cookie["expires"] - before - sessions.LIFETIME) < 60
        assert page.evaluate("document.cookie") == ""
        page.get_by_role("button", name="Log out").click()
        page.get_by_label("Token").wait_for()
        assert visitor.context.cookies() == []
        page.goto(f"{server.url}/admin")
        assert page.url == f"{server.url}/admin/login"
    assert visitor.without("status of 403") == []
    assert visitor.hosts == {server.url.removeprefix("http://")}


class Yesterday(TimestampSigner):
    def get_timestamp(self) -> int:
        return int(time.time()) - sessions.LIFETIME - 1


def expired() -> str:
    signer = sessions._signer(PAGE_TOKEN)
    signer.__class__ = Yesterday
    return signer.sign(sessions._CONTENT).decode()


COOKIES: dict[str, Callable[[], str]] = {
    "expired": expired,
    "forged": lambda: f"{sessions.issue(PAGE_TOKEN)[:-4]}AAAA",
    "of a token that is withdrawn": lambda: sessions.issue("yesterday's token"),
}


@pytest.mark.parametrize("case", COOKIES)
@pytest.mark.thorough
def test_a_cookie_that_is_not_valid_ends_the_visit(visitor: Visitor, case: str) -> None:
    page = visitor.page
    with PageServer(states.MIGRATING, PAGE_TOKEN) as server:

        def give(cookie: str) -> None:
            visitor.context.add_cookies(
                [{"name": sessions.COOKIE, "value": cookie, "domain": "127.0.0.1", "path": "/admin"}]
            )

        give(sessions.issue(PAGE_TOKEN))
        page.goto(f"{server.url}/admin")
        await_headline(page, "Migrating to version 15")
        # The page is open. Its next request leads it to the log-in.
        give(COOKIES[case]())
        page.get_by_label("Token").wait_for()
        assert page.url == f"{server.url}/admin/login"
        page.goto(f"{server.url}/admin")
        assert page.url == f"{server.url}/admin/login"
    assert visitor.complaints == []


@pytest.mark.thorough
def test_a_link_on_another_site_leads_to_the_page(visitor: Visitor) -> None:
    page = visitor.page
    with PageServer(states.UP_TO_DATE, PAGE_TOKEN) as server:
        elsewhere = server.url.replace("127.0.0.1", "localhost")
        log_in(page, server.url, PAGE_TOKEN)
        page.goto(f"{elsewhere}/admin/login")  # any page of another site
        page.evaluate(f"location.href = '{server.url}/admin'")
        await_headline(page, "Up to date")
        visitor.context.clear_cookies()
        page.goto(f"{elsewhere}/admin/login")
        page.evaluate(f"location.href = '{server.url}/admin'")
        page.wait_for_url(f"{server.url}/admin/login")
    assert visitor.complaints == []


@pytest.mark.thorough
def test_a_form_on_another_site_logs_nobody_in_or_out(visit: Visit) -> None:
    visitor = visit(bypass_csp=True)  # on the other site's page
    page = visitor.page
    with PageServer(states.UP_TO_DATE, PAGE_TOKEN) as server:
        elsewhere = server.url.replace("127.0.0.1", "localhost")

        def send(path: str) -> None:
            page.goto(f"{elsewhere}/admin/login")
            page.evaluate(
                "([action, token]) => { const form = document.querySelector('form'); form.action = action;"
                " form.token.value = token; form.submit(); }",
                [f"{server.url}{path}", PAGE_TOKEN],
            )

        send("/admin/login")
        page.get_by_role("alert").wait_for()
        assert "Another site" in page.get_by_role("alert").inner_text()
        assert visitor.context.cookies() == []
        log_in(page, server.url, PAGE_TOKEN)
        send("/admin/logout")
        page.wait_for_url(f"{server.url}/admin")
        await_headline(page, "Up to date")
        assert len(visitor.context.cookies()) == 1


# --- Without a mouse, without JavaScript, on paper --------------------------------------------------------

FOCUSED = """() => {
    const it = document.activeElement, style = getComputedStyle(it), box = it.getBoundingClientRect();
    return [it.textContent.trim() || it.labels?.[0].textContent,
            style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 2 && box.width > 0 && box.top >= 0];
}"""


@pytest.mark.thorough
def test_everything_can_be_done_with_the_keyboard(visitor: Visitor) -> None:
    page = visitor.page
    with PageServer(states.FAILED, PAGE_TOKEN) as server:
        page.goto(f"{server.url}/admin")
        # A browser focuses the `autofocus` element when it first draws the page, perhaps only after loading it.
        until(lambda: page.evaluate(FOCUSED) == ["Token", True], 10, lambda: f"the focus: {page.evaluate(FOCUSED)}")
        page.keyboard.type(PAGE_TOKEN)
        page.keyboard.press("Enter")
        await_headline(page, "Migration 013 has failed")
        met = []
        for _ in range(5):
            page.keyboard.press("Tab")
            name, visible = page.evaluate(FOCUSED)
            assert visible, name
            met.append(name.split("\n")[0])
        assert met[:3] == ["Skip to the status", "Pause", "Log out"]
        assert met[3].startswith("013_invoices.sql:7: ERROR")
        assert met[4] == "Copy entrypoint repair --failed"
        # The first one skips past all the others.
        for _ in range(4):
            page.keyboard.press("Shift+Tab")
        page.keyboard.press("Enter")
        assert page.evaluate("document.activeElement.id") == "status"
        page.keyboard.press("Shift+Tab")
        page.keyboard.press("Enter")
        page.get_by_label("Token").wait_for()
    assert visitor.complaints == []


@pytest.mark.thorough
def test_it_can_be_paused(visitor: Visitor) -> None:
    page = visitor.page
    with PageServer(states.MIGRATING) as server:
        page.goto(f"{server.url}/admin")
        until(lambda: page.evaluate("1") and any(url.endswith("/live") for url in visitor.requests), 10)
        page.get_by_role("button", name="Pause").click()
        assert page.get_by_role("button", name="Pause").get_attribute("aria-pressed") == "true"
        assert page.get_by_text("Paused at").is_visible()
        asked = len(visitor.requests)
        server.cache.snapshot = states.UP_TO_DATE
        page.wait_for_timeout(2_500)  # twice as long as it takes otherwise
        assert len(visitor.requests) == asked
        assert headline(page) == "Migrating to version 15"
        page.get_by_role("button", name="Pause").click()
        await_headline(page, "Up to date")
    assert visitor.complaints == []


@pytest.mark.thorough
def test_without_javascript_all_is_there_but_the_live_part(visit: Visit) -> None:
    visitor = visit(java_script_enabled=False)
    page = visitor.page
    with PageServer(states.MIGRATING, PAGE_TOKEN) as server:
        log_in(page, server.url, PAGE_TOKEN)
        assert headline(page) == "Migrating to version 15"
        for region in ("Overview", "Running now", "Pending", "Applied"):
            assert page.get_by_role("region", name=region).is_visible(), region
        assert not page.get_by_role("button", name="Pause").is_visible()
        server.cache.snapshot = states.FAILED
        page.get_by_role("link", name="Reload").click()
        assert page.locator("code", has_text="entrypoint repair --failed").is_visible()
        assert page.get_by_role("button", name="Copy").count() == 0
        server.cache.snapshot = states.UP_TO_DATE
        page.get_by_role("link", name="Reload").click()
        await_headline(page, "Up to date")
        page.get_by_role("button", name="Log out").click()
        page.get_by_label("Token").wait_for()
    assert visitor.complaints == []


INKS = "[document.body, document.querySelector('h1')].map((it) => getComputedStyle(it).color)"


@pytest.mark.thorough
def test_on_paper_there_are_no_buttons_and_no_darkness(visit: Visit) -> None:
    page = visit(color_scheme="dark").page
    with PageServer(states.FAILED, PAGE_TOKEN) as server:
        log_in(page, server.url, PAGE_TOKEN)
        dark = page.evaluate(INKS)
        page.emulate_media(media="print", color_scheme="light")
        light = page.evaluate(INKS)
        page.emulate_media(media="print", color_scheme="dark")
        assert page.evaluate(INKS) == light != dark
        assert not page.get_by_role("button", name="Log out").is_visible()
        assert page.get_by_role("table").is_visible()
        assert page.pdf(format="A4").startswith(b"%PDF")


@pytest.mark.thorough
def test_a_violation_of_the_policy_would_be_seen(visitor: Visitor) -> None:
    page = visitor.page
    with PageServer(states.UP_TO_DATE) as server:
        page.goto(f"{server.url}/admin")
        for attempt in (
            "document.head.append(Object.assign(document.createElement('style'), {textContent: 'p {}'}))",
            "document.body.append(Object.assign(document.createElement('img'), {src: 'http://127.0.0.1:9/x.png'}))",
            "try { document.body.innerHTML = '<p>' } catch (error) { console.error(error) }",
        ):
            seen = len(visitor.complaints)
            page.evaluate(attempt)
            until(lambda: page.evaluate("1") and len(visitor.complaints) > seen, 5, attempt)  # noqa: B023
