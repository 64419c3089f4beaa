"""Who gets in: with a token, without one, or in a browser sent by another site. And no token is ever written down."""

from __future__ import annotations

import subprocess
import sys
import urllib.parse
from typing import TYPE_CHECKING

import pytest

from conftest import missing
from demo.postgres import free_port
from kit.migrations import non_idempotent, write_migrations
from kit.processes import until
from kit.web import BACKUP, STATUS, TOKEN, Serving
from scene import only_error

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from kit.databases import Database
    from kit.processes import Run

    Start = Callable[..., Run]
    Serve = Callable[..., Serving]

EVERYWHERE = "0.0.0.0"  # noqa: S104 - behind a token, or refused
NEW = "new-token-of-this-week"
GUARDED = [("GET", STATUS), ("GET", BACKUP), ("POST", BACKUP), ("GET", "/metrics"), ("GET", "/badge.svg")]


@pytest.fixture(autouse=True)
def _migrations(migrations_dir: Path) -> None:
    write_migrations(migrations_dir, non_idempotent(1))


def test_a_token_is_asked_for(database: Database, serve: Serve) -> None:
    serving = serve(database.url)
    for method, path in GUARDED:
        without = serving.ask(path, method=method, token=None)
        assert without.status == 401, (method, path)
        assert without.headers["www-authenticate"].startswith("Bearer ")
        assert without.json["success"] is False
        assert "Authorization: Bearer" in without.json["error"]
        for headers in ({"Authorization": "Basic dXNlcjpwYXNz"}, {"Authorization": "Bearer"}, {"Authorization": TOKEN}):
            assert serving.ask(path, method=method, token=None, headers=headers).status == 401, (method, path, headers)
        for wrong in (TOKEN[:-1], TOKEN + "x", TOKEN.upper(), "x", "ä", f"{TOKEN} {TOKEN}"):
            answer = serving.ask(path, method=method, token=None, headers={"Authorization": f"Bearer {wrong}"})
            assert answer.status == 403, (method, path, wrong)
            assert answer.json["success"] is False
            assert wrong not in answer.json["error"].split()
        assert serving.ask(path, method=method).status in {200, 501}, (method, path)
        right = {"Authorization": f"bearer  {TOKEN}"}
        assert serving.ask(path, method=method, token=None, headers=right).status != 403, (method, path)


def test_no_token_is_asked_for_here(database: Database, serve: Serve) -> None:
    serving = serve(database.url)
    for path in ("/livez", "/readyz", "/openapi.json"):
        answer = serving.ask(path, token=None)
        assert answer.status == 200, path
        assert database.name.encode() not in answer.body, f"{path} says nothing of the database"


@pytest.mark.parametrize(("public", "status"), [("true", 200), pytest.param("false", 401, marks=pytest.mark.thorough)])
def test_the_badge_is_public_if_somebody_says_so(database: Database, serve: Serve, public: str, status: int) -> None:
    assert serve(database.url, STATUS_PUBLIC_BADGE=public).ask("/badge.svg", token=None).status == status


@pytest.mark.thorough
def test_a_token_is_replaced_without_a_gap(database: Database, serve: Serve, tmp_path: Path) -> None:
    """Both are valid for a while, in a variable or in a file; in the end, only the new one is."""
    file = tmp_path / "tokens"
    for both in ({"STATUS_TOKEN": f"{TOKEN}\n{NEW}\n"}, {"STATUS_TOKEN": "", "STATUS_TOKEN_FILE": str(file)}):
        file.write_text(f"\n  {TOKEN}  \r\n\n{NEW}\r\n")
        serving = serve(database.url, **both)
        assert [serving.ask(token=token).status for token in (TOKEN, NEW, f"{TOKEN}\n{NEW}"[:5])] == [200, 200, 403]
    file.write_text(NEW)
    serving = serve(database.url, STATUS_TOKEN="", STATUS_TOKEN_FILE=str(file))
    assert [serving.ask(token=token).status for token in (TOKEN, NEW)] == [403, 200]


# --- Without a token ------------------------------------------------------------------------------------


