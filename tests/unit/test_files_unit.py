"""Names, numbers, texts and checksums."""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING

import pytest

from entrypoint.errors import ConfigurationError
from entrypoint.errors.migration import MigrationFilesError
from entrypoint.migration.script.files import better_name, checksum, decode, load_directory, number_of, slug
from entrypoint.migration.script.prepare import refuse_bad_names

if TYPE_CHECKING:
    from pathlib import Path

NAMES = {
    "001_a.sql": 1,
    "000_a.sql": 0,
    "012_add_users_2.sql": 12,
    "1234_a.sql": 1234,
    "20240131120000_a.sql": 20240131120000,
    "2147483647_a.sql": 2147483647,
    "2147483648_a.sql": 2147483648,
    "999999999999999999_a.sql": 999999999999999999,
    "1000000000000000000_a.sql": None,
    "000000000000000001_a.sql": 1,
    "0000000000000000001_a.sql": None,
    f"{'9' * 250}_a.sql": None,
    "0000000001_a.sql": 1,
    "001_.sql": None,
    "001__.sql": 1,
    "001.sql": None,
    "01_a.sql": None,
    "001_A.sql": None,
    "001_a.SQL": None,
    "001-a.sql": None,
    "001_a b.sql": None,
    "001_a.up.sql": None,
    "001_ä.sql": None,
    "\u0660\u0660\u0661_a.sql": None,  # Arabic digits
    "a_001.sql": None,
    " 001_a.sql": None,
    "001_a.sql\n": None,
    "001_a.sql ": None,
}


@pytest.mark.parametrize("name", NAMES)
def test_number_of(name: str) -> None:
    assert number_of(name) == NAMES[name]


BETTER = {
    "1_a.sql": "001_a.sql",
    "12-add users.sql": "012_add_users.sql",
    "001-add-users.sql": "001_add_users.sql",
    "001 add users.sql": "001_add_users.sql",
    "001.add.users.sql": "001_add_users.sql",
    "001AddUsers.sql": "001_add_users.sql",
    "001_AddUsers.SQL": "001_add_users.sql",
    "001.sql": "001_description.sql",
    "001_.sql": "001_description.sql",
    "1.sql": "001_description.sql",
    "users.sql": "NNN_users.sql",
    ".sql": "NNN_description.sql",
    "001_größe.sql": "001_gr_e.sql",
    "001___a___b___.sql": "001_a_b.sql",
}


@pytest.mark.parametrize("name", BETTER)
def test_better_name(name: str) -> None:
    better = better_name(name)
    assert better == BETTER[name]
    assert number_of(better) is not None or better.startswith("NNN_")


@pytest.mark.case("D10")
@pytest.mark.parametrize(
    ("name", "whose", "ours"),
    [
        ("000001_init.down.sql", "golang-migrate", "name it rollback/000001_init.sql"),
        ("000001_init.up.sql", "golang-migrate", "name it 000001_init.sql"),
        ("1_Add Users.UP.sql", "sqlx", "name it 001_add_users.sql"),
        ("V1__init.sql", "Flyway", "name it 001_init.sql"),
        ("v20260101__Init.sql", "Flyway", "name it 20260101_init.sql"),
        ("V2.1__Add-Users.sql", "Flyway", "name it NNN_add_users.sql"),
        ("U1__init.sql", "Flyway", "name it rollback/001_init.sql"),
        ("R__views.sql", "Flyway", "repeatable/views.sql"),
        ("004_x.rollback.sql", "a down migration", "name it rollback/004_x.sql"),
        ("005_y.revert.sql", "a down migration", "name it rollback/005_y.sql"),
        ("1_foo.undo.sql", "a down migration", "name it rollback/001_foo.sql"),
        ("006.down.sql", "a down migration", "name it rollback/006_description.sql"),
        ("001-init.DOWN.SQL", "a down migration", "name it rollback/001_init.sql"),
        ("2.init.Down.sql", "a down migration", "name it rollback/002_init.sql"),
        ("001_a.b.down.sql", "golang-migrate", "name it rollback/001_a_b.sql"),
        ("init.down.sql", "a down migration", "name it rollback/NNN_init.sql"),
        ("down.sql", "a down migration", "name it rollback/NNN_description.sql"),
        ("007-undo.sql", "a down migration", "name it rollback/007_description.sql"),
        ("001-init.UP.SQL", "must be named", "001_init.sql"),
        ("1-init-down.sql", "if it is a down migration", "rollback/001_init.sql"),
        ("1_shut_down.sql", "if it is a down migration", "or else NNN_description.sql"),
        ("rollback_1_init.sql", "if it is a down migration", "rollback/NNN_1_init.sql"),
        ("1-DownTown.sql", "must be NNN_description.sql", "001_down_town.sql"),
        ("1-markdown.sql", "must be NNN_description.sql", "001_markdown.sql"),
        ("009_a\nb.sql", "must be NNN_description.sql", "009_a_b.sql"),
    ],
)
def test_another_tools_names_are_known_and_no_way_back_becomes_a_migration(
    tmp_path: Path, name: str, whose: str, ours: str
) -> None:
    (tmp_path / name).write_text("SELECT 1")
    (flaw,) = load_directory(str(tmp_path)).faults
    assert flaw.rule == "name"
    assert whose in flaw.message
    assert ours in flaw.message
    assert "_down.sql" not in flaw.message


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("add users", "add_users"),
        ("AddUsers", "add_users"),
        ("HTTPServer", "httpserver"),
        ("version2Tables", "version2_tables"),
        ("  -- a --  ", "a"),
        ("äöü", ""),
        ("", ""),
    ],
)
def test_slug(words: str, expected: str) -> None:
    assert slug(words) == expected


