"""What every line of the log contains: the run, the host, the database, and the fields that the environment adds."""

from __future__ import annotations

import json
import os
import re
from random import Random
from typing import TYPE_CHECKING

import pytest

from demo.postgres import HOST, free_port
from kit.migrations import write_migrations
from scene import Gate, application_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from kit.databases import Database
    from kit.processes import Record, Run

    Start = Callable[..., Run]

APPLICATION = ("run", "--", "true")
DEBUG = {"LOG_LEVEL": "debug"}
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def of_every_line(run: Run, name: str) -> set[object]:
    """Return a field's values over all lines, with None for a line without it."""
    records = run.logs()
    assert len(records) == len(run.stderr.splitlines()) > 0, run.report()
    return {record.get(name) for record in records}


def test_every_line_says_which_start_and_which_database(
    run_entrypoint: Start, database: Database, migrations_dir: Path
) -> None:
    write_migrations(migrations_dir, {"001_a.sql": "CREATE TABLE a ();", "002_b.sql": "SELECT no_such;"})
    server = f"{HOST}:{database.server.port}"
    env = {"DATABASE_URL": database.url, "APP_VERSION": "1.4.0", "MIGRATION_SCHEMA": "ops", **DEBUG}
    run = run_entrypoint(*APPLICATION, env=env).ok()
    assert of_every_line(run, "host") == {os.uname().nodename}
    assert of_every_line(run, "app_version") == {"1.4.0"}
    assert of_every_line(run, "schema") == {"ops"}
    assert of_every_line(run, "server") == {server}
    assert of_every_line(run, "database") == {database.name}
    assert of_every_line(run, "user") == {"postgres"}
    assert of_every_line(run, "severity") == {"DEBUG", "INFO", "WARNING", "ERROR"}
    assert {record["severity"].lower() == record["level"] for record in run.logs()} == {True}
    (run_id,) = of_every_line(run, "run_id")
    assert re.fullmatch("[0-9a-f]{16}", str(run_id))


def test_the_schema_is_said_as_soon_as_it_is_found(
    run_entrypoint: Start, database: Database, migrations_dir: Path
) -> None:
    write_migrations(migrations_dir, {"001_a.sql": "CREATE TABLE a ();"})
    for event in ("migration.applied", "schema.up_to_date"):
        run = run_entrypoint(*APPLICATION, env={"DATABASE_URL": database.url, **DEBUG}).ok()
        assert [record["schema"] for record in run.logs(event)] == ["public"]
        assert "schema" not in run.logs("database.connected")[0]


@pytest.mark.parametrize(
    ("env", "known"),
    [
        ({"DATABASE_URL": "postgresql://app:x@{host}:{port}/shop"}, ("{host}:{port}", "shop", "app")),
        ({"DATABASE_URL": "postgresql://app@{host}:{port}"}, ("{host}:{port}", "app", "app")),
        ({"PGHOST": "{host}", "PGPORT": "{port}", "PGUSER": "app", "PGDATABASE": "d"}, ("{host}:{port}", "d", "app")),
        (
            {"DATABASE_URL": "host={host},::1 port={port} user=app dbname=shop"},
            ("{host}:{port},[::1]:{port}", "shop", "app"),
        ),
        ({"DATABASE_URL": "jdbc:postgresql://{host}:{port}/shop?user=app"}, ("{host}:{port}", "shop", "app")),
        ({"DATABASE_URL": "postgresql:///shop?host=/no/where&user=app"}, ("/no/where:5432", "shop", "app")),
    ],
    ids=str,
)
def test_what_the_address_says_is_known_before_the_database_answers(
    run_entrypoint: Start, migrations_dir: Path, env: dict[str, str], known: tuple[str, str, str]
) -> None:
    port = str(free_port())
    quick = {"DB_CONNECT_ATTEMPTS": "1"}
    env = {name: value.replace("{host}", HOST).replace("{port}", port) for name, value in env.items()}
    run = run_entrypoint(*APPLICATION, env={**env, **quick}).ok()
    (record,) = run.logs("database.unavailable")
    found = (record["server"], record["database"], record["user"])
    assert found == tuple(part.format(host=HOST, port=port) for part in known)


