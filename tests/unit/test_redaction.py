"""What is a secret, and how it is taken out of a text."""

from __future__ import annotations

import pytest

from entrypoint.redaction import Redactor, mask_quoted, secrets_of


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
    ],
)
def test_secrets_of_an_address(address: str, secrets: set[str]) -> None:
    assert secrets_of(address) == secrets


@pytest.mark.parametrize(
    ("address", "secret"),
    [
        # What libpq understands, whatever it looked like.
        (r"host=h password='it\'s secret'", "it's secret"),
        (r"host=h password=se\ cret", "se cret"),
        (r"host=h password=se\\cret", r"se\cret"),
        ("host=h password=se&cret", "se&cret"),
        # What was meant, where libpq understands something else.
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
        # A short one only where it stands alone; otherwise hardly anything would be left to read.
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
        "the server wants a password and none was given",
        "ALTER TABLE users ADD COLUMN password text NOT NULL DEFAULT ''",
        "CREATE INDEX password_resets_token ON password_resets (token)",
        "ALTER ROLE r PASSWORD NULL",
        "SELECT 'no such word here'",
    ],
)
def test_what_is_no_password_stays_readable(text: str) -> None:
    assert Redactor(("quokka",)).text(text) == text


def test_values_of_every_depth() -> None:
    redactor = Redactor(["secret"])
    value = {"a": ["secret", ("x", {"b": "my secret"})], "n": 1, "none": None, "f": 0.5, "yes": True}
    assert redactor.value(value) == {"a": ["***", ["x", {"b": "my ***"}]], "n": 1, "none": None, "f": 0.5, "yes": True}
    assert redactor.mapping({"url": "postgresql://u:secret@h"}) == {"url": "postgresql://u:***@h"}
