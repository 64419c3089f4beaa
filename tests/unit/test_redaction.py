"""What counts as a secret, and how it is removed from a text."""

from __future__ import annotations

import html
import json
import shlex
import time
from typing import TYPE_CHECKING

import pytest

from entrypoint import redaction
from entrypoint.redaction import Redactor, mask_quoted, secrets_of, visible, visible_json
from entrypoint.secret_patterns import may_hold_password

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.mark.parametrize(
    ("address", "secrets"),
    [
        ("", set()),
        ("postgresql://h/d", set()),
        ("postgresql://u@h/d", set()),
        ("postgresql://u:@h/d", set()),
        ("postgresql://u:secret@h:5432/d?sslmode=disable", {"secret"}),
        ("postgres://u:se%40cret@h/d", {"se%40cret", "se@cret"}),
        ("postgresql://u:se:cret@h/d", {"se:cret"}),
        ("postgresql://:secret@h/d", {"secret"}),
        ("postgresql://h/d?user=u&password=secret", {"secret"}),
        ("postgresql://h/d?password=se%26cret&user=u", {"se%26cret", "se&cret"}),
        ("postgresql://h/d?sslpassword=secret", {"secret"}),
        ("host=h password=secret user=u", {"secret"}),
        ("password=secret", {"secret"}),
        ("PASSWORD=secret", {"secret"}),
        ("host=h password = secret", {"secret"}),
        ("host=h password='sec ret'", {"sec ret"}),
        ("host=h sslpassword=secret", {"secret"}),
        ("host=h passfile=/a/file", set()),
        ("host=h nopassword=x", set()),
        ("u:secret@h/d", {"secret"}),
        ("Host=h;Username=u;Password=secret;Database=d", {"secret", "secret;Database=d"}),
        ("Server=h;Pwd = secret", {"secret"}),
        ("registry:5000/shop:1.4.0@sha256:0a1b", set()),
        ("shop:1.4.0@sha256:0a1b", set()),
        ("jdbc:postgresql://h/d?user=u&password=a+b%26", {"a+b%26", "a+b&", "a b%26", "a b&"}),
        ("jdbc:postgresql:d?user=u&password=secret", {"secret"}),
        ("postgresql+asyncpg://u:secret@h/d", {"secret"}),
        ("postgresql+pg8000://h/d?pass%77ord=secret", {"secret"}),
    ],
)
def test_secrets_of_an_address(address: str, secrets: set[str]) -> None:
    assert secrets_of(address) == secrets


@pytest.mark.parametrize(
    ("address", "secret"),
    [
        # What libpq reads, however the address looks.
        (r"host=h password='it\'s secret'", "it's secret"),
        (r"host=h password=se\ cret", "se cret"),
        (r"host=h password=se\\cret", r"se\cret"),
        ("host=h password=se&cret", "se&cret"),
        # What the user meant, even if libpq reads something else.
        ("postgresql://u:se@cret@h/d", "se@cret"),
        ("postgresql://u:se/cret@h/d", "se/cret"),
        ("postgresql://u:se?cret@h/d", "se?cret"),
        ("postgresql://u:se#cret@h/d", "se#cret"),
    ],
)
def test_the_secret_is_among_the_secrets(address: str, secret: str) -> None:
    assert secret in secrets_of(address)


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("nothing quoted", "nothing quoted"),
        ('missing "=" after "secret" in connection info string', 'missing "***" in connection info string'),
        ('invalid percent-encoded token: "sec"ret"', 'invalid percent-encoded token: "***"'),
        ('a "line\nbreak" within', 'a "***" within'),
        ('one " alone', 'one " alone'),
    ],
)
def test_mask_quoted(text: str, masked: str) -> None:
    assert mask_quoted(text) == masked


@pytest.mark.parametrize(
    ("secrets", "text", "redacted"),
    [
        ((), "nothing to hide", "nothing to hide"),
        (("secret",), "a secret, two secrets, SECRET", "a ***, two ***s, SECRET"),
        (("se.cret",), "se.cret seXcret", "*** seXcret"),
        (("(secret", "[x]y"), "((secret [x]y", "(*** ***"),
        (("abcd", "abcdefgh"), "abcdefgh abcd", "*** ***"),
        # Redact a short one only as a whole word; otherwise hardly anything would be left to read.
        (("a",), "a cat sat: a", "*** cat sat: ***"),
        (("ab",), 'role "ab" above', 'role "***" above'),
        (("\N{EURO SIGN}uro",), "\N{EURO SIGN}uro", "***"),
        (("two\nlines",), "two\nlines", "***"),
    ],
)
def test_known_secrets(secrets: tuple[str, ...], text: str, redacted: str) -> None:
    assert Redactor(secrets).text(text) == redacted