def test_without_a_token_it_is_open_on_loopback(database: Database, serve: Serve) -> None:
    serving = serve(database.url, STATUS_TOKEN="")
    record = serving.run.logs("service.listening")[0]
    assert "open to everyone on this machine" in record["message"]
    for method, path in GUARDED:
        assert serving.ask(path, method=method, token=None).status in {200, 501}, path
    assert serving.ask(token="whatever").status == 200


@pytest.mark.parametrize("host", [EVERYWHERE, "::", "192.0.2.1", "example.org"])
def test_without_a_token_it_is_open_nowhere_else(run_entrypoint: Start, host: str) -> None:
    """The address is checked before anything else: example.org is not even looked up."""
    run = run_entrypoint("serve", env={"STATUS_HOST": host, "STATUS_PORT": str(free_port())})
    assert run.wait() == 78
    record = only_error(run)
    (fault,) = record["faults"]
    assert fault.startswith(
        f"STATUS_HOST is {host!r}, which other machines can reach, and no token is set; set STATUS_TOKEN"
    )


@pytest.mark.parametrize("host", [EVERYWHERE, "::", "localhost", "::1"])
def test_where_it_listens(database: Database, serve: Serve, host: str) -> None:
    serving = serve(database.url, STATUS_HOST=host)
    asked = "::1" if ":" in host else "127.0.0.1"
    assert type(serving)(serving.run, serving.port, asked).ask().status == 200
    if host == "::":
        assert serving.ask().status == 200, "IPv4, too"


def test_a_page_from_elsewhere_does_not_get_in_through_a_browser_on_this_machine(
    database: Database, serve: Serve
) -> None:
    """Its name may now resolve to 127.0.0.1 (DNS rebinding), and it may send us plain forms."""
    serving = serve(database.url, STATUS_TOKEN="")
    for host in (
        "evil.example",
        "evil.example:3001",
        "127.0.0.1.evil.example",
        "",
        "0x7f000001",
        "localhost.evil",
        "[::1",
    ):
        assert serving.ask(token=None, headers={"Host": host}).status in {400, 403}, host
    for host in ("localhost", "LOCALHOST:3001", "127.0.0.1:80", "[::1]:3001", "127.9.9.9"):
        assert serving.ask(token=None, headers={"Host": host}).status == 200, host
    for origin in ("https://evil.example", "null", "http://127.0.0.1.evil.example", "http://[::1", "localhost"):
        answer = serving.ask(BACKUP, method="POST", token=None, headers={"Origin": origin})
        assert answer.status == 403, origin
    assert serving.ask(BACKUP, method="POST", token=None, headers={"Origin": "http://localhost:1"}).status == 501


def test_a_host_of_the_clients_choice_leads_nowhere(database: Database, serve: Serve) -> None:
    serving = serve(database.url)
    answer = serving.ask("/", token=None, headers={"Host": "evil.example"})
    assert (answer.status, answer.headers["location"]) == (307, "/admin"), "whoever types the address alone"
    for path in ("/admin/", f"{STATUS}/", f"{BACKUP}/", "/livez/"):
        for method in ("GET", "POST"):
            answer = serving.ask(path, method=method, headers={"Host": "evil.example"})
            assert (answer.status, answer.json["success"]) == (404, False), (method, path)
            assert "location" not in answer.headers, (method, path)


@pytest.mark.thorough
def test_with_a_token_the_name_does_not_matter(database: Database, serve: Serve) -> None:
    serving = serve(database.url)
    assert serving.ask(headers={"Host": "status.example.org", "Origin": "https://evil.example"}).status == 200


# --- Settings and the log -------------------------------------------------------------------------------


def test_a_short_token_is_warned_of(database: Database, serve: Serve) -> None:
    serving = serve(database.url, STATUS_TOKEN=f"{TOKEN}\nshorty")
    record = serving.run.until("service.short_token")
    assert record["message"] == "token 2 is shorter than 16 characters"
    assert "shorty" not in serving.run.stderr


