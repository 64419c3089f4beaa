"""Pure parts of the status service: tokens, badge, snapshot and settings."""

from __future__ import annotations

import hmac
import subprocess
import sys
from math import inf
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import pytest

from entrypoint.errors import ConfigurationError, ConnectionLostError, DatabaseUnavailableError
from entrypoint.errors.migration import MigrationFilesError
from entrypoint.migration.ledger.reading import LockRow
from entrypoint.operations.status import Line, Status
from entrypoint.service import backups, snapshot
from entrypoint.service.badge import Badge, Colour, as_svg, badge_of
from entrypoint.service.metrics import expose
from entrypoint.service.tokens import Tokens
from entrypoint.settings import read_secrets
from entrypoint.settings.service import ServiceSettings, read_service_settings

if TYPE_CHECKING:
    from pathlib import Path

    from entrypoint.errors import EntrypointError

HELD = LockRow(
    held=True,
    since="2026-11-22T10:30:00Z",
    seconds=3.5,
    holder="shop-1",
    process_id=7,
    token="abc.1",
    migration="002_b.sql",
    statement=1,
    statements=2,
    detail={"percent": 42},
)
NOBODY = LockRow(
    held=False,
    **dict.fromkeys(("since", "seconds", "holder", "process_id", "token", "migration", "statement", "statements")),
    detail={},
)
FIRST = Line(1, "001_a.sql", "applied", "2026-11-22T10:29:00Z", 1500, "1.0", None)
SECOND = Line(2, "002_b.sql", "pending", None, None, None, None)
BAD = Line(3, "003_<script>.sql", "failed", "2026-11-22T10:29:30Z", None, None, 'syntax error at or near "<"')


def status(*lines: Line, lock: LockRow | None = NOBODY, guarded: bool | None = False) -> Status:
    states = [line.state for line in lines]
    name = "error" if "failed" in states else "pending" if "pending" in states else "up_to_date"
    applied = [line for line in lines if line.state == "applied"]
    return Status(
        name=name,  # type: ignore[arg-type]  # one of the three
        current=max((line.number for line in applied), default=0),
        latest=max((line.number for line in lines), default=0),
        applied=len(applied),
        pending=len(lines) - len(applied),
        lines=lines,
        last=applied[-1] if applied else None,
        lock=lock,
        guarded=guarded,
    )


def taken(found: Status) -> snapshot.Snapshot:
    return snapshot.of_status(found, database="shop", taken=1795343400.5)


# --- Tokens ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("offered", "accepted"),
    [("one", True), ("two", True), ("three", False), ("", False), ("on", False), ("one ", False), ("öne", False)],
)
def test_which_token_is_accepted(offered: str, *, accepted: bool) -> None:
    assert Tokens(("one", "two")).accept(offered) is accepted


def test_no_token_is_no_token() -> None:
    assert not Tokens(()).required
    assert not Tokens(()).accept("")
    assert Tokens(("x",)).required