PLAIN = b"SELECT 1;\nSELECT 'a\tb';\n"
SPELLINGS = {
    "plain": PLAIN,
    "CRLF": PLAIN.replace(b"\n", b"\r\n"),
    "mixed": b"SELECT 1;\r\nSELECT 'a\tb';\n",
    "CR": PLAIN.replace(b"\n", b"\r"),
    "byte-order mark": b"\xef\xbb\xbf" + PLAIN,
    "byte-order mark and CRLF": b"\xef\xbb\xbf" + PLAIN.replace(b"\n", b"\r\n"),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_all_spellings_of_a_text_are_one_text(spelling: str) -> None:
    assert checksum(SPELLINGS[spelling]) == sha256(PLAIN).hexdigest()
    assert decode(SPELLINGS[spelling]) == PLAIN.decode()


def test_only_the_first_mark_is_a_mark() -> None:
    assert decode(b"\xef\xbb\xbf\xef\xbb\xbfa") == "\ufeffa"
    assert decode(b"a\xef\xbb\xbf") == "a\ufeff"


@pytest.mark.parametrize("content", [b"\xff", b"a\xc3", b"\xed\xa0\x80", b"\xc0\x80"])
def test_what_is_not_utf8(content: bytes) -> None:
    with pytest.raises(UnicodeDecodeError):
        decode(content)


def write(directory: Path, *names: str) -> str:
    for name in names:
        (directory / name).write_bytes(b"SELECT 1")
    return str(directory)


def test_a_directory(tmp_path: Path) -> None:
    path = write(tmp_path, "010_b.sql", "002_a.sql", "1000_c.sql", ".003_hidden.sql", "README.md", "004_x.sql.bak")
    directory = load_directory(path)
    assert [file.number for file in directory.files] == [2, 10, 1000]
    assert [file.name for file in directory.files] == ["002_a.sql", "010_b.sql", "1000_c.sql"]
    assert {file.checksum for file in directory.files} == {sha256(b"SELECT 1").hexdigest()}
    (warning,) = directory.warnings
    assert "003 to 009, 011 to 999" in warning


@pytest.mark.parametrize(
    ("names", "gaps"),
    [
        (("001_a.sql", "003_b.sql", "20240131120000_c.sql", "20240302080000_d.sql"), "no migration 002"),
        (("001_a.sql", "002_b.sql", "20240131_c.sql", "20240302_d.sql", "1706702400_e.sql"), ""),
        (("9999997_a.sql", "9999999_b.sql", "10000001_c.sql"), "no migration 9999998"),
        (("9999998_a.sql", "9999999_b.sql", "10000001_c.sql"), ""),
    ],
)
def test_there_are_no_gaps_among_timestamps(tmp_path: Path, names: tuple[str, ...], gaps: str) -> None:
    warnings = load_directory(write(tmp_path, *names)).warnings
    assert [text.partition(": ")[2] for text in warnings] == ([gaps] if gaps else [])


@pytest.mark.parametrize("rest", ["_a.sql", "-A b.sql", ".sql", "_a.down.sql"])
@pytest.mark.parametrize("digits", ["2" * 19, "0" * 18 + "1", "9" * 200])
def test_a_number_with_too_many_digits_is_told_so(tmp_path: Path, digits: str, rest: str) -> None:
    (fault,) = load_directory(write(tmp_path, f"{digits}{rest}")).faults
    assert fault.rule == "name"
    assert fault.message == f"the number has {len(digits)} digits; 18 are the most, leading zeros included"


def test_what_is_before_the_first_number_is_no_gap(tmp_path: Path) -> None:
    assert load_directory(write(tmp_path, "005_a.sql", "006_b.sql")).warnings == ()


def test_an_empty_directory(tmp_path: Path) -> None:
    directory = load_directory(str(tmp_path))
    assert directory.files == ()
    assert len(directory.warnings) == 1


def test_every_fault_is_listed(tmp_path: Path) -> None:
    path = write(tmp_path, "001_a.sql", "0001_b.sql", "2_c.sql", "D.sql", "003_e.sql", "003_f.sql", "003_g.sql")
    faults = load_directory(path).faults
    assert len(faults) == 4
    with pytest.raises(MigrationFilesError) as raised:
        refuse_bad_names(load_directory(path))
    told = "\n".join(map(str, faults))
    assert raised.value.fields["faults"] == told.splitlines()
    for name in ("001_a.sql", "0001_b.sql", "2_c.sql", "D.sql", "003_e.sql", "003_f.sql", "003_g.sql"):
        assert name in told


def test_no_directory(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="No such file or directory"):
        load_directory(str(tmp_path / "none"))


def test_a_checksum_matches(tmp_path: Path) -> None:
    (tmp_path / "001_a.sql").write_bytes(b"a\r\n")
    (file,) = load_directory(str(tmp_path)).files
    assert file.matches(None)
    assert file.matches(sha256(b"a\n").hexdigest())
    assert file.matches(sha256(b"a\r\n").hexdigest())
    assert not file.matches(sha256(b"a").hexdigest())
    assert not file.matches("")
