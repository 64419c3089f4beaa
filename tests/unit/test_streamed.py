"""A large file that is read in parts gives the same result as reading all of it, wherever a part ends."""

from __future__ import annotations

import os
from itertools import pairwise
from random import Random
from typing import TYPE_CHECKING

import pytest

from entrypoint.errors.migration import MigrationFilesError
from entrypoint.migration.script import streamed
from entrypoint.migration.script.files import MigrationFile, checksum, decode, opened, sums
from entrypoint.migration.script.parts import LargeStatements, LargeText
from entrypoint.migration.script.prepare import Prepared, examine
from entrypoint.migration.script.report import position_of
from entrypoint.migration.script.rollout import rollout_of
from entrypoint.migration.script.statements import Advice, advise
from entrypoint.migration.script.streamed import look_through
from entrypoint.migration.script.strings import STANDARD
from entrypoint.migration.script.sums import sums_of
from entrypoint.migration.script.text import OF_THE_LEDGER, TIMEOUTS, NotUtf8Error, names
from fuzz import texts

if TYPE_CHECKING:
    from pathlib import Path

ROW = "INSERT INTO a VALUES (1, 'grün ☃ 😀; it''s', ('x', (2, (3, (4)))));\n"


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    set_sizes(monkeypatch, 64, 256)


def set_sizes(monkeypatch: pytest.MonkeyPatch, part: int, statement: int) -> None:
    monkeypatch.setattr(streamed, "_PART", part)
    monkeypatch.setattr(streamed, "_LARGE_STATEMENT", statement)


def as_read(path: Path, content: bytes) -> tuple[LargeText, Advice] | None:
    """Read the content in parts, and compare everything that can be asked with the result for all of it."""
    path.write_bytes(content)
    found = look_through(str(path))
    if found is None:
        return None
    text = decode(content)
    whole = advise(text, parse_limit=0, in_doubt_only=True)
    assert found.checksum == checksum(content)
    assert str(found.text) == text
    advice = found.advice
    judged = (whole.faults, whole.transactional, whole.odd_strings, whole.unless_deferred, whole.left_out)
    assert judged == ((), True, False, False, ())
    assert whole.readings == advice.readings == STANDARD
    assert advice.body == whole.body
    assert (advice.begin, advice.wrapped, advice.directives) == (whole.begin, whole.wrapped, whole.directives)
    assert advice.commands == whole.commands
    assert tuple(advice.statements) == tuple(whole.statements)
    assert len(advice.statements) == len(whole.statements)
    for words in (*OF_THE_LEDGER, *TIMEOUTS):
        assert names(found.text, words) == names(text, words)
    _compare_parts(advice, whole)
    return found.text, advice


def _compare_parts(advice: Advice, whole: Advice) -> None:
    source = advice.source
    assert isinstance(source, LargeText)
    parts = source.parts
    assert (parts[0].start, parts[0].first, parts[0].place, parts[0].line) == (0, 0, 0, 1)
    assert (parts[-1].end, parts[-1].after) == (len(whole.body), len(whole.statements))
    for before, after in pairwise(parts):
        assert (before.end, before.after, before.place + before.size) == (after.start, after.first, after.place)
    for index, part in enumerate(parts):
        text = whole.body[part.start : part.end]
        assert source.encoded(index).decode() == text
        assert part.line == whole.body.count("\n", 0, part.start) + 1
        assert all(part.start <= one.start <= one.end <= part.end for one in whole.statements[part.first : part.after])


def test_texts_made_of_the_nastiest_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seed = Random().random()
    print(f"seed {seed}")  # noqa: T201
    random = Random(seed)
    read = 0
    for _ in range(150):
        set_sizes(monkeypatch, random.choice((20, 64, 300)), random.choice((120, 1000)))
        text = "".join(
            random.choice((texts.make(random), ROW, "-- grün 😀; \n", "\n", ROW.replace("1", "1\r\n")))
            for _ in range(random.randrange(1, 12))
        )
        bom = random.choice((b"", b"\xef\xbb\xbf"))
        read += as_read(tmp_path / "001_x.sql", bom + text.encode()) is not None
    assert read > 15


