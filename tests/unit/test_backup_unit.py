"""Backups without a database: names, programs, and what a finished program's result means."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
from psycopg.conninfo import conninfo_to_dict

from entrypoint.backup import names, store
from entrypoint.backup.dump import _failure
from entrypoint.backup.programs import PgDump, candidates, choose, missing
from entrypoint.backup.waiting import ChildResult
from entrypoint.database.quoting import conninfo
from entrypoint.errors import DatabaseUnavailableError
from entrypoint.errors.operator import BackupFailedError

if TYPE_CHECKING:
    from pathlib import Path

MOMENT = 1_795_343_400.1239


@pytest.mark.parametrize(
    ("database", "expected"),
    [
        ("shop", "shop-20261122T103000.123Z-v12.dump"),
        ("my-shop_2", "my-shop_2-20261122T103000.123Z-v12.dump"),
        ("a/b", "a%2Fb-20261122T103000.123Z-v12.dump"),
        ("..", "%2E%2E-20261122T103000.123Z-v12.dump"),
        ("-rf", "%2Drf-20261122T103000.123Z-v12.dump"),
        ("~", "%7E-20261122T103000.123Z-v12.dump"),
        ("100%", "100%25-20261122T103000.123Z-v12.dump"),
        ("b\N{LATIN SMALL LETTER U WITH DIAERESIS}\n", "b%C3%BC%0A-20261122T103000.123Z-v12.dump"),
        ("\udcff", "%FF-20261122T103000.123Z-v12.dump"),
    ],
)
def test_a_name_has_safe_characters_only(database: str, expected: str) -> None:
    assert names.backup_name(database, MOMENT, 12) == expected
    assert len(names.partial_name(names.backup_name("/" * 63, MOMENT, 2**31))) <= 255


def backup(second: int, database: str = "shop", version: int = 1) -> str:
    return f"{database}-20261122T1030{second:02d}.000Z-v{version}.dump"


@pytest.mark.parametrize(
    ("there", "new", "keep", "expected"),
    [
        ([], backup(5), 1, []),
        ([backup(5)], backup(5), 1, []),
        ([backup(1), backup(5)], backup(5), 1, [backup(1)]),
        ([backup(1), backup(5)], backup(5), 2, []),
        ([backup(3), backup(1), backup(2), backup(5)], backup(5), 2, [backup(1), backup(2)]),
        ([backup(1), backup(5)], backup(5), 1_000_000, []),
        # The clock was set back: keep the new one and the newest of the others.
        ([backup(7), backup(8), backup(5)], backup(5), 2, [backup(7)]),
        ([backup(7), backup(5)], backup(5), 1, [backup(7)]),
        # By time, not by version or length.
        ([backup(1, version=100), backup(2, version=9), backup(5)], backup(5), 2, [backup(1, version=100)]),
        # Not ours, or of another database.
        (
            [
                backup(1, "shop2"),
                backup(1, "my-shop"),
                backup(1, "shop-20261122T103000.000Z-v1"),
                backup(1, "Shop"),
                backup(1) + ".gz",
                backup(1) + "\n",
                f".{backup(1)}.partial",
                "shop-20261122T103000Z-v1.dump",
                "shop-20261122T103000.000Z-v.dump",
                "shop-20261122T103000.000Z.dump",
                "shop.dump",
                "shop-latest.dump",
                backup(5),
            ],
            backup(5),
            1,
            [],
        ),
    ],
)
def test_only_older_backups_of_the_same_database_go(there: list[str], new: str, keep: int, expected: list[str]) -> None:
    assert names.superfluous(there, "shop", new, keep) == expected


def test_databases_whose_names_would_look_alike_are_told_apart() -> None:
    databases = ["a/b", "a%2Fb", "a_b", "-x", "x", "%2Dx", ".", "%2E"]
    there = [names.backup_name(database, MOMENT, 1) for database in databases]
    assert len(set(there)) == len(there)
    for database, name in zip(databases, there, strict=True):
        new = names.backup_name(database, MOMENT + 1, 1)
        assert names.superfluous([*there, new], database, new, 1) == [name]


def test_only_unfinished_backups_of_the_same_database_are_leftovers() -> None:
    ours = names.partial_name(backup(1))
    others = [backup(1), f"{backup(1)}.partial", f".{backup(1)}", names.partial_name(backup(1, "shop2")), ".partial"]
    assert names.partial_names([*others, ours], "shop") == [ours]


def test_two_backups_of_the_same_moment_have_two_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether the other one is complete or still being written."""
    moments = iter([1.0, 1.0, 1.25, 1.0, 1.25, 1.5])
    monkeypatch.setattr(store, "time", SimpleNamespace(time=lambda: next(moments), sleep=lambda _seconds: None))
    first = store.reserve(str(tmp_path), "shop", 1)
    second = store.reserve(str(tmp_path), "shop", 1)
    store.publish(first)
    third = store.reserve(str(tmp_path), "shop", 1)
    for partial in (second, third):
        store.publish(partial)
    expected = [f"shop-19700101T000001.{rest}Z-v1.dump" for rest in ("000", "250", "500")]
    assert sorted(path.name for path in tmp_path.iterdir()) == expected