@pytest.mark.parametrize(
    "text",
    [
        "ALTER ROLE r PASSWORD 'secret'",
        "alter role r password 'secret' valid until 'never'",
        "ALTER ROLE r ENCRYPTED PASSWORD\n\t'secret'",
        "ALTER ROLE r PASSWORD 'it''s secret'",
        "ALTER ROLE r PASSWORD E'secret'",
        "ALTER ROLE r PASSWORD U&'secret'",
        "ALTER ROLE r PASSWORD 'secret",
        "OPTIONS (user 'u', password 'secret')",
        "ALTER ROLE r PASSWORD 'one'; ALTER ROLE s PASSWORD 'secret'",
        "ALTER ROLE r PassWord 'secret'",
        "ALTER ROLE r PASSWORD = 'secret'",
        "ALTER ROLE r PASSWORD $$secret$$",
        "ALTER ROLE r PASSWORD $a$secret$a$",
        "ALTER ROLE r PASSWORD /* c */ 'secret'",
        "ALTER ROLE r PASSWORD -- c\n 'secret'",
        "ALTER ROLE r PASSWORD 'a'\n'secret'",
        "ALTER ROLE r PASSWORD 'a' -- c\n'secret'",
        "OPTIONS (\"password\" 'secret')",
        "OPTIONS (SET passwd 'secret')",
        "SELECT set_config('app.password','secret',false)",
        "SELECT set_config('app.db_password', E'secret', false)",
        "SET app.password TO 'secret'",
        "SET app.password = 'b', 'secret'",
        "SELECT crypt('secret', gen_salt('bf'))",
        "SELECT pgp_sym_encrypt(data, 'se)secret')",
        "host=h password = secret",
        "host=h password =secret user=u",
        "host=h password = 'my secret'",
        r"host=h password = 'it\'s secret'",
        r"host=h password = my\ secret",
        "'host=h password = ''my secret'''",
        r"E'host=h password = \'my secret\''",
        "host=h password = my'secret",
        "host=h password = $secret",
        'invalid input: "host=h password = secret"',
        "host=h sslpassword=secret",
        "host=h password=--secret user=u",
        "host=h password=$1,secret user=u",
        "SELECT 'password=--c'\n'secret'",
        "no answer from jdbc:postgresql://h/d?user=u&password=secret&ssl=true",
        "(jdbc:postgresql:d?password=--secret)",
        "no answer from postgresql+asyncpg://u:secret@h/d",
        "postgres+psycopg2://u:$0/secret@/d?host=h:1: refused",
        "host=h sslpassword = secret",
        "Host=h;Username=u;Password=secret;Database=d",
        "Server=h;Uid=u;Pwd=secret",
        "PGPASSWORD=secret psql",
        "DB_PASSWORD: secret",
        "password: my secret",
        "{password: secret}",
        '{"password": "secret"}',
        r'{"user": "u", "dbPassword" : "it\"s secret", "x": 1}',
        r'"{\"password\": \"my secret\"}"',
        "password => 'secret'",
        "password := 'secret'",
        "Key (email, password)=(a@b, secret) already exists.",
        "Key (password)=(secret) already exists.",
    ],
)
def test_passwords_in_sql(text: str) -> None:
    redacted = Redactor().text(text)
    assert "secret" not in redacted
    assert "***" in redacted


@pytest.mark.parametrize(
    "text",
    [
        'FATAL:  password authentication failed for user "app"',
        "the server asked for a password and none was given",
        "ALTER TABLE users ADD COLUMN password text NOT NULL DEFAULT ''",
        "CREATE INDEX password_resets_token ON password_resets (token)",
        "ALTER ROLE r PASSWORD NULL",
        "SELECT 'no such word here'",
        'column "password" of relation "users" does not exist',
        'column "password" is of type text but expression is of type integer',
        "DETAIL:  Non-superusers must provide a password in the user mapping.",
        "SELECT password::text FROM users WHERE password = $1",
        "SELECT password, name FROM users",
        "INSERT INTO users (id, password) VALUES ($1, $2)",
        "could not open /home/pwd/x",
        "see https://example.org:8080/a, or ask me@example.org",
        "function crypt(text, text) does not exist",
    ],
)
def test_what_is_no_password_stays_readable(text: str) -> None:
    assert Redactor(("quokka",)).text(text) == text