@pytest.mark.parametrize(
    "text",
    [
        ROW * 20,
        f"BEGIN;\n{ROW * 20}COMMIT;\n-- the end\n",
        f"\\restrict abc;def\nSET lock_timeout = 0;\n{ROW * 20}\\unrestrict abc\n",
        f"begin isolation level serializable;\n{ROW * 20}end;",
        f"SET TRANSACTION ISOLATION LEVEL REPEATABLE READ;\n{ROW * 9}",
        f"-- entrypoint: timeout = 3min\n{'-- a comment; ' * 30}\n{ROW * 9}",
        f"{ROW * 9}DO $a$ BEGIN PERFORM ';'; {'NULL; ' * 100}END $a$;\n{ROW}",
        f"{ROW * 9}CREATE FUNCTION f() RETURNS int BEGIN ATOMIC {'SELECT 1; ' * 9} END;\n{ROW}",
        f"-- entrypoint: lock-timeout = 3s\n/* SCHEMA_MIGRATIONS */\nINSERT INTO a SELECT {'1, ' * 900} 1",
        f"INSERT INTO a VALUES {', '.join(['(1)'] * 1000)}",
        f"INSERT INTO a VALUES ('{'a;b' * 1000}'); {ROW * 3}",
        f"{ROW * 9}INSERT INTO a SELECT /* {'; /* ; */' * 100} */ 1 -- {'; ' * 300}\n;{ROW}",
        f"{ROW}INSERT INTO a SELECT {'E' * 700}'a\\', 1 FROM migration_lock, {'(' * 400}1{')' * 400};{ROW}",
        f"{ROW}INSERT INTO a VALUES ({', '.join([chr(39) + chr(0xE9) * 70 + chr(39)] * 90)}, E'a\\';'\n\n'b');{ROW}",
        f"{ROW}SELECT 1;\n\ufeffSELECT 2; {ROW}",
        f"{ROW};;;; ; {';' * 500}{ROW}",
    ],
)
@pytest.mark.parametrize("spelling", ["LF", "CRLF", "CR", "BOM"])
def test_what_large_files_look_like(tmp_path: Path, text: str, spelling: str) -> None:
    content = text.replace("\n", {"CRLF": "\r\n", "CR": "\r"}.get(spelling, "\n")).encode()
    assert as_read(tmp_path / "001_x.sql", (b"\xef\xbb\xbf" if spelling == "BOM" else b"") + content) is not None


@pytest.mark.parametrize(
    "text",
    [
        f"{ROW}COMMIT;\n{ROW * 9}",
        f"BEGIN;\n{ROW * 9}",
        f"BEGIN;\n{ROW * 9}COMMIT;\n{ROW * 9}",
        f"{ROW * 9}VACUUM a;\n",
        f"{ROW * 9}\\copy a from b\n{ROW}",
        f"{ROW * 9}\\connect -\n{ROW}",
        f"{ROW * 9}COPY a FROM stdin;\n1\n\\.\n",
        f"{ROW * 9}SELECT 'never closed;\n{ROW * 9}",
        f"{ROW * 9}SELECT 'a\0b';\n{ROW * 9}",
        f"{ROW * 9}SET standard_conforming_strings = off;\n{ROW * 9}",
        f"{ROW * 9}DO $$ BEGIN SET standard_conforming_strings = off; END $$;\n{ROW * 9}",
        f"{ROW * 9}INSERT INTO a SELECT set_config('standard_conforming_strings', 'off', true), '{'x' * 999}';\n{ROW}",
        f"{ROW * 9}INSERT INTO a SELECT {'1, ' * 999} \\gexec\n{ROW}",
        f"{ROW * 9}INSERT INTO a SELECT {'1, ' * 999}\n-- +goose Down\n{ROW}",
        f"{ROW * 9}INSERT INTO a SELECT {'1, ' * 999} '{ROW}",
        f"{ROW * 9}-- entrypoint: timeout = 1s\n{ROW * 9}",
        f"{ROW * 9}-- +goose Down\n{ROW * 9}",
        f"-- entrypoint: no-transaction\n{ROW * 9}",
        f"-- entrypoint: nonsense = 1\n{ROW * 9}",
        f"-- Entrypoint: phase = after\n{ROW * 9}",
        f"{ROW * 9}CREATE FUNCTION f() RETURNS int BEGIN ATOMIC {'SELECT 1; ' * 100} END;\n{ROW}",
        f"-- +goose Up\nINSERT INTO a SELECT {'1, ' * 900} 1",
        f"{ROW}-- entrypoint: timeout = 3s\nINSERT INTO a SELECT {'1, ' * 900} 1",
        f"-- entrypoint: batch = a(id) by 10\nINSERT INTO a SELECT {'1, ' * 999} 1;",
        f"ALTER TYPE t ADD VALUE 'new';\n{ROW * 20}SELECT 'new'::t;\n",
        f"SET TRANSACTION READ ONLY;\n{ROW * 20}",
        f"{ROW * 9}CREATE TABLE b ({', '.join(f'a{number} int' for number in range(300))});{ROW}",
    ],
)
def test_what_is_read_as_a_whole(tmp_path: Path, text: str) -> None:
    """These have errors, need more than one transaction, or are too unusual."""
    assert as_read(tmp_path / "001_x.sql", text.encode()) is None


