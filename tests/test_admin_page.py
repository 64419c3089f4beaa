"""The page /admin over HTTP: its headers, its log-in and wrong tokens. tests/browser/ tests it in a browser."""

from __future__ import annotations

import contextlib
import re
from concurrent.futures import ThreadPoolExecutor
from html import unescape
from typing import TYPE_CHECKING
from urllib.parse import urlencode

import pytest

from entrypoint.service import sessions
from kit.processes import until
from kit.web import TOKEN
from scene import Scene

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from kit.databases import Database
    from kit.processes import Run
    from kit.web import Answer, Serving

    Serve = Callable[..., Serving]

FORM = {"Content-Type": "application/x-www-form-urlencoded"}


@pytest.fixture
def scene(database: Database, migrations_dir: Path, run_entrypoint: Callable[..., Run]) -> Scene:
    scene = Scene(database, migrations_dir, run_entrypoint)
    scene.write({"001_a.sql": "CREATE TABLE a ();", "002_b.sql": "CREATE TABLE b ();"})
    scene.start("migrate", "--to", "1").ok()
    return scene


@pytest.fixture
def service(scene: Scene, serve: Serve) -> Serving:
    return serve(scene.database.url)


def look(service: Serving, path: str = "/admin", *, cookie: str | None = None, **headers: str) -> Answer:
    """Ask as a browser with this cookie, or with one that has just been issued."""
    cookie = sessions.issue(TOKEN) if cookie is None else cookie
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return service.ask(path, token=None, headers={"Cookie": f"{sessions.COOKIE}={cookie}", **named})


def log_in(service: Serving, token: str, headers: Mapping[str, str] | None = None) -> Answer:
    body = urlencode({"token": token}).encode()
    return service.ask("/admin/login", token=None, method="POST", headers={**FORM, **(headers or {})}, body=body)


def told(answer: Answer) -> str:
    """Return the error that the form shows."""
    (found,) = re.findall(r'role="alert"[^>]*>([^<]*)<', answer.body.decode())
    return unescape(str(found))


def text_with(service: Serving, words: str, times: int = 1) -> str:
    """Return the page once it contains these words; the service caches it for a second."""
    seen = [""]

    def look_again() -> bool:
        seen[0] = look(service).body.decode()
        return seen[0].count(words) >= times

    until(look_again, 10, lambda: f"{words} in {seen[0]}")
    return seen[0]


def directives(answer: Answer) -> dict[str, str]:
    policy = answer.headers["content-security-policy"]
    return {name: value for name, _, value in (part.strip().partition(" ") for part in policy.split(";"))}


def test_repeatable_files_and_what_failed_of_them(scene: Scene, serve: Serve) -> None:
    (scene.migrations / "repeatable").mkdir()
    scene.write({"repeatable/a.sql": "CREATE OR REPLACE VIEW v AS SELECT 1 AS one;", "repeatable/b.sql": "SELECT <b>;"})
    scene.migrate(APP_VERSION="1.4.0")
    text = text_with(serve(scene.database.url), "A repeatable file has failed").replace("<wbr>", "")
    assert "repeatable/a.sql" in text
    assert "SELECT &lt;b&gt;" in text
    (scene.migrations / "repeatable" / "b.sql").unlink()
    scene.migrated(APP_VERSION="1.4.0")
    text = text_with(serve(scene.database.url), "last applied")
    assert 'by version <bdi class="cut" title="1.4.0">1.4.0</bdi>' in text


# --- Who may see it ---------------------------------------------------------------------------------------


def test_nobody_sees_anything_without_logging_in(service: Serving) -> None:
    for path in ("/admin", "/admin?all", "/admin/live"):
        for cookie in ("", "admin", "x.y.z", sessions.issue("another-token")):
            answer = look(service, path, cookie=cookie)
            assert (answer.status, answer.headers["location"], answer.body) == (303, "/admin/login", b"")
    assert look(service, "/admin/badge.svg", cookie="").status == 403
    # The API's token does not open the page: a browser never sends it on its own.
    assert service.ask("/admin").status == 303


def test_a_session_is_good_for_the_page_and_nothing_else(service: Serving) -> None:
    assert look(service).status == 200
    for path in ("/api/admin/migrations/status", "/badge.svg", "/metrics"):
        assert look(service, path).status == 401


def test_the_cookie(service: Serving) -> None:
    for forwarded, secure in ((None, False), ("https", True), ("http", False)):
        answer = log_in(service, TOKEN, {"X-Forwarded-Proto": forwarded} if forwarded else None)
        assert (answer.status, answer.headers["location"]) == (303, "/admin"), forwarded
        value, *attributes = answer.headers["set-cookie"].split("; ")
        assert set(attributes) == {
            *("HttpOnly", "SameSite=strict", "Path=/admin", f"Max-Age={sessions.LIFETIME}"),
            *(["Secure"] if secure else []),
        }, forwarded
        assert look(service, cookie=value.partition("=")[2].strip('"')).status == 200, forwarded