@pytest.mark.parametrize("offered", ["one", "two", "no", "\udcff"])
def test_all_tokens_are_compared_in_constant_time_whichever_fits(offered: str, monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []
    real = hmac.compare_digest

    def compare(a: bytes, b: bytes) -> bool:
        compared.append(b)
        return real(a, b)

    monkeypatch.setattr(hmac, "compare_digest", compare)
    Tokens(("one", "two", "three")).accept(offered)
    assert compared == [b"one", b"two", b"three"]


# --- Settings -------------------------------------------------------------------------------------------


def test_the_documented_defaults() -> None:
    _, service = read_service_settings({})
    assert service == ServiceSettings(host="127.0.0.1", port=3001, tokens=(), public_badge=False)


@pytest.mark.parametrize(
    ("environ", "changed"),
    [
        ({"STATUS_PORT": "8080"}, {"port": 8080}),
        ({"STATUS_PORT": " "}, {}),
        ({"STATUS_HOST": "::1"}, {"host": "::1"}),
        ({"STATUS_HOST": "127.3.2.1"}, {"host": "127.3.2.1"}),
        ({"STATUS_HOST": "LocalHost"}, {"host": "LocalHost"}),
        ({"STATUS_HOST": "10.0.0.1", "STATUS_TOKEN": "x"}, {"host": "10.0.0.1", "tokens": ("x",)}),
        ({"STATUS_TOKEN": " a \n\n b\r\na\n"}, {"tokens": ("a", "b")}),
        ({"STATUS_PUBLIC_BADGE": "yes"}, {"public_badge": True}),
    ],
)
def test_what_is_set(environ: dict[str, str], changed: dict[str, object]) -> None:
    defaults = ServiceSettings("127.0.0.1", 3001, (), public_badge=False)
    assert read_service_settings(environ)[1] == defaults._replace(**changed)  # type: ignore[arg-type]


@pytest.mark.parametrize("host", ["10.0.0.1", "localhost.example", "status", "::2", "127.0.0.1.example"])
def test_others_can_reach_it_and_there_is_no_token(host: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        read_service_settings({"STATUS_HOST": host})
    assert "no token is set" in str(caught.value.fields["faults"])


def test_a_file_of_tokens(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_bytes(b"\xef\xbb\xbffirst-token\n\nsecond-token\n")
    environ = {"STATUS_TOKEN_FILE": str(file)}
    assert read_service_settings(environ)[1].tokens == ("first-token", "second-token")
    assert read_secrets(environ) == {"first-token", "second-token"}
    file.write_text("\n \n")
    with pytest.raises(ConfigurationError, match=r"which is empty; it must contain one token per line"):
        read_service_settings(environ)


def test_tokens_are_secrets() -> None:
    assert read_secrets({"STATUS_TOKEN": "one-token\ntwo-tokens"}) == {"one-token", "two-tokens"}
    assert read_secrets({"STATUS_TOKEN_FILE": "a-token-in-the-wrong-variable"}) == {"a-token-in-the-wrong-variable"}


def test_passwords_in_libpqs_password_file_are_known(tmp_path: Path) -> None:
    home, other, third = tmp_path / ".pgpass", tmp_path / "other", tmp_path / "third"
    home.write_text("# comment:1:2:3:not-one\n*:*:*:*:from\\:home\\\\\nbroken\nh:5432:d:u:\n")
    other.write_text("::::from-the-variable\n")
    third.write_text(r"a\:b:5432:d:u:from-the-address")
    assert read_secrets({"HOME": str(tmp_path)}) == {"from:home\\"}
    assert read_secrets({"HOME": str(tmp_path), "PGPASSFILE": str(other)}) == {"from-the-variable"}
    for address in (f"postgresql://u@h/d?passfile={third}&sslmode=require", f"host=h passfile='{third}' user=u"):
        assert read_secrets({"DATABASE_URL": address}) == {"from-the-address"}
    assert read_secrets({"HOME": "/nowhere", "PGPASSFILE": "/nowhere/pgpass"}) == set()
    for token in ("q1/Zm9v+YmFy/x==", "q1/Zm9v\tYmFy"):
        assert read_secrets({"STATUS_TOKEN_FILE": f" {token}\n"}) >= {token, *token.split()}
    for path in ("/run/secrets/none", "./none", "../none"):
        assert read_secrets({"STATUS_TOKEN_FILE": path}) == set()


# --- Backups --------------------------------------------------------------------------------------------


def test_which_program_a_backup_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same as the service, equally isolated from the working directory. In the folder, it is not just a Python."""
    assert backups._command() == [sys.executable, "-P", "-m", "entrypoint", "backup"]
    isolated = "from entrypoint.service import backups; print(backups._command()[1])"
    run = subprocess.run([sys.executable, "-I", "-c", isolated], capture_output=True, text=True, check=True)
    assert run.stdout == "-I\n"
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    assert backups._command() == [sys.executable, "backup"]


# --- Snapshot -------------------------------------------------------------------------------------------


def test_a_snapshot_of_a_status() -> None:
    found = taken(status(FIRST, SECOND, BAD, lock=HELD, guarded=True))
    assert found.taken_at == "2026-11-22T10:30:00.500Z"
    assert found.name == "error"
    assert found.reachable
    assert (found.applied, found.pending, found.failed) == ((FIRST,), (SECOND,), (BAD,))
    assert (found.running, found.changed, found.missing, found.ahead) == ((), (), (), ())
    assert found.lock == HELD
    assert found.last_duration == 1.5


@pytest.mark.parametrize(
    ("error", "reachable"),
    [
        (DatabaseUnavailableError("no\n way", remedy="r"), False),
        (ConnectionLostError("lost"), False),
        (ConfigurationError("no schema"), True),
        (MigrationFilesError("2 faults", faults=("a", "b")), True),
    ],
)
def test_a_snapshot_of_a_failure(error: EntrypointError, *, reachable: bool) -> None:
    found = snapshot.of_failure(error, database="shop", taken=0)
    assert (found.name, found.reachable, found.lock, found.applied) == ("error", reachable, None, ())
    assert found.documented()["success"] is False
    assert "\n" not in str(found.documented()["error"])


# --- Badge and metrics ----------------------------------------------------------------------------------


def contrast(colour: Colour) -> float:
    """Return WCAG's contrast ratio of text and background."""

    def luminance(text: str) -> float:
        digits = text[1:] if len(text) == 7 else "".join(digit * 2 for digit in text[1:])
        parts = [int(digits[index : index + 2], 16) / 255 for index in (0, 2, 4)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(colour.background), luminance(colour.text)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize(
    "found", [status(FIRST), status(FIRST, SECOND), status(BAD)], ids=["up to date", "pending", "error"]
)
def test_a_badge_can_be_read(found: Status) -> None:
    assert contrast(badge_of(taken(found)).colour) >= 4.5


def test_a_badge_is_well_formed_whatever_it_says() -> None:
    image = ET.fromstring(as_svg(Badge('<&>"', "</title><script>", Colour("#000", "#fff"))))  # noqa: S314 - our own
    assert [element.text for element in image.iter("{http://www.w3.org/2000/svg}title")] == ["</title><script>"]
    assert not list(image.iter("{http://www.w3.org/2000/svg}script"))


@pytest.mark.parametrize(
    ("lock", "guarded", "held", "seconds"),
    [
        (None, False, 0, None),
        (NOBODY, False, 0, None),
        (NOBODY, True, 1, None),
        (HELD, True, 1, 3.5),
        (HELD._replace(seconds=None), True, 1, inf),
        (HELD, False, 0, None),
        (HELD._replace(token=None), False, 1, 3.5),
        (HELD, None, None, None),
    ],
    ids=[
        "no row",
        "free",
        "just taken",
        "held",
        "held until infinity",
        "left behind",
        "the earlier system's",
        "on a standby",
    ],
)
def test_the_lock_in_the_metrics(
    lock: LockRow | None, *, guarded: bool | None, held: int | None, seconds: float | None
) -> None:
    text = expose(taken(status(FIRST, lock=lock, guarded=guarded)), 1, "").content.decode()
    found = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    for name, value in (("lock_held", held), ("lock_held_seconds", seconds)):
        said = found.get(f'pg_entrypoint_{name}{{database="shop"}}')
        assert (None if said is None else float(said)) == value


def test_metrics_without_an_answer_make_nothing_up() -> None:
    failure = snapshot.of_failure(DatabaseUnavailableError("no"), database="shop", taken=0)
    text = expose(failure, 7, "").content.decode()
    samples = [line for line in text.splitlines() if not line.startswith("#")]
    assert samples == [
        'pg_entrypoint_up{database="shop"} 0.0',
        'pg_entrypoint_database_reachable{database="shop"} 0.0',
        'pg_entrypoint_database_reads_total{database="shop"} 7.0',
    ]