def test_a_line_before_there_is_an_address_says_what_is_known(run_entrypoint: Start, migrations_dir: Path) -> None:
    run = run_entrypoint(*APPLICATION, env={"DATABASE_URL": "postgresql://h", "MIGRATION_TIMEOUT_MS": "5s"}).ok()
    record = run.logs()[0]
    assert record["event"] == "configuration.invalid"
    assert {"run_id", "host", "severity"} <= record.keys()
    assert not {"server", "database", "user", "schema", "app_version"} & record.keys()


def test_three_replicas_of_one_rollout_are_told_apart_by_their_fields(
    run_entrypoint: Start, database: Database, migrations_dir: Path
) -> None:
    """As a collector sees them: the lines of all replicas together, in any order."""
    write_migrations(
        migrations_dir, {"001_a.sql": f"CREATE TABLE a (); {Gate.PASS}", "002_b.sql": "CREATE TABLE b ();"}
    )
    env = {"DATABASE_URL": database.url, "MIGRATION_DDL_LOCK_TIMEOUT_MS": "60000", "APP_VERSION": "1.4.0"}
    with Gate(database) as gate:
        replicas = [run_entrypoint(*APPLICATION, env=env) for _ in range(3)]
        gate.arrival()
        token = str(database.one("SELECT token FROM migration_lock"))
        named = database.one(
            f"SELECT count(*) FROM pg_stat_activity WHERE application_name = '{application_of(token)}'"
        )
        assert named == 2, "the run's id leads to its sessions, and to the row of the lock"
        for replica in replicas:
            if replica.logs("lock.acquired") == []:
                replica.until("lock.waiting")
    heap = [line for replica in replicas for line in replica.ok().stderr.splitlines()]
    Random(1).shuffle(heap)

    starts: dict[str, list[Record]] = {}
    for record in map(json.loads, heap):
        starts.setdefault(record["run_id"], []).append(record)
    assert len(starts) == 3
    stories = {run_id: sorted(records, key=lambda record: record["time"]) for run_id, records in starts.items()}
    for replica in replicas:
        (run_id,) = of_every_line(replica, "run_id")
        assert {json.dumps(record) for record in stories[str(run_id)]} == {json.dumps(one) for one in replica.logs()}
    ends = {run_id: {record["event"] for record in records} for run_id, records in stories.items()}
    assert [run_id for run_id, events in ends.items() if "schema.migrated" in events] == [application_of(token)[11:]]
    assert sum("schema.waited" in events for events in ends.values()) == 2
    assert {record["database"] for records in stories.values() for record in records} == {database.name}


@pytest.mark.parametrize("command", [APPLICATION, ("migrate",), ("status",)], ids=lambda command: command[0])
def test_no_line_is_written_twice(
    run_entrypoint: Start, database: Database, migrations_dir: Path, command: tuple[str, ...]
) -> None:
    """Whatever happens in this start and the next, no line repeats another."""
    write_migrations(
        migrations_dir,
        {
            "001_a.sql": "CREATE TABLE a (); DO $$ BEGIN RAISE NOTICE 'one'; END $$;",
            "002_b.sql": "",
            "004_c.sql": "SELECT no_such;",
        },
    )
    for files in ({}, {}, {"004_c.sql": "CREATE TABLE c ();"}, {"001_a.sql": "CREATE TABLE other ();"}):
        write_migrations(migrations_dir, files)
        run = run_entrypoint(*command, env={"DATABASE_URL": database.url, **DEBUG})
        run.wait()
        lines = [json.dumps({**record, "time": ""}) for record in run.logs()]
        assert sorted(lines) == sorted(set(lines)), run.report()
    nowhere = f"postgresql://{HOST}:{free_port()}/shop"
    env = {"DATABASE_URL": nowhere, "DB_CONNECT_ATTEMPTS": "2", "DB_CONNECT_BACKOFF_MS": "10", **DEBUG}
    run = run_entrypoint(*command, env=env)
    run.wait()
    assert len(run.events()) == len(set(run.events())), run.report()


# --- What the environment adds