@pytest.mark.thorough
def test_a_session_ends_with_its_token(scene: Scene, serve: Serve) -> None:
    """Replicas with the same tokens accept each other's sessions. A restart ends none, nor does another token's end."""
    tokens = "the-old-token-0123456789", "the-new-token-0123456789"
    old, new = map(sessions.issue, tokens)
    both = serve(scene.database.url, STATUS_TOKEN="\n".join(tokens))
    replica = serve(scene.database.url, STATUS_TOKEN="\n".join(tokens))
    assert {look(one, cookie=cookie).status for one in (both, replica) for cookie in (old, new)} == {200}
    rotated = serve(scene.database.url, STATUS_TOKEN=tokens[1])
    assert (look(rotated, cookie=old).status, look(rotated, cookie=new).status) == (303, 200)


def test_without_tokens_it_is_open_to_this_machine_only(scene: Scene, serve: Serve) -> None:
    service = serve(scene.database.url, STATUS_TOKEN="")
    answer = look(service, cookie="")
    assert answer.status == 200
    assert b"Log out" not in answer.body
    # A name that an attacker's name server resolves to 127.0.0.1.
    for path in ("/admin", "/admin/live", "/admin/badge.svg"):
        assert look(service, path, cookie="", Host="rebound.example").status == 403
    assert log_in(service, "").status == 404


# --- Wrong tokens -----------------------------------------------------------------------------------------


@pytest.mark.thorough
def test_a_wrong_token_takes_a_while_and_a_few_are_enough(service: Serving) -> None:
    for _ in range(5):
        answer = log_in(service, "wrong")
        assert (answer.status, told(answer)) == (403, "Wrong token.")
        assert answer.seconds >= 0.5
        assert "set-cookie" not in answer.headers
    answer = log_in(service, TOKEN)
    assert answer.status == 429
    assert told(answer) == f"Too many wrong tokens. Try again in {answer.headers['retry-after']} s."
    assert 1 <= int(answer.headers["retry-after"]) <= 61
    # A logged-in user is not affected.
    assert look(service).status == 200
    assert len(service.run.logs("service.login_refused")) == 5
    assert 'wrong"' not in service.run.stderr


def test_guesses_at_the_same_time_are_counted_before_they_are_answered(service: Serving) -> None:
    with ThreadPoolExecutor(20) as threads:
        statuses = [answer.status for answer in threads.map(lambda _: log_in(service, "wrong"), range(20))]
    assert sorted(statuses) == [403] * 5 + [429] * 15