def test_no_token_is_ever_written_down(database: Database, serve: Serve) -> None:
    """Neither our own, wherever a client puts it, nor a wrong one, which may be valid elsewhere."""
    wrong = "token-of-another-service"
    serving = serve(database.url, LOG_LEVEL="debug", STATUS_TOKEN=f"{TOKEN}\n{NEW}")
    for token in (TOKEN, NEW, wrong):
        serving.ask(token=token)
        serving.ask(f"{STATUS}?token={token}", token=None)
        serving.ask(f"{STATUS}?x#{token}", token=None, headers={"X-Token": token, "Cookie": f"t={token}"})
    for token in (TOKEN, NEW):
        serving.ask(f"/{urllib.parse.quote(token)}", token=token)
        serving.ask(f"/badge.svg/{token}%41", token=token)
        serving.ask(f"/{'x' * (200 - 1 - len(token) // 2)}{token}", token=token)
    with serving.connect() as client:
        client.sendall(f"BREW {TOKEN} HTTP/9\r\n\r\n".encode())
        client.recv(65536)
    serving.run.terminate()
    serving.run.ok()
    for token in (TOKEN, NEW, wrong):
        assert token not in serving.run.stderr
        assert f"x{token[:5]}" not in serving.run.stderr, "cut in the middle"
    paths = [record["path"] for record in serving.run.logs("service.request")]
    assert paths.count(STATUS) == 9
    assert "/***" in paths


def test_what_is_asked_is_logged_as_everything_is(database: Database, serve: Serve) -> None:
    serving = serve(database.url, LOG_LEVEL="debug")
    serving.ask()
    serving.ask("/livez")
    serving.ask("/%1b%5b31m%0aINFO%20all%20is%20well" + "x" * 1000)
    with serving.connect() as client:
        client.sendall(b"nonsense\r\n\r\n")
        assert b"400" in client.recv(65536)
    serving.run.terminate()
    serving.run.ok()
    assert all(line.startswith('{"time": ') for line in serving.run.stderr.splitlines())
    first, second, third = serving.run.logs("service.request")
    assert (first["method"], first["path"], first["status"], first["client"]) == ("GET", STATUS, 200, "127.0.0.1")
    assert first["level"] == "info"
    assert first["duration_ms"] >= 0
    assert second["level"] == "debug", "probes come all the time"
    assert len(third["path"]) == 200


@pytest.mark.thorough
def test_a_text_log_keeps_its_lines(database: Database, run_entrypoint: Start) -> None:
    """What a client puts into a path does not start new lines, nor does it control a terminal."""
    port = free_port()
    env = {"DATABASE_URL": database.url, "STATUS_PORT": str(port), "LOG_FORMAT": "text"}
    serving = Serving(run_entrypoint("serve", env=env), port)
    until(lambda: "listening on" in serving.run.stderr, what="the service")
    serving.ask("/%1b%5b31m%0aall%20is%20well", token=None)
    serving.run.terminate()
    serving.run.ok()
    assert "\x1b" not in serving.run.stderr
    assert not [line for line in serving.run.stderr.splitlines() if line.startswith("all is well")]
    assert "all is well" in serving.run.stderr


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    ("environ", "faults"),
    [
        ({"STATUS_PORT": "http"}, ["STATUS_PORT is 'http'; it must be a port from 1 to 65535, like 8081"]),
        ({"STATUS_PUBLIC_BADGE": "maybe"}, ["STATUS_PUBLIC_BADGE is 'maybe'; it must be true or false"]),
        (
            {"STATUS_TOKEN": "secret one", "STATUS_PORT": "0", "MIGRATION_TIMEOUT_MS": "5s"},
            ["MIGRATION_TIMEOUT_MS is '5s'", "STATUS_PORT is '0'", "STATUS_TOKEN: token 1 contains a character"],
        ),
        (
            {"STATUS_TOKEN": "secret", "STATUS_TOKEN_FILE": "/secret"},
            ["STATUS_TOKEN and STATUS_TOKEN_FILE are both set; set only one"],
        ),
        ({"STATUS_TOKEN_FILE": "/nowhere/tokens"}, ["STATUS_TOKEN_FILE is '/nowhere/tokens', which cannot be read"]),
        ({"STATUS_TOKEN_FILE": "secret"}, ["STATUS_TOKEN_FILE is '***', which cannot be read"]),
        ({"STATUS_TOKEN_FILE": "q1/Zm9v+YmFy/x=="}, ["STATUS_TOKEN_FILE is '***', which cannot be read"]),
    ],
)
def test_settings_that_are_none(run_entrypoint: Start, environ: dict[str, str], faults: list[str]) -> None:
    run = run_entrypoint("serve", env=environ)
    assert run.wait() == 78
    found = only_error(run)["faults"]
    assert len(found) == len(faults)
    assert all(fault.startswith(wanted) for fault, wanted in zip(found, faults, strict=True)), found
    assert "secret one" not in run.stderr