def test_values_of_every_depth() -> None:
    redactor = Redactor(["secret"])
    value = {"a": ["secret", ("x", {"b": "my secret"})], "n": 1, "none": None, "f": 0.5, "yes": True}
    assert redactor.value(value) == {"a": ["***", ["x", {"b": "my ***"}]], "n": 1, "none": None, "f": 0.5, "yes": True}
    assert redactor.mapping({"url": "postgresql://u:secret@h"}) == {"url": "postgresql://u:***@h"}


@pytest.mark.case("C3")
@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("postgresql://u:secret@h/d", "postgresql://u:***@h/d"),
        ("no postgresql://u:se'cret@h, but", "no postgresql://u:***@h, but"),
        ("'postgres://:secret@h'", "'postgres://:***@h'"),
        ("postgresql://u:sec@ret/x@h/d", "postgresql://u:***@h/d"),
        ("amqp://u:secret@h", "amqp://u:***@h"),
        ("see https://example.org:8080/a", "see https://example.org:8080/a"),
        ("'postgresql://u:sec ret\n@h/d'::int", "'postgresql://u:***@h/d'::int"),
        ("'postgresql://u:' || 'secret' || '@h/d'", "'postgresql://u:***@h/d'"),
        ("postgresql://u@h/d", "postgresql://u@h/d"),
    ],
)
def test_passwords_in_addresses(text: str, masked: str) -> None:
    assert Redactor().text(text) == masked


@pytest.mark.case("C3")
@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("CREATE SUBSCRIPTION s CONNECTION 'postgresql://u:p@h' PUBLICATION p", True),
        ("CREATE SUBSCRIPTION s CONNECTION 'host=h password=p' PUBLICATION p", True),
        ("CREATE TABLE t (a text DEFAULT 'postgresql://u:p w@h')", True),
        ("ALTER TABLE t ALTER a SET DEFAULT 'host=h password = p'", True),
        ("CREATE USER MAPPING FOR u SERVER s OPTIONS (sslpassword 'x')", True),
        ("CREATE SUBSCRIPTION s CONNECTION 'user=u sslpassword=x' PUBLICATION p", True),
        ("SELECT set_config('app.db_password', 'x', false)", True),
        ("SELECT 'Server=h;Pwd=x'", True),
        ("SELECT crypt('x', gen_salt('bf'))", True),
        ("SELECT 'postgresql://u:' || 'x' || '@h'", True),
        ("CREATE TABLE t (a text DEFAULT crypt('x', 'y'))", True),
        ("CREATE TABLE users (password text NOT NULL)", False),
        ("ALTER TABLE users ADD db_password text, ADD pwd text", False),
        ("CREATE INDEX ON password_resets (token)", False),
        ("INSERT INTO links VALUES ('https://example.org/a')", False),
    ],
)
def test_statements_that_may_hold_a_password(statement: str, expected: bool) -> None:  # noqa: FBT001
    assert may_hold_password(statement) == expected


@pytest.fixture
def known() -> Iterator[None]:
    redaction.know(["right", "Aq3Zr9Kw7Lm2", "1", "0a1b" * 8, "001_add_version_2_to_table"])
    yield
    redaction.know([])


@pytest.mark.case("C5")
@pytest.mark.usefixtures("known")
def test_ours_and_foreign() -> None:
    assert redaction.foreign("all right, 1") == "all ***, ***"
    assert redaction.foreign_values({"a": ["right"], "n": 1}) == {"a": ["***"], "n": 1}
    # The second check: a generated password, which no text of ours could contain.
    assert redaction.catch("all right, 1: Aq3Zr9Kw7Lm2") == "all right, 1: ***"
    assert redaction.catch(f"001_add_version_2_to_table.sql {'0a1b' * 8}") == "001_add_version_2_to_table.sql ***"
    assert redaction.catch_values({"a": ["right", "Aq3Zr9Kw7Lm2"]}) == {"a": ["right", "***"]}