@pytest.mark.parametrize("size", [3, 64, 300, 1 << 18])
@pytest.mark.parametrize(
    "content", [b"", b"a", b"\xef\xbb\xbfa\r\n\rb\r", b"a\r\n" * 90_000, b"\r" * 600_000, b"\xef\xbb"]
)
def test_checksums_piece_by_piece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, size: int) -> None:
    if len(content) > 1000 * size:
        content = content[: 1000 * size]
    monkeypatch.setattr("entrypoint.migration.script.sums._CHUNK", size)
    path = tmp_path / "x"
    path.write_bytes(content)
    with path.open("rb") as file:
        assert sums_of(file.fileno(), len(content)) == sums(content)


def test_a_size_that_is_not_true(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"abc")
    for size in (2, 4):
        descriptor, _ = opened(str(path))
        assert sums_of(descriptor, size) is None
        os.close(descriptor)


@pytest.mark.parametrize("bad", [b"\xff", b"\xc3", b"\xf0\x9f\x98", b"\xed\xa0\x80", b"\xc3("])
@pytest.mark.parametrize("where", ["between statements", "in a large statement", "at the end"])
def test_what_is_no_utf8(tmp_path: Path, bad: bytes, where: str) -> None:
    before = (ROW * 5).replace("\n", "\r\n").encode()
    if where == "in a large statement":
        before += b"INSERT INTO a VALUES " + b"(1),\n" * 200
    content = before + bad + (b"" if where == "at the end" else b" 1;\n" + ROW.encode() * 5)
    path = tmp_path / "001_x.sql"
    path.write_bytes(content)
    with pytest.raises(NotUtf8Error) as raised:
        look_through(str(path))
    with pytest.raises(UnicodeDecodeError) as whole:
        decode(content)
    error = whole.value
    line = error.object.count(b"\n", 0, error.start) + 1
    assert (raised.value.byte, raised.value.offset, raised.value.line) == (bad[0], error.start, line)


def test_places_in_a_text(tmp_path: Path) -> None:
    text = "".join(f"INSERT INTO a VALUES ({number}, 'é\\');\n\n" for number in range(200)) + "  -- end"
    found = as_read(tmp_path / "001_x.sql", text.encode())
    assert found is not None
    large, advice = found
    prepared = Prepared(MigrationFile(1, "001_x.sql", "", "", ""), large, advice)
    random = Random(1)
    for _ in range(300):
        place, other = sorted(random.randrange(len(text) + 1) for _ in range(2))
        assert large[place:other] == text[place:other]
        assert large.count("\n", 0, place) == text.count("\n", 0, place)
        assert large.count("1", place, other) == text.count("1", place, other)
        assert large.find("\\", place) == text.find("\\", place)
        assert large.find("\\", place, other) == text.find("\\", place, other)
        assert large.rfind("\n", place, other) == text.rfind("\n", place, other)
        assert position_of(large, place) == position_of(text, place)
        statement = prepared.statement_at(place)
        assert statement in text
        for one in advice.statements:
            if one.start <= place <= one.end:
                assert statement == text[one.start : one.end]
    statements = advice.statements
    assert isinstance(statements, LargeStatements)
    assert statements[-1] == list(statements)[-1]
    assert list(statements[3:5]) == list(statements)[3:5]
    with pytest.raises(IndexError):
        statements[len(statements)]