@pytest.mark.thorough
def test_a_port_that_somebody_else_has(database: Database, serve: Serve, run_entrypoint: Start) -> None:
    port = serve(database.url).port
    run = run_entrypoint("serve", env={"DATABASE_URL": database.url, "STATUS_PORT": str(port)})
    assert run.wait() == 78
    record = only_error(run)
    assert record["message"] == f"Cannot listen on 127.0.0.1, port {port}: Address already in use"


@pytest.mark.thorough
def test_an_address_that_is_somebody_elses(database: Database, run_entrypoint: Start) -> None:
    """192.0.2.1 is only for documentation: no machine has it (RFC 5737)."""
    env = {"DATABASE_URL": database.url, "STATUS_HOST": "192.0.2.1", "STATUS_TOKEN": TOKEN}
    run = run_entrypoint("serve", env=env)
    assert run.wait() == 78
    assert only_error(run)["message"] == "Cannot listen on 192.0.2.1, port 3001: Cannot assign requested address"


@pytest.mark.thorough
def test_where_ipv6_is_switched_off_localhost_is_still_there(run_program: Start, tmp_path: Path) -> None:
    """Images have ::1 in /etc/hosts, whatever their network has."""
    hosts = tmp_path / "hosts"
    hosts.write_text("127.0.0.1 localhost\n::1 localhost\n")
    inside = (
        "ip link set lo up && echo 1 >/proc/sys/net/ipv6/conf/all/disable_ipv6 && "
        'mount --bind "$0" /etc/hosts && exec "$@"'
    )
    prefix = ["unshare", "--map-root-user", "--net", "--mount", "sh", "-c", inside, str(hosts)]
    if subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode != 0:
        missing("no permission to make a network without IPv6 (unshare --net --mount)")
    run = run_program(
        [*prefix, sys.executable, "-m", "entrypoint", "serve"],
        env={"DATABASE_URL": "postgresql://127.0.0.1:1/none", "STATUS_HOST": "localhost", "STATUS_PORT": "3001"},
    )
    assert run.until("service.listening")["addresses"] == ["127.0.0.1:3001"]
    run.terminate()
    assert run.wait(5) == 0
    run = run_program(
        [*prefix, sys.executable, "-m", "entrypoint", "serve"],
        env={"DATABASE_URL": "postgresql://127.0.0.1:1/none", "STATUS_HOST": "::1"},
    )
    assert run.wait() == 78
    assert only_error(run)["message"] == "Cannot listen on ::1, port 3001: Cannot assign requested address"


def test_bad_files_are_found_before_it_listens(database: Database, migrations_dir: Path, run_entrypoint: Start) -> None:
    (migrations_dir / "2_b.sql").write_text("")
    env = {"DATABASE_URL": database.url, "STATUS_PORT": str(free_port())}
    run = run_entrypoint("serve", env=env)
    assert run.wait() == 65
    assert "2_b.sql" in only_error(run)["message"]
    run = run_entrypoint("serve", env={**env, "MIGRATIONS_DIR": "nowhere"})
    assert run.wait() == 78
    assert "Cannot read the migrations directory 'nowhere'" in only_error(run)["message"]


def test_without_its_packages_it_says_what_to_install(run_program: Start, tmp_path: Path) -> None:
    (tmp_path / "starlette.py").write_text(
        "raise ModuleNotFoundError(\"No module named 'starlette'\", name='starlette')"
    )
    run = run_program([sys.executable, "-m", "entrypoint", "serve"], env={"PYTHONPATH": str(tmp_path)})
    assert run.wait() == 78
    record = only_error(run)
    assert record["message"] == "serve needs packages that are not installed, such as starlette"
    assert record["remedy"] == "Install them with: pip install 'pg-entrypoint[serve]'."