def test_log_fields_and_traceparent_are_in_every_line(
    run_entrypoint: Start, database: Database, migrations_dir: Path
) -> None:
    write_migrations(migrations_dir, {"001_a.sql": "CREATE TABLE a ();"})
    fields = {
        "service.name": "shop",
        "labels": {"team": "checkout", "on": True},
        "shard": 7,
        "file": "no file",
        "no": None,
    }
    env = {"DATABASE_URL": database.url, "LOG_FIELDS": json.dumps(fields), "TRACEPARENT": TRACE, **DEBUG}
    run = run_entrypoint(*APPLICATION, env=env).ok()
    assert of_every_line(run, "service.name") == {"shop"}
    assert of_every_line(run, "shard") == {7}
    assert of_every_line(run, "traceparent") == {TRACE}
    assert of_every_line(run, "trace_id") == {"4bf92f3577b34da6a3ce929d0e0e4736"}
    assert of_every_line(run, "span_id") == {"00f067aa0ba902b7"}
    assert of_every_line(run, "no") == {None}
    assert all(record["labels"] == {"team": "checkout", "on": True} for record in run.logs())
    assert of_every_line(run, "file") == {"no file", "001_a.sql"}, "a fact of the line wins"


def test_in_text_they_are_left_out(run_entrypoint: Start, database: Database, migrations_dir: Path) -> None:
    fields = '{"service": "shop", "remedy": "shop", "report": "shop"}'
    env = {"DATABASE_URL": database.url, "LOG_FIELDS": fields, "TRACEPARENT": TRACE, "LOG_FORMAT": "text"}
    run = run_entrypoint(*APPLICATION, env={**env, "APP_VERSION": "shop"}).ok()
    assert "the schema is up to date" in run.stderr
    assert not re.search("shop|4bf92f|run_id|INFO", run.stderr), run.report()


@pytest.mark.parametrize(
    ("value", "what"),
    [
        ("team=shop", "is not JSON (line 1, column 1)"),
        ('["shop"]', "must be a JSON object"),
        ('{"a": NaN}', "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        # JSON parsers accept it, but the log's writer did not.
        (f'{{"a": {"[" * 900}{"]" * 900}}}', "is nested more than 32 levels deep"),
        ('{"": 1}', "a name for each field"),
        ('{"user": "me", "time": 1}', "must not contain time, user"),
    ],
    ids=["text", "list", "nan", "deep", "less deep", "nameless", "taken"],
)
def test_log_fields_that_cannot_be_used(run_entrypoint: Start, migrations_dir: Path, value: str, what: str) -> None:
    run = run_entrypoint("check", env={"LOG_FIELDS": value})
    assert run.wait() == 78, run.report()
    (record,) = run.logs("configuration.invalid")
    assert what in record["message"]
    assert "me" not in record.values()


@pytest.mark.parametrize("password", ["quokka", "Kd83jfQ2mmx9"], ids=["word", "generated"])
def test_a_password_in_a_field_is_masked(
    run_entrypoint: Start, database: Database, migrations_dir: Path, password: str
) -> None:
    env = {
        "DATABASE_URL": database.url.replace("postgres@", f"postgres:{password}@"),
        "LOG_FIELDS": json.dumps({"url": f"https://me:{password}@h/", "deep": [{"deeper": f"a {password}"}]}),
        "APP_VERSION": f"1.0 {password}",
        **DEBUG,
    }
    run = run_entrypoint(*APPLICATION, env=env).ok()
    assert of_every_line(run, "app_version") == {"1.0 ***"}
    assert password not in run.stderr


@pytest.mark.parametrize("password", ["postgres", "post", "1", "0", "a"])
def test_a_password_punches_no_hole_into_names(
    run_entrypoint: Start, database: Database, migrations_dir: Path, password: str
) -> None:
    """A gap in a known name would reveal the password."""
    env = {
        "DATABASE_URL": database.url.replace("postgres@", f"postgres:{password}@"),
        "APP_VERSION": "1.0-a",
        "LOG_FORMAT": "json",
    }
    run = run_entrypoint(*APPLICATION, env=env).ok()
    assert of_every_line(run, "user") == {"postgres"}
    assert of_every_line(run, "server") == {f"{HOST}:{database.server.port}"}
    assert "***" not in run.stderr
