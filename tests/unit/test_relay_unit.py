"""The relay's pure parts: how an address is written for it, the tool's variables, and a session's first messages."""

from __future__ import annotations

import hashlib
import struct

import pytest

from entrypoint.tool import login, variables, wire
from entrypoint.tool.addresses import respelled, with_password

GIVEN_AND_SPELLED = [
    ("postgresql://u:p@db.example:5432/shop", "postgresql://u:p@127.0.0.1:7777/shop"),
    ("postgres://db/shop", "postgres://127.0.0.1:7777/shop"),
    ("postgresql+psycopg://u:p%40q%2F@db/shop?schema=app", "postgresql+psycopg://u:p%40q%2F@127.0.0.1:7777/shop?schema=app"),
    ("postgis://u@db/shop?uselibpqcompat=true&sslmode=require", "postgis://u@127.0.0.1:7777/shop?uselibpqcompat=true&sslmode=disable"),
    ("postgresql://", "postgresql://127.0.0.1:7777"),
    ("postgresql:///shop", "postgresql://127.0.0.1:7777/shop"),
    ("postgresql:///shop?host=/run/postgresql&port=6", "postgresql://127.0.0.1:7777/shop"),
    ("postgresql://u@%2Frun%2Fpostgresql/shop", "postgresql://u@127.0.0.1:7777/shop"),
    ("postgresql://u@[::1]:5432/shop?", "postgresql://u@127.0.0.1:7777/shop"),
    ("postgresql://u@a:1,b:2/shop?target_session_attrs=read-write", "postgresql://u@127.0.0.1:7777/shop?target_session_attrs=read-write"),
    ("postgresql://u:a?b@db/shop", "postgresql://u:a?b@127.0.0.1:7777/shop"),
    ("postgresql://db?user=u&password=x%20y", "postgresql://127.0.0.1:7777?user=u&password=x%20y"),
    ("postgresql://u@db/shop?sslmode=verify-full&sslrootcert=/a&sslcert=/b&sslkey=/c", "postgresql://u@127.0.0.1:7777/shop?sslmode=disable"),
    ("postgresql+asyncpg://u@db/shop?ssl=require", "postgresql+asyncpg://u@127.0.0.1:7777/shop"),
    ("postgresql://u@db/shop?sslaccept=strict&connect_timeout=5", "postgresql://u@127.0.0.1:7777/shop?connect_timeout=5"),
    ("postgresql:///?service=shop", "postgresql://127.0.0.1:7777/?service=shop&sslmode=disable"),
    ("jdbc:postgresql://db/shop?user=u&password=p@q&ssl=true", "jdbc:postgresql://127.0.0.1:7777/shop?user=u&password=p@q"),
    ("jdbc:postgresql:shop", "jdbc:postgresql://127.0.0.1:7777/shop"),
    ("host=db port=5432 dbname=shop user=u", "host=127.0.0.1 port=7777 dbname=shop user=u"),
    ("dbname='a b' password='it\\'s' hostaddr = 10.0.0.1", "host=127.0.0.1 port=7777 dbname='a b' password='it\\'s'"),
    ("service=shop", "host=127.0.0.1 port=7777 service=shop sslmode=disable"),
    ("sslmode=verify-full sslrootcert=system dbname=d", "host=127.0.0.1 port=7777 sslmode=disable dbname=d"),
]  # fmt: skip


@pytest.mark.parametrize(("given", "spelled"), GIVEN_AND_SPELLED)
def test_an_address_keeps_its_spelling(given: str, spelled: str) -> None:
    assert respelled(given, "127.0.0.1", 7777) == spelled


KNOWN = variables.OwnConnection("db", "u", "shop", "hush")
ENDPOINT = ("127.0.0.1", 7777)


def direct(environ: dict[bytes, bytes], address: str) -> dict[bytes, bytes]:
    return variables.direct(environ, address, "entrypoint:t:tool", KNOWN, ENDPOINT)[0]


def test_variables_of_libpq_lead_to_the_relay() -> None:
    given = {
        b"PGHOST": b"db",
        b"PGHOSTADDR": b"10.1.1.1",
        b"PGSSLROOTCERT": b"system",
        b"PGGSSENCMODE": b"require",
        b"PGUSER": b"me",
        b"OTHER": b"1",
    }
    assert direct(given, "") == {
        b"OTHER": b"1",
        b"PGHOST": b"127.0.0.1",
        b"PGPORT": b"7777",
        b"PGUSER": b"me",
        b"PGDATABASE": b"shop",
        b"PGPASSWORD": b"hush",
        b"PGAPPNAME": b"entrypoint:t:tool",
        b"PGSSLMODE": b"disable",
    }


@pytest.mark.parametrize(
    ("given", "host"),
    [({}, b"127.0.0.1"), ({b"PGHOST": b"db"}, b"127.0.0.1"), ({b"PGHOST": b"warehouse"}, b"warehouse")],
)
def test_variables_of_libpq_that_lead_elsewhere_stay(given: dict[bytes, bytes], host: bytes) -> None:
    changed = direct(given, "postgresql://u@db/shop")
    assert changed[b"DATABASE_URL"] == b"postgresql://u@127.0.0.1:7777/shop"
    assert changed[b"PGHOST"] == host
    assert (b"PGPASSWORD" in changed) == (host == b"127.0.0.1")