def change(path: Path, how: str) -> None:
    content = path.read_bytes()
    if how == "in place":
        with path.open("r+b") as file:
            file.seek(len(content) - 5)
            file.write(b"X")
    elif how == "replaced":
        other = path.with_name("other")
        other.write_bytes(content.replace(b"1", b"2"))
        other.rename(path)
    elif how == "shortened":
        path.write_bytes(content[:-3])
    else:
        path.unlink()


@pytest.mark.parametrize("how", ["in place", "replaced", "shortened", "gone"])
def test_what_was_checked_is_what_is_read(tmp_path: Path, how: str) -> None:
    path = tmp_path / "001_x.sql"
    found = as_read(path, (ROW * 50).encode())
    assert found is not None
    text, _ = found
    change(path, how)
    with pytest.raises(MigrationFilesError, match=r"has changed since it was checked|can no longer be read"):
        text.encoded(len(text.parts) - 1)
    with pytest.raises(MigrationFilesError):
        str(text)


@pytest.mark.parametrize(
    "text",
    [
        ROW * 5,
        f"BEGIN /* a */ ISOLATION\nLEVEL SERIALIZABLE;\n{ROW}COMMIT;\n",
        f"\ufeff\\restrict a;b\n{ROW}\\echo x\nUPDATE schema_migrations SET id = 1".replace("\n", "\r\n"),
        f"BEGIN;\n{ROW}COMMIT; BEGIN;\n{ROW}END",
        "",
        "-- nothing",
    ],
)
def test_a_file_of_which_no_text_is_kept(tmp_path: Path, text: str) -> None:
    path = tmp_path / "001_x.sql"
    path.write_bytes(text.encode())
    file = MigrationFile(1, "001_x.sql", str(path), *sums(path.read_bytes()))
    whole, _ = examine(file)
    assert whole is not None
    short = whole.in_short()
    assert isinstance(short.source, LargeText)
    assert (short.text, short.advice.body) == (whole.text, whole.advice.body)
    assert tuple(short.advice.statements) == tuple(whole.advice.statements)
    for words in (*OF_THE_LEDGER, *TIMEOUTS):
        assert names(short.source, words) == names(whole.source, words)
    assert short.in_short() is short
    source = short.advice.source
    assert isinstance(source, LargeText)
    assert source.encoded(0).decode() == whole.advice.body


@pytest.mark.parametrize(
    "text",
    ["VACUUM a;", "-- entrypoint: no-transaction\nSELECT 1;", "SET standard_conforming_strings = off; SELECT 'a\\'';'"],
)
def test_a_file_whose_text_is_kept_whatever_comes(tmp_path: Path, text: str) -> None:
    path = tmp_path / "001_x.sql"
    path.write_text(text)
    one, _ = examine(MigrationFile(1, "001_x.sql", str(path), *sums(path.read_bytes())))
    assert one is not None
    assert one.in_short() is one


def test_only_a_large_file_that_is_to_run_is_read_in_parts(tmp_path: Path) -> None:
    path = tmp_path / "001_x.sql"
    for size, whole, large in ((1 << 20, False, True), (1 << 20, True, False), (0, False, False)):
        path.write_text(ROW + " " * size)
        file = MigrationFile(1, "001_x.sql", str(path), checksum(path.read_bytes()), "")
        prepared, faults = examine(file, whole=whole)
        assert not faults
        assert prepared is not None
        assert isinstance(prepared.source, LargeText) == large
        assert prepared.text == path.read_text()


@pytest.mark.parametrize("above", ["", "-- a\n/* b */\n", "\\restrict a\n", "-- " + "x" * 70_000 + "\n"])
def test_what_a_large_file_says_of_the_rollout(tmp_path: Path, above: str) -> None:
    path = tmp_path / f"{len(above)}.sql"
    path.write_text(f"\ufeff{above}-- entrypoint: phase = after\n{'-- é' * 9}\nSELECT 1;\n{' ' * (1 << 20)}")
    assert rollout_of(MigrationFile(1, "001_x.sql", str(path), "", "")).after