@pytest.mark.case("C5")
@pytest.mark.usefixtures("known")
def test_a_report_that_was_read_back() -> None:
    report = "002_right.sql:1: ERROR:  not right\nLINE 1: SELECT right\nSQLSTATE:  42601\nDETAIL:  1"
    assert redaction.foreign_report(report, "002_right.sql") == (
        "002_right.sql:1: ERROR:  not ***\nLINE 1: SELECT ***\nSQLSTATE:  42601\nDETAIL:  ***"
    )


@pytest.mark.case("C7")
@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain \N{EURO SIGN}", "plain \N{EURO SIGN}"),
        ("a\x1b[2J\x07", "a\\x1b[2J\\x07"),
        ("one\ntwo\r", "one\\ntwo\\r"),
        ("\u202egnp\u2066\u2028", "\\u202egnp\\u2066\\u2028"),
        ("\x9b1m", "\\x9b1m"),
        ("\udcff", "\\udcff"),
        ("a\tb\u00a0c", "a\tb\u00a0c"),
    ],
)
def test_what_a_terminal_would_obey(text: str, shown: str) -> None:
    assert visible(text) == shown


@pytest.mark.case("C7")
def test_json_says_the_same() -> None:
    value = "a\x1b\x9b\u202e\u2028\U000e0001 \N{EURO SIGN}"
    shown = visible_json(json.dumps({"a": value}, ensure_ascii=False, indent=2))
    assert json.loads(shown) == {"a": value}
    assert all(line.isprintable() for line in shown.splitlines())
    assert "\N{EURO SIGN}" in shown


@pytest.mark.parametrize(
    "written",
    [
        "s3cr@t:/p+w é",
        "s3cr%40t:%2Fp+w é",
        "s3cr%40t%3A%2Fp%2Bw%20%C3%A9",
        "s3cr%40t%3a%2fp%2bw+%c3%a9",
        "s3cr%40t%3A/p%2Bw%20é",
    ],
)
def test_a_password_is_found_however_it_is_percent_encoded(written: str) -> None:
    known = Redactor(secrets_of("postgresql://u:s3cr%40t:%2Fp+w%20é@h/d"))
    assert known.text(f"100 % of {written}, 50%") == "100 % of ***, 50%"


ODD = """p"a'b\\c&<é\U0001f511>\n"""


@pytest.mark.parametrize(
    "written",
    [
        json.dumps(ODD)[1:-1],
        json.dumps(ODD, ensure_ascii=False)[1:-1],
        json.dumps(json.dumps(ODD))[3:-3],
        repr(ODD)[1:-1],
        ascii(ODD)[1:-1],
        repr(ODD.encode())[2:-1],
        html.escape(ODD),
        html.escape(ODD, quote=False),
        ODD.replace("'", "''"),
        ODD.replace("\\", "\\\\").replace("'", "\\'"),
        shlex.quote(ODD)[1:-1],
        ODD.replace("'", r"'\''"),
        "".join(f"&#x{ord(one):X};" if not one.isalnum() else one for one in ODD),
        r"p\"a'b\\c&<\303\251\360\237\224\221>\n",
        r"p\"a'b\\c&<\u{e9}\u{1f511}>\n",
    ],
)
def test_a_password_is_found_however_it_is_escaped(written: str) -> None:
    assert Redactor({ODD}).text(f"<{written}> & \\") == "<***> & \\"


def test_a_long_text_of_escapes_takes_no_long_time() -> None:
    known = Redactor({ODD, "\\" * 12})
    began = time.process_time()
    known.text("\\" * 200_000 + "p" + "&#x0000000" * 20_000)
    assert time.process_time() - began < 5


def test_a_password_of_letters_alone_has_no_other_form() -> None:
    assert Redactor({"hunter2"}).text("100% hunter, hunter%32") == "100% hunter, hunter%32"


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        *((name, name) for name in ("", "postgres", "shop-1_2.x", "größe", "my database", "app@tenant", "a%b")),
        *((name, "***") for name in ("://", "a:b@c", "//app:x@h/shop", "password = x", "shop\nWombat", "a\udcff")),
        ("my quokka", "my ***"),
        ("quokka", "quokka"),
        ("quokka-1", "quokka-1"),
    ],
)
def test_names(name: str, shown: str) -> None:
    redaction.know(["quokka"])
    try:
        assert redaction.named(name) == shown
    finally:
        redaction.know([])