@pytest.mark.thorough
def test_a_guess_is_counted_when_it_has_come_to_its_end(service: Serving) -> None:
    """Opening many requests first and sending the tokens later gains no extra guesses."""
    body = b"token=wrong"
    head = (
        "POST /admin/login HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        f"Content-Type: {FORM['Content-Type']}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    with contextlib.ExitStack() as stack:
        connections = [stack.enter_context(service.connect()) for _ in range(10)]
        for connection in connections:
            connection.sendall(head.encode() + body[:3])
        # All ten have been accepted, since a later request is answered.
        assert look(service).status == 200
        for connection in connections:
            connection.sendall(body[3:])
        statuses = [connection.makefile("rb").readline().split()[1] for connection in connections]
    assert sorted(statuses) == [b"403"] * 5 + [b"429"] * 5


BODIES = {
    "nothing": (b"", 403),
    "no form": (b"{}", 400),
    "not ASCII": ("token=ä".encode(), 400),
    "no token": (b"other=1", 403),
    "an empty token": (b"token=", 403),
    "bytes that are no text": (b"token=%ff%00", 403),
    "many fields": (b"&".join([b"token=x"] * 50), 400),
    "long": (b"token=" + b"x" * 5_000, 400),
    "longer than anything here": (b"token=" + b"x" * 50_000, 413),
}


@pytest.mark.sampled(9)
@pytest.mark.parametrize("case", BODIES)
def test_what_is_not_the_form(service: Serving, case: str) -> None:
    body, status = BODIES[case]
    answer = service.ask("/admin/login", token=None, method="POST", headers=FORM, body=body)
    assert answer.status == status, answer
    assert "set-cookie" not in answer.headers
    assert log_in(service, TOKEN).status == 303


def test_a_form_from_elsewhere_is_refused(service: Serving) -> None:
    for site in ("cross-site", "same-site"):
        answer = log_in(service, TOKEN, {"Sec-Fetch-Site": site})
        assert (answer.status, "set-cookie" in answer.headers) == (403, False), site
        answer = service.ask("/admin/logout", token=None, method="POST", headers={"Sec-Fetch-Site": site}, body=b"")
        assert "set-cookie" not in answer.headers, site


# --- How it is sent ---------------------------------------------------------------------------------------


def test_headers(service: Serving) -> None:
    for answer in (
        look(service),
        look(service, "/admin/live"),
        look(service, "/admin/badge.svg"),
        look(service, "/admin/login", cookie=""),
        look(service, cookie=""),
        look(service, cookie="", Sec_Fetch_Site="cross-site"),
        log_in(service, TOKEN),
        log_in(service, "wrong"),
        service.ask("/admin/logout", token=None, method="POST", body=b""),
    ):
        assert answer.headers["cache-control"] == "no-store", answer
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["cross-origin-opener-policy"] == "same-origin"
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"
        if answer.body:
            found = directives(answer)
            assert found["default-src"] == "'none'"
            assert found["frame-ancestors"] == "'none'"
            assert found["base-uri"] == "'none'"
            assert found["form-action"] == "'self'"
            assert found["require-trusted-types-for"] == "'script'"
            assert "unsafe" not in answer.headers["content-security-policy"]
            assert "http" not in answer.headers["content-security-policy"]
    # Scripts are allowed only on the page that has one.
    assert directives(look(service))["script-src"] == "'self'"
    assert "script-src" not in directives(look(service, "/admin/login", cookie=""))


@pytest.mark.thorough
def test_nothing_is_in_line_and_nothing_is_elsewhere(service: Serving) -> None:
    for answer in (look(service), look(service, "/admin/login", cookie="")):
        html = answer.body.decode()
        assert not re.search(r"<style|\sstyle=|<script(?! src=)|\son\w+=|javascript:", html)
        addresses = re.findall(r'(?:href|src|action)="([^"]*)"', html)
        assert addresses
        assert all(address.startswith(("/admin", "#")) for address in addresses), addresses


def test_files_of_the_page_are_kept_for_ever_as_their_names_change_with_them(service: Serving) -> None:
    html = look(service).body.decode()
    names = set(re.findall(r'"(/admin/static/[^"]*)"', html))
    assert {name.rpartition(".")[2] for name in names} == {"css", "js", "svg"}
    for name in names:
        answer = service.ask(name, token=None)
        assert answer.status == 200
        assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
        assert re.fullmatch(r".*\.[0-9a-f]{16}\.\w+", name)
    for name in ("style.css", "..%2fpage.py", "%2e%2e/page.py", "style.0123456789abcdef.css", ""):
        assert service.ask(f"/admin/static/{name}", token=None).status == 404


def test_who_has_the_page_already_gets_it_again_only_if_it_has_changed(scene: Scene, service: Serving) -> None:
    first = look(service)
    etag = first.headers["etag"]
    # The same content, rendered again from a newer answer of the database.
    taken = service.data()["takenAt"]
    service.data_when(lambda data: data["takenAt"] != taken)
    again = look(service, "/admin", If_None_Match=etag)
    assert (again.status, again.body, again.headers["etag"]) == (304, b"", etag)
    live = look(service, "/admin/live", If_None_Match=etag)
    assert live.status == 304
    assert look(service, "/admin?all", If_None_Match=etag).status == 200
    scene.migrated()
    changed = until(lambda: look(service, If_None_Match=etag) if look(service, If_None_Match=etag).body else None, 10)
    assert changed is not None
    assert changed.headers["etag"] != etag
    assert b"Up to date" in changed.body


@pytest.mark.thorough
def test_an_open_page_does_not_fill_the_log(service: Serving) -> None:
    for _ in range(3):
        assert look(service, "/admin/live").status == 200
    assert look(service).status == 200
    service.run.until(lambda record: record.get("path") == "/admin")
    assert not [record for record in service.run.logs("service.request") if record["path"] == "/admin/live"]


def test_texts_of_the_ledger_are_escaped(scene: Scene, service: Serving) -> None:
    attack = "</title><script>alert('1')</script><b \" '\x1b\u202e"
    scene.database.execute("UPDATE schema_migrations SET filename = %(a)s, application_version = %(a)s;", {"a": attack})
    scene.database.execute(
        "INSERT INTO schema_migrations (migration_number, filename, status, error_message)"
        " VALUES (2, %(a)s, 'failed', %(a)s)",
        {"a": attack},
    )
    scene.database.execute("UPDATE migration_lock SET locked_at = now(), locked_by = %(a)s, token = 't'", {"a": attack})
    # Name and version of the applied file (the version also as a title), the error message, and the lock's holder.
    html = text_with(service, "U+202E", times=5)
    assert "<script>" not in html
    assert "<b " not in html
    assert "\u202e" not in html
    assert "\x1b" not in html
    escaped = "&lt;/title&gt;&lt;script&gt;alert(&#39;1&#39;)&lt;/script&gt;&lt;b &#34; &#39;⟨U+001B⟩⟨U+202E⟩"
    assert html.count(escaped) == 5


@pytest.mark.thorough
def test_a_secret_in_an_error_message_is_not_shown(scene: Scene, service: Serving) -> None:
    scene.database.execute(
        "INSERT INTO schema_migrations (migration_number, filename, status, error_message)"
        " VALUES (2, '002_b.sql', 'failed', 'CREATE ROLE x PASSWORD ''hunter2''')"
    )
    html = text_with(service, "has failed")
    assert "CREATE ROLE x PASSWORD" in html
    assert "hunter2" not in html
