"""The environment, read into frozen values."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from entrypoint.errors import ConfigurationError
from entrypoint.records import Address, ApplyPolicy, ConnectPolicy, LockPolicy
from entrypoint.settings import (
    LogSettings,
    Settings,
    exits_on_failure,
    read_log_settings,
    read_secrets,
    read_settings,
)
from kit.manifests.program import program_variables

DEFAULTS = Settings(
    auto_migrate=True,
    exit_on_failure=False,
    refuse_out_of_order=False,
    address=Address("", ""),
    migrations_dir="migrations",
    schema=None,
    role=None,
    app_version=None,
    backup_dir=None,
    file_limit=512 << 20,
    probe_port=None,
    adopt=None,
    command=None,
    connect=ConnectPolicy(attempts=5, backoff=1.0, timeout=5.0),
    lock=LockPolicy(timeout=30.0, stale=600.0),
    apply=ApplyPolicy(timeout=300.0, ddl_lock_timeout=5.0),
)


def faults(environ: dict[str, str], *, asked_for: bool = False) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        read_settings(environ, asked_for=asked_for)
    found = caught.value.fields["faults"]
    assert isinstance(found, list)
    assert caught.value.remedy
    return found


def test_the_documented_defaults() -> None:
    assert read_settings({}) == DEFAULTS


@pytest.mark.parametrize(
    ("environ", "changed"),
    [
        ({"DATABASE_URL": "postgresql://a"}, {"address": Address("postgresql://a", "DATABASE_URL")}),
        ({"DATABASE_URL": " host=a \n"}, {"address": Address("host=a", "DATABASE_URL")}),
        (
            {"DATABASE_URL": "host=a", "MIGRATION_DATABASE_URL": "host=b"},
            {"address": Address("host=b", "MIGRATION_DATABASE_URL")},
        ),
        ({"DATABASE_URL": "host=a", "MIGRATION_DATABASE_URL": " "}, {"address": Address("host=a", "DATABASE_URL")}),
        ({"MIGRATIONS_DIR": "db/migrations"}, {"migrations_dir": "db/migrations"}),
        ({"MIGRATION_SCHEMA": "ledger"}, {"schema": "ledger"}),
        ({"MIGRATION_ROLE": "owner"}, {"role": "owner"}),
        ({"APP_VERSION": "1.2"}, {"app_version": "1.2"}),
        ({"npm_package_version": "1.1"}, {"app_version": "1.1"}),
        ({"npm_package_version": "1.1", "APP_VERSION": "1.2"}, {"app_version": "1.2"}),
        ({"npm_package_version": "1.1", "APP_VERSION": ""}, {"app_version": "1.1"}),
        ({"MIGRATION_FILE_LIMIT_MB": "3"}, {"file_limit": 3 << 20}),
        ({"MIGRATION_BACKUP_DIR": "/backups"}, {"backup_dir": "/backups"}),
        ({"MIGRATION_PROBE_PORT": "8081"}, {"probe_port": 8081}),
        ({"MIGRATION_ON_FAILURE": "EXIT"}, {"exit_on_failure": True}),
        ({"MIGRATION_ON_FAILURE": "start"}, {}),
        ({"MIGRATION_OUT_OF_ORDER": "Refuse"}, {"refuse_out_of_order": True}),
        ({"MIGRATION_OUT_OF_ORDER": "warn"}, {}),
        ({"DB_CONNECT_ATTEMPTS": "1"}, {"connect": ConnectPolicy(1, 1.0, 5.0)}),
        ({"DB_CONNECT_BACKOFF_MS": "250"}, {"connect": ConnectPolicy(5, 0.25, 5.0)}),
        ({"DB_CONNECT_TIMEOUT_MS": "1"}, {"connect": ConnectPolicy(5, 1.0, 0.001)}),
        ({"MIGRATION_LOCK_TIMEOUT_MS": "45000"}, {"lock": LockPolicy(45.0, 600.0, hard=True)}),
        ({"MIGRATION_LOCK_STALE_MS": "1000"}, {"lock": LockPolicy(30.0, 1.0)}),
        ({"MIGRATION_TIMEOUT_MS": " 2147483647 "}, {"apply": ApplyPolicy(2147483.647, 5.0)}),
        ({"MIGRATION_DDL_LOCK_TIMEOUT_MS": "0100"}, {"apply": ApplyPolicy(300.0, 0.1)}),
        ({"UNRELATED": "x", "database_url": "host=lower-case"}, {}),
    ],
)
def test_what_is_set(environ: dict[str, str], changed: dict[str, object]) -> None:
    assert read_settings(environ) == DEFAULTS._replace(**changed)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", ["true", "True", "1", "yes", "on", "", " "])
def test_yes(value: str) -> None:
    assert read_settings({"AUTO_MIGRATE": value}).auto_migrate


@pytest.mark.parametrize("value", ["false", "FALSE", "0", "no", "off", " false "])
def test_no(value: str) -> None:
    assert not read_settings({"AUTO_MIGRATE": value}).auto_migrate


@pytest.mark.parametrize("value", ["2", "maybe", "disabled", "t", "n", "null"])
def test_neither_yes_nor_no(value: str) -> None:
    assert faults({"AUTO_MIGRATE": value}) == [f"AUTO_MIGRATE is {value!r}; it must be true or false"]


@pytest.mark.parametrize(
    "value",
    ["0", "-1", "+1", "1.5", "1e3", "5s", "5000ms", "0x10", "1_000", "1,000", "2147483648", "x", "١٢", "²", "9" * 5000],
)
@pytest.mark.parametrize("name", ["DB_CONNECT_ATTEMPTS", "MIGRATION_TIMEOUT_MS"])
def test_numbers_that_are_none(name: str, value: str) -> None:
    (fault,) = faults({name: value})
    assert fault.startswith(f"{name} is '{value[:10]}")
    assert "a whole number" in fault
    assert "like " in fault


@pytest.mark.parametrize("value", ["0", "-1", "65536", "999999", "http", ":8081", "٨"])
def test_ports_that_are_none(value: str) -> None:
    assert faults({"MIGRATION_PROBE_PORT": value}) == [
        f"MIGRATION_PROBE_PORT is {value!r}; it must be a port from 1 to 65535, like 8081"
    ]


def test_every_fault_is_listed() -> None:
    environ = {
        "DB_CONNECT_ATTEMPTS": "x",
        "MIGRATION_ON_FAILURE": "x",
        "MIGRATION_OUT_OF_ORDER": "x",
        "MIGRATION_LOCK_STALE_MS": "x",
        "DATABASE_URL": "host=a",
        "DATABASE_URL_FILE": "/no/such/file",
    }
    assert len(faults(environ)) == 5
    assert len(faults(environ, asked_for=True)) == 5


def test_without_migrations_nothing_else_is_looked_at() -> None:
    environ = {"AUTO_MIGRATE": "no", "DB_CONNECT_ATTEMPTS": "x", "DATABASE_URL_FILE": "/no/such/file"}
    assert read_settings(environ) == DEFAULTS._replace(auto_migrate=False)
    assert len(faults(environ, asked_for=True)) == 2


def test_a_command_is_about_migrations_whatever_happens_by_itself() -> None:
    assert read_settings({"AUTO_MIGRATE": "no"}, asked_for=True).auto_migrate
    assert read_settings({"AUTO_MIGRATE": "maybe"}, asked_for=True).auto_migrate


@pytest.mark.parametrize(
    ("value", "exits"), [("exit", True), (" Exit ", True), ("start", False), ("", False), ("exti", False)]
)
def test_what_a_failure_leads_to(value: str, exits: bool) -> None:  # noqa: FBT001 - a column of the table
    assert exits_on_failure({"MIGRATION_ON_FAILURE": value}) is exits


# --- Files ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", ["host=a", " host=a\n", "\nhost=a\n\n"])
def test_an_address_in_a_file(tmp_path: Path, content: str) -> None:
    path = tmp_path / "url"
    path.write_text(content)
    expected = Address("host=a", "DATABASE_URL_FILE", str(path))
    assert read_settings({"DATABASE_URL_FILE": str(path)}).address == expected


def test_a_byte_order_mark_is_no_part_of_an_address(tmp_path: Path) -> None:
    path = tmp_path / "url"
    path.write_bytes(b"\xef\xbb\xbfhost=a\r\n")
    assert read_settings({"DATABASE_URL_FILE": str(path)}).address.conninfo == "host=a"


def test_a_file_for_migrations_goes_before_an_address_for_everything(tmp_path: Path) -> None:
    path = tmp_path / "url"
    path.write_text("host=b")
    environ = {"DATABASE_URL": "host=a", "MIGRATION_DATABASE_URL_FILE": str(path)}
    assert read_settings(environ).address == Address("host=b", "MIGRATION_DATABASE_URL_FILE", str(path))


@pytest.mark.parametrize("what", ["a pipe", "a device"])
def test_a_file_that_is_none_is_not_waited_for(tmp_path: Path, what: str) -> None:
    path = {"a pipe": tmp_path / "pipe", "a device": Path("/dev/zero")}[what]
    if what == "a pipe":
        os.mkfifo(path)
    (fault,) = faults({"DATABASE_URL_FILE": str(path)})
    assert fault == f"DATABASE_URL_FILE is {str(path)!r}, which cannot be read: it is not a regular file"


def test_files_that_hold_no_address(tmp_path: Path) -> None:
    empty, binary, missing = tmp_path / "empty", tmp_path / "binary", tmp_path / "missing"
    empty.write_text(" \n")
    binary.write_bytes(b"\xff\xfe\x00")
    for path, says in ((empty, "empty"), (binary, "UTF-8"), (missing, "No such file"), (tmp_path, "directory")):
        (fault,) = faults({"DATABASE_URL_FILE": str(path)})
        assert fault.startswith(f"DATABASE_URL_FILE is {str(path)!r}")
        assert says in fault


# --- The log's own settings -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environ", "terminal", "expected"),
    [
        ({}, False, LogSettings("json", "info", {})),
        ({}, True, LogSettings("text", "info", {})),
        ({"LOG_FORMAT": "json"}, True, LogSettings("json", "info", {})),
        ({"LOG_FORMAT": "TEXT"}, False, LogSettings("text", "info", {})),
        ({"LOG_LEVEL": "Debug"}, False, LogSettings("json", "debug", {})),
    ],
)
def test_log_settings(environ: dict[str, str], terminal: bool, expected: LogSettings) -> None:  # noqa: FBT001
    assert read_log_settings(environ, terminal=terminal) == (expected, ())


def test_bad_log_settings_are_replaced_and_told() -> None:
    found, faults = read_log_settings({"LOG_FORMAT": "xml", "LOG_LEVEL": "loud"}, terminal=True)
    assert found == LogSettings("text", "info", {})
    assert faults == (
        "LOG_FORMAT is 'xml'; it must be one of: json, text",
        "LOG_LEVEL is 'loud'; it must be one of: info, debug, warning, error",
    )


# --- Secrets --------------------------------------------------------------------------------------------


def test_secrets_of_every_source(tmp_path: Path) -> None:
    path = tmp_path / "url"
    path.write_text("postgresql://u:five@h/d\n")
    environ = {
        "DATABASE_URL": "postgresql://u:one@h/d",
        "MIGRATION_DATABASE_URL": "host=h password=two",
        "PGPASSWORD": "three",
        "PGSSLPASSWORD": "four",
        "DATABASE_URL_FILE": str(path),
        "MIGRATION_DATABASE_URL_FILE": str(tmp_path / "missing"),
        "OTHER": "six",
    }
    assert read_secrets(environ) == {"one", "two", "three", "four", "five"}
    assert read_secrets({}) == frozenset()


@pytest.mark.parametrize("name", sorted(program_variables()))
def test_an_address_is_secret_in_whatever_variable_somebody_puts_it(name: str) -> None:
    found = read_secrets({name: "postgresql://app:Quokka@h/shop"})
    assert any("Quokka" in secret for secret in found)
