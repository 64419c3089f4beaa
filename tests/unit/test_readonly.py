"""What to do about a session that is read-only by default, depending on where the default comes from."""

from __future__ import annotations

import pytest

from entrypoint.migration.ledger.readonly import ReadOnlyFacts, Stored, remedy

FACTS = ReadOnlyFacts(standby=False, on=True, source="", file="", line="", login="shop", database='"Shop"', stored=())
DATABASE_USER, USER, DATABASE, ALL = (
    Stored(source, on=True) for source in ("database user", "user", "database", "global")
)


@pytest.mark.case("D7")
@pytest.mark.parametrize(
    ("stored", "says"),
    [
        (
            [DATABASE_USER],
            'As shop or a superuser: ALTER ROLE shop IN DATABASE "Shop" RESET default_transaction_read_only. ',
        ),
        ([USER], "As shop or a superuser: ALTER ROLE shop RESET default_transaction_read_only. "),
        (
            [DATABASE],
            'As the database\'s owner or a superuser: ALTER DATABASE "Shop" RESET default_transaction_read_only. ',
        ),
        ([ALL], "As a superuser: ALTER ROLE ALL RESET default_transaction_read_only. "),
        (
            [USER, ALL],
            "default_transaction_read_only; ALTER ROLE ALL RESET default_transaction_read_only. ",
        ),
        ([USER, DATABASE._replace(on=False), ALL], "ALTER ROLE shop RESET default_transaction_read_only. "),
    ],
)
def test_what_is_stored(stored: list[Stored], says: str) -> None:
    found = remedy(FACTS._replace(source=stored[0].source, stored=tuple(stored)))
    assert says in found
    assert "SET default_transaction_read_only = off" in found


@pytest.mark.case("D7")
@pytest.mark.parametrize("stored", [(), (USER._replace(on=False), DATABASE)], ids=["reset", "set to off"])
def test_what_was_stored_when_the_session_began(stored: tuple[Stored, ...]) -> None:
    found = remedy(FACTS._replace(source="user", stored=stored))
    assert "was on for the login shop when this session began" in found
    assert "RECONNECT" in found


@pytest.mark.case("D7")
@pytest.mark.parametrize(
    ("source", "file", "says"),
    [
        ("client", "", "from `options` in the address"),
        ("command line", "", "on its command line"),
        ("configuration file", "", "ALTER SYSTEM SET default_transaction_read_only = off; SELECT pg_reload_conf()"),
        ("configuration file", "/d/postgresql.auto.conf", "ALTER SYSTEM RESET default_transaction_read_only; SELECT"),
        ("configuration file", "/d/conf.d/a.conf", "is on in /d/conf.d/a.conf, line 7. Set it to off there"),
        ("session", "", "another client of the pooler"),
        ("override", "", "source: override"),
    ],
)
def test_what_is_set_elsewhere(source: str, file: str, says: str) -> None:
    assert says in remedy(FACTS._replace(source=source, file=file, line=file and "7"))
