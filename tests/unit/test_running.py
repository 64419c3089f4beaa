"""Which statement the lock's holder is running, and who waits for it, from values and files alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from entrypoint.migration.ledger.reading import LockRow
from entrypoint.migration.script.prepare import load_files
from entrypoint.operations.waiters import Lookout, Waiter, Waiters, _Sighting
from entrypoint.redaction import MASK
from entrypoint.service.running import Excerpt, Running

if TYPE_CHECKING:
    from pathlib import Path

TEXT = """-- What it is for.
CREATE TABLE a (i int);

CREATE INDEX first
  ON a (i);
UPDATE a SET i = 2;
CREATE ROLE x
  PASSWORD 'hunter2';
CREATE ROLE y PASSWORD 'hunter3';
"""


def row(statement: int | None, statements: int | None = 5, migration: str = "001_a.sql", **detail: object) -> LockRow:
    return LockRow(
        held=True, since=None, seconds=1, holder="pod", process_id=7, token="t.1", migration=migration,
        statement=statement, statements=statements, detail=detail,
    )  # fmt: skip


CASES = {
    "the first": (row(1), Excerpt(2, "CREATE TABLE a (i int)", or_later=False)),
    "of several lines": (row(2), Excerpt(4, "CREATE INDEX first", or_later=False)),
    "a secret on a later line": (row(4), Excerpt(7, "CREATE ROLE x", or_later=False)),
    "a secret": (row(5), Excerpt(9, f"CREATE ROLE y PASSWORD '{MASK}'", or_later=False)),
    "or a later one": (row(1, or_later=True), Excerpt(2, "CREATE TABLE a (i int)", or_later=True)),
    "or a later one, whose command is known": (
        row(1, or_later=True, command="CREATE INDEX"),
        Excerpt(4, "CREATE INDEX first", or_later=False),
    ),
    "or a later one, of a command that is not in the file": (
        row(1, or_later=True, command="COPY FROM"),
        Excerpt(2, "CREATE TABLE a (i int)", or_later=True),
    ),
    "or one of two that begin alike": (
        row(4, or_later=True, command="CREATE ROLE"),
        Excerpt(7, "CREATE ROLE x", or_later=True),
    ),
    "not told yet": (row(None, None), None),
    "of a file with fewer statements": (row(1, 4), None),
    "beyond the last": (row(6), None),
    "of a file that is not here": (row(1, migration="002_b.sql"), None),
    "a backup": (row(None, None, migration="backup"), None),
}


@pytest.mark.parametrize("case", CASES)
def test_the_statement(tmp_path: Path, case: str) -> None:
    lock, expected = CASES[case]
    (tmp_path / "001_a.sql").write_text(TEXT)
    directory = load_files(str(tmp_path), 2**20, repeating=False)
    assert Running().statement(lock, directory, escapes=False) == expected


def test_a_file_that_changes_is_read_again_and_a_large_one_not_at_all(tmp_path: Path) -> None:
    file, running = tmp_path / "001_a.sql", Running()
    for text, expected in (
        ("SELECT 1;", Excerpt(1, "SELECT 1", or_later=False)),
        ("\nSELECT 2;", Excerpt(2, "SELECT 2", or_later=False)),
        ("SELECT 3;" + " " * 2**18, None),
        ("BEGIN; BEGIN; SELECT 'not closed", None),
    ):
        file.write_text(text)
        directory = load_files(str(tmp_path), 2**20, repeating=False)
        assert running.statement(row(1, 1), directory, escapes=False) == expected, text
    file.unlink()
    assert Running().statement(row(1, 1), directory, escapes=False) is None


# --- Who waits ----------------------------------------------------------------------------------------------


def sighting(name: str, *, glances: bool = False, hidden: bool = False) -> _Sighting:
    return _Sighting(name, Waiter(f"10.0.0.{name}", "2026-11-02T06:12:20Z"), glances, hidden)


def test_whoever_was_seen_waiting_waits_until_it_has_gone_or_been_quiet_for_long() -> None:
    now = [0.0]
    lookout = Lookout(lambda: now[0])

    def seen(*found: _Sighting) -> list[str]:
        judged = lookout._judge(list(found))
        assert judged.known
        return [one.address.rpartition(".")[2] for one in judged.starts]

    # A session that was not seen waiting does not count: another service, or a command.
    assert seen(sighting("1", glances=True), sighting("2")) == ["1"]
    # While it looks, which is another statement.
    now[0] = 1.0
    assert seen(sighting("1"), sighting("2", glances=True)) == ["1", "2"]
    assert seen(sighting("2")) == ["2"]
    now[0] = 12.0
    assert seen(sighting("2")) == []
    assert seen(sighting("2", glances=True)) == ["2"]
    lookout.forget()
    assert seen(sighting("2")) == []


def test_what_may_not_be_seen_may_be_more() -> None:
    found = Lookout()._judge([sighting("1", glances=True), sighting("2", hidden=True)])
    assert not found.known
    assert len(found.starts) == 1
    assert found.documented() is None
    assert Waiters(known=True, starts=(Waiter("", "x"),)).documented() == [{"address": None, "since": "x"}]