def test_the_address_for_migrations_is_in_both_variables() -> None:
    given = {b"DATABASE_URL": b"postgresql://pooler/shop", b"MIGRATION_DATABASE_URL": b"postgresql://db/shop"}
    changed = direct(given, "postgresql://db/shop")
    assert changed[b"DATABASE_URL"] == changed[b"MIGRATION_DATABASE_URL"] == b"postgresql://127.0.0.1:7777/shop"


@pytest.mark.parametrize(
    ("own", "pooled", "options"),
    [
        (None, False, b"-c client_connection_check_interval=2000"),
        (b"-c a=b", False, b"-c a=b -c client_connection_check_interval=2000"),
        (b"-c client_connection_check_interval=0", False, b"-c client_connection_check_interval=0"),
        (b"-c a=b", True, b"-c a=b"),
        (None, True, None),
    ],
)
def test_options_are_for_a_server_only(own: bytes | None, pooled: bool, options: bytes | None) -> None:  # noqa: FBT001
    given = {} if own is None else {b"PGOPTIONS": own}
    changed = variables.named_only(given, "", "entrypoint:t:tool", pooled=pooled, checks=True)
    assert changed.get(b"PGOPTIONS") == options
    assert changed[b"PGAPPNAME"] == b"entrypoint:t:tool"


def test_a_start_up_message_is_read_and_made_again() -> None:
    given = {b"user": b"u", b"database": b"", b"application_name": b"mine", b"options": b"-c a=b"}
    message = wire.startup_message(196608, given)
    assert struct.unpack("!ii", message[:8]) == (len(message), 196608)
    assert wire.startup_parameters(message[8:]) == given
    named = wire.with_name(given, "entrypoint:t:tool", "check=2")
    assert named == {**given, b"application_name": b"entrypoint:t:tool", b"options": b"-c a=b -c check=2"}
    assert wire.with_name({b"check": b"1"}, "n", "check=2") == {b"check": b"1", b"application_name": b"n"}


def test_what_an_unencrypted_client_cannot_do_is_not_offered_to_it() -> None:
    offered = struct.pack("!i", 10) + b"SCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0"
    asks = wire.Authentication(offered)
    assert (asks.body, asks.awaits_answer) == (struct.pack("!i", 10) + b"SCRAM-SHA-256\0\0", True)


@pytest.mark.parametrize(("code", "awaits"), [(0, False), (3, True), (5, True), (11, True), (12, False)])
def test_who_speaks_next(code: int, awaits: bool) -> None:  # noqa: FBT001
    assert wire.Authentication(struct.pack("!i", code)).awaits_answer is awaits


def test_kerberos_does_not_pass() -> None:
    with pytest.raises(wire.ProtocolError):
        wire.Authentication(struct.pack("!i", 7))


@pytest.mark.parametrize(
    ("address", "with_it"),
    [
        ("postgresql://u@db/shop", "postgresql://u:key@db/shop"),
        ("postgresql://u:@db/shop?a=b", "postgresql://u:key@db/shop?a=b"),
        ("postgresql+psycopg://sa%40x@db", "postgresql+psycopg://sa%40x:key@db"),
        ("postgresql://db/shop", "postgresql://db/shop?password=key"),
        ("postgresql://db/shop?user=a@b", "postgresql://db/shop?user=a@b&password=key"),
        ("postgresql://db?user=a@b", "postgresql://db?user=a@b&password=key"),
        ("jdbc:postgresql://db/shop?user=u", "jdbc:postgresql://db/shop?user=u&password=key"),
        ("jdbc:postgresql:shop", "jdbc:postgresql:shop?password=key"),
        ("host=db user=u", "host=db user=u password=key"),
    ],
)
def test_an_address_with_a_password_that_it_had_not(address: str, with_it: str) -> None:
    assert with_password(address, "key") == with_it


def test_scram_as_in_the_standards_example() -> None:
    """RFC 7677, section 3."""
    challenge = "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
    final, proof = login.scram("n=user,r=rOprNGfwEbeRWgbNEkqO", challenge, b"pencil")
    assert final == (
        "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
    )
    assert proof == "6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="


@pytest.mark.parametrize(
    "challenge", ["", "r=x,s=aa==,i=1", "r=me,s=*,i=1", "r=me,s=aa==", "r=me,s=aa==,i=x", "r=me,s=aa==,i=0"]
)
def test_a_challenge_that_is_none(challenge: str) -> None:
    with pytest.raises(wire.ProtocolError):
        login.scram("n=,r=me", challenge, b"x")


def test_the_salted_password_where_python_has_no_openssl(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the self-contained build, `hashlib` has no `pbkdf2_hmac` from Python 3.12 on."""
    cases = [(b"pencil", b"salt", 4096), (b"", b"s" * 16, 1), (b"x" * 100, b"", 2)]
    expected = [hashlib.pbkdf2_hmac("sha256", *case) for case in cases]
    monkeypatch.delattr(hashlib, "pbkdf2_hmac")
    assert [login.salted_password(*case) for case in cases] == expected