def found(version: str, *, complete: bool = True) -> PgDump:
    return PgDump(f"/{version}/pg_dump", version, f"/{version}/pg_restore" if complete else "")


@pytest.mark.parametrize(
    ("versions", "server", "expected"),
    [
        ([], 16, None),
        (["15.4"], 16, None),
        (["15.4", "16.1"], 16, "16.1"),
        (["18.0", "16.1", "17.2"], 16, "16.1"),
        (["18.0", "17.2"], 16, "17.2"),
        (["18beta1"], 18, "18beta1"),
        (["19devel", "9.6.24"], 18, "19devel"),
        (["9.6.24"], 9, "9.6.24"),
        ([""], 16, None),
    ],
)
def test_the_program_of_the_servers_version_or_the_next_newer_one(
    versions: list[str], server: int, expected: str | None
) -> None:
    chosen = choose([found(version) for version in versions], server)
    assert (chosen and chosen.version) == expected


def test_of_equals_the_first_and_none_without_its_pg_restore() -> None:
    first, second = found("16.1"), found("16.9")
    assert choose([first, second], 16) is first
    assert choose([found("16.0", complete=False), second], 16) is second


def test_what_is_missing_is_told_with_what_was_found_and_what_to_install() -> None:
    error = missing([found("15.4"), found("18.1", complete=False), PgDump("/odd/pg_dump", "", "")], 18)
    assert "PostgreSQL 18" in error.message
    assert "/15.4/pg_dump 15.4;" in error.message
    assert "/18.1/pg_dump 18.1, which has no pg_restore" in error.message
    assert "/odd/pg_dump, which does not run" in error.message
    assert "postgresql-client-18" in error.remedy
    assert "postgresql18-client" in error.remedy
    assert "available: none" in missing([], 18).message


def test_programs_are_looked_for_on_the_path_and_then_in_the_places(tmp_path: Path) -> None:
    def program(place: str) -> str:
        path = tmp_path / place / "pg_dump"
        path.parent.mkdir(parents=True)
        path.write_text("#!/bin/sh\n")
        path.chmod(0o755)
        return str(path)

    here, old, new = program("here"), program("lib/15/bin"), program("lib/18/bin")
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "pg_dump").symlink_to(new)
    wrapper = tmp_path / "share" / "pg_wrapper"
    wrapper.parent.mkdir()
    wrapper.write_text("#!/bin/sh\n")
    wrapper.chmod(0o755)
    (tmp_path / "debian").mkdir()
    (tmp_path / "debian" / "pg_dump").symlink_to(wrapper)
    (tmp_path / "plain" / "pg_dump").mkdir(parents=True)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "pg_dump").write_text("not executable")
    path = ["", *(str(tmp_path / name) for name in ("gone", "plain", "data", "debian", "linked", "here"))]
    assert candidates(path, [f"{tmp_path}/lib/*/bin"]) == [str(tmp_path / "linked" / "pg_dump"), here, old]


def test_parameters_survive_as_a_connection_string() -> None:
    parameters = {"host": "/a b", "dbname": "it's \\ = '' ", "user": "", "options": "-c search_path=a\\ b"}
    assert conninfo_to_dict(conninfo(parameters)) == parameters


@pytest.mark.parametrize(
    ("code", "complaints", "kind", "words"),
    [
        (1, "pg_dump: warning: x\npg_dump: error: query failed: no\n", BackupFailedError, "pg_dump: error: query"),
        (1, "", BackupFailedError, "exited with code 1"),
        (-9, "", BackupFailedError, "signal 9"),
        (1, "pg_dump: error: could not write to file: No space left on device", BackupFailedError, "No space left"),
        (
            1,
            'pg_dump: error: connection to server at "h", port 1 failed: FATAL:  sorry, too many clients already',
            DatabaseUnavailableError,
            "too many clients",
        ),
        (
            1,
            "pg_dump: error: x failed\npg_dump: detail: FATAL:  terminating connection due to administrator command\n",
            DatabaseUnavailableError,
            "lost its connection",
        ),
    ],
)
def test_what_the_end_of_the_program_means(code: int, complaints: str, kind: type, words: str) -> None:
    failure = _failure("pg_dump", ChildResult(code, complaints))
    assert type(failure) is kind
    assert words in failure.message
    assert "\n" not in failure.message
    assert failure.remedy


def test_no_room_is_told_with_how_to_make_some() -> None:
    assert "--keep" in _failure("pg_dump", ChildResult(1, "pg_dump: error: No space left on device")).remedy
