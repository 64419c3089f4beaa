"""Files that run in batches: each batch commits together with its progress, and the next run resumes from there."""

from __future__ import annotations

import json
import re
import signal
from random import Random
from typing import TYPE_CHECKING, Any

import pytest

from demo.standby import Standby
from entrypoint.migration.apply import keys
from kit.databases import Database
from kit.processes import until
from kit.proxy import Proxy
from scene import Gate, Scene, odd_strings, only_error, told, warnings

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from conftest import ServerFactory
    from kit.processes import Run

TABLE = (
    "CREATE TABLE orders (id bigint PRIMARY KEY, euros int, cents int, times int NOT NULL DEFAULT 0);"
    "INSERT INTO orders SELECT n, n FROM generate_series(1, 1000) n;"
)
FILL = "UPDATE orders SET cents = euros * 100, times = times + 1 WHERE id BETWEEN :from AND :to;\n"


def by(size: int, *more: str, key: str = "orders(id)") -> str:
    return "".join(f"-- entrypoint: {line}\n" for line in (f"batch = {key} by {size}", *more))


@pytest.fixture
def scene(database: Database, migrations_dir: Path, run_entrypoint: Callable[..., Run]) -> Scene:
    return Scene(database, migrations_dir, run_entrypoint)


def test_each_row_is_met_once(scene: Scene) -> None:
    scene.write({"001_t.sql": TABLE, "002_fill.sql": by(64, "fixed") + FILL, "003_n.sql": "CREATE TABLE n ();"})
    run = scene.migrated()
    assert scene.database.rows("SELECT DISTINCT times, cents = euros * 100 FROM orders") == [(1, True)]
    assert scene.ledger() == [(1, "completed"), (2, "completed"), (3, "completed")]
    (line,) = run.logs("migration.batches")
    assert (line["rows"], line["batches"], line["size"]) == (1000, 16, 64)
    assert scene.database.one("SELECT error_message FROM schema_migrations WHERE migration_number = 2") is None
    assert scene.lock_is_free()
    assert scene.migrated().logs("schema.up_to_date")


# Key types, each with an expression of `n` that gives 40 values in a different order from `n`.
TYPES = {
    "smallint": "(n - 20)::smallint",
    "int": "n * 7919 % 1000 - 500",
    "bigint": "n * 1000000007::bigint - 5",
    "numeric": "CASE n WHEN 1 THEN 'NaN' WHEN 2 THEN '-Infinity' ELSE (n * 7919 % 1000)::text END::numeric / 3",
    "real": "(sqrt(n) * 1e10)::real",
    "float8": "CASE n WHEN 1 THEN 'NaN' WHEN 2 THEN 'Infinity' ELSE (sin(n) / 3)::text END::float8",
    "text": "CASE n % 4 WHEN 0 THEN 'it''s \\ ' WHEN 1 THEN 'é:from' WHEN 2 THEN '$$' ELSE '' END || n",
    'text COLLATE "C"': "CASE n % 2 WHEN 0 THEN 'a' ELSE 'B' END || n",
    'text COLLATE "en-x-icu"': "CASE n % 2 WHEN 0 THEN 'a' ELSE 'B' END || n",
    "varchar(10)": "'x' || n",
    "char(10)": "'x' || n",
    "name": "('x' || n)::name",
    '"char"': 'chr(40 + n)::"char"',
    "boolean": "n = 1",
    "date": "CASE n WHEN 1 THEN '-infinity' WHEN 2 THEN '0044-03-15 BC' ELSE '0700-01-' || n % 28 + 1 END::date",
    "time": "time '00:00' + n * interval '37 minutes'",
    "timetz": "timetz '00:00+02' + n * interval '37 minutes'",
    "timestamp": "timestamp '2000-01-01' + n * interval '1234567.891011 s'",
    "timestamptz": "timestamptz '1890-01-01 UTC' + n * interval '1000 days 3.000001 s'",
    "interval": "(n - 20) * interval '1 mon -3 days 04:05:06.789'",
    "uuid": "md5(n::text)::uuid",
    "bytea": "decode(md5(n::text), 'hex')",
    "inet": "('10.0.0.' || n * 7 % 256 || '/24')::inet",
    "macaddr": "('08:00:2b:01:02:' || lpad(to_hex(n), 2, '0'))::macaddr",
    "bit(8)": "n::bit(8)",
    "varbit": "n::bit(8)::varbit",
    "oid": "n::oid",
    "pg_lsn": "('0/' || to_hex(n * 1000))::pg_lsn",
    "jsonb": "jsonb_build_object('a', n)",
    "int[]": "ARRAY[n % 5, n, NULL]",
    "int4range": "int4range(n % 5, n + 10)",
    "shop.state": "(ARRAY['new', 'open', 'done']::shop.state[])[n % 3 + 1]",
    "shop.amount": "(n * 7919 % 1000)::shop.amount",
    "shop.pair": "ROW(n % 5, n)::shop.pair",
    "tsvector": "to_tsvector('simple', n::text)",
}
KINDS = (
    "CREATE SCHEMA shop; CREATE TYPE shop.state AS ENUM ('open', 'new', 'done'); "
    "CREATE DOMAIN shop.amount AS int CHECK (VALUE >= 0); CREATE TYPE shop.pair AS (a int, b int);"
)
WALKED = "SELECT count(*) || ' of ' || count(*) FILTER (WHERE times = 1) FROM {}"


def test_every_ordered_type_is_a_key(scene: Scene, any_database: Database) -> None:
    """Under any session settings. Equal keys are processed together."""
    scene = Scene(any_database, scene.migrations, scene.launch)
    any_database.execute(
        f"ALTER DATABASE {any_database.name} SET datestyle = 'SQL, DMY'; ALTER DATABASE {any_database.name} SET "
        f"intervalstyle = sql_standard; ALTER DATABASE {any_database.name} SET timezone = 'Asia/Kathmandu'; "
        f"ALTER DATABASE {any_database.name} SET extra_float_digits = -5; "
        f"ALTER DATABASE {any_database.name} SET bytea_output = escape; "
        f"ALTER DATABASE {any_database.name} SET array_nulls = off"
    )
    made, files = [KINDS], {}
    types = dict(TYPES)
    if not any_database.rows("SELECT FROM pg_collation WHERE collname = 'en-x-icu'"):
        del types['text COLLATE "en-x-icu"']
    if any_database.rows("SELECT FROM pg_available_extensions WHERE name = 'citext'"):
        # Our search_path would make it compare values as text.
        any_database.execute("CREATE EXTENSION citext")
        types["citext"] = "CASE n % 2 WHEN 0 THEN 'a' ELSE 'B' END || n"
    for number, (type_, value) in enumerate(types.items(), 2):
        made.append(
            f"CREATE TABLE t{number} (n int, key {type_} NOT NULL, times int DEFAULT 0); INSERT INTO t{number} "
            f"SELECT n, {value} FROM generate_series(1, 40) n; CREATE INDEX ON t{number} (key);"
        )
        files[f"{number:03d}_fill.sql"] = by(7, "fixed", key=f"t{number}(key)") + (
            f"UPDATE t{number} SET times = times + 1 WHERE key BETWEEN :from AND :to;"
        )
    scene.write({"001_t.sql": "\n".join(made), **files})
    run = scene.migrated()
    found = {type_: any_database.one(WALKED.format(f"t{number}")) for number, type_ in enumerate(types, 2)}
    assert found == dict.fromkeys(types, "40 of 40")
    batches = {str(line["file"]): line["batches"] for line in run.logs("migration.batches")}
    distinct = {
        f"{number:03d}_fill.sql": any_database.one(f"SELECT count(DISTINCT key) FROM t{number}")
        for number in range(2, len(types) + 2)
    }
    assert all(batches[file] == (6 if keys == 40 else batches[file]) for file, keys in distinct.items()), batches


def test_a_key_of_several_columns(scene: Scene) -> None:
    """Columns of several types, one with user-defined operators, under names that need quotes."""
    own = (
        'CREATE SCHEMA "Ops"; CREATE TYPE "Ops".upside;'
        'CREATE FUNCTION "Ops".i(cstring) RETURNS "Ops".upside LANGUAGE internal IMMUTABLE STRICT AS \'int4in\';'
        'CREATE FUNCTION "Ops".o("Ops".upside) RETURNS cstring LANGUAGE internal IMMUTABLE STRICT AS \'int4out\';'
        'CREATE TYPE "Ops".upside (INPUT = "Ops".i, OUTPUT = "Ops".o, LIKE = int4);'
    )
    # A smaller integer counts as greater.
    for name, other in {"lt": "gt", "le": "ge", "eq": "eq", "ge": "le", "gt": "lt"}.items():
        sign = {"lt": "<", "le": "<=", "eq": "=", "ge": ">=", "gt": ">"}[name]
        own += (
            f'CREATE FUNCTION "Ops".{name}("Ops".upside, "Ops".upside) RETURNS boolean LANGUAGE internal '
            f'IMMUTABLE STRICT AS \'int4{other}\'; CREATE OPERATOR "Ops".{sign} (LEFTARG = "Ops".upside, '
            f'RIGHTARG = "Ops".upside, FUNCTION = "Ops".{name});'
        )
    own += (
        'CREATE CAST ("Ops".upside AS int) WITHOUT FUNCTION AS IMPLICIT;'
        'CREATE FUNCTION "Ops".cmp("Ops".upside, "Ops".upside) RETURNS int LANGUAGE sql IMMUTABLE STRICT AS '
        '$$ SELECT btint4cmp($2::int, $1::int) $$; CREATE OPERATOR CLASS "Ops".upside_ops DEFAULT FOR TYPE '
        '"Ops".upside USING btree AS OPERATOR 1 "Ops".<, OPERATOR 2 "Ops".<=, OPERATOR 3 "Ops".=, '
        'OPERATOR 4 "Ops".>=, OPERATOR 5 "Ops".>, FUNCTION 1 "Ops".cmp("Ops".upside, "Ops".upside);'
    )
    made = (
        f'{own} CREATE TABLE "My Orders" ("Tenant" text, up "Ops".upside, id int, times int DEFAULT 0, '
        'PRIMARY KEY ("Tenant", up, id));'
        'INSERT INTO "My Orders" SELECT chr(65 + n % 3), (n % 7)::text::"Ops".upside, n FROM generate_series(1, 500) n;'
        'CREATE TABLE alone (up "Ops".upside PRIMARY KEY, times int DEFAULT 0);'
        'INSERT INTO alone SELECT n::text::"Ops".upside FROM generate_series(1, 100) n;'
    )
    where = 'UPDATE "My Orders" SET times = times + 1 WHERE ("Tenant", up, id) BETWEEN :from AND :to'
    scene.database.execute(f'ALTER DATABASE {scene.database.name} SET search_path = public, "Ops"')
    scene.write(
        {
            "001_t.sql": made,
            "002_all.sql": by(23, "fixed", key='"My Orders"("Tenant", up, id)') + where,
            "003_alone.sql": by(9, "fixed", key="alone(up)")
            + 'UPDATE alone SET times = times + 1 WHERE up OPERATOR("Ops".>=) :from AND up OPERATOR("Ops".<=) :to',
        }
    )
    run = scene.migrated()
    assert scene.database.one(WALKED.format('"My Orders"')) == "500 of 500"
    assert scene.database.one(WALKED.format("alone")) == "100 of 100"
    assert [line["batches"] for line in run.logs("migration.batches")] == [22, 12]


# Interrupted and resumed.

# Waits at the gate when it reaches one row.
STOP_AT = (
    "CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS "
    "$$ BEGIN PERFORM pg_advisory_xact_lock(4711); RETURN NEW; "
    "END $$; CREATE TRIGGER wait BEFORE UPDATE ON orders FOR EACH ROW WHEN (OLD.id = {}) EXECUTE FUNCTION wait();"
)
ALL = "SELECT count(*), sum(times), max(times) FROM orders"


def state(scene: Scene, number: int = 2) -> dict[str, object]:
    """Return the progress that the row records."""
    message = scene.database.one(f"SELECT error_message FROM schema_migrations WHERE migration_number = {number}")
    answer = json.loads(str(message).splitlines()[-1])
    assert isinstance(answer, dict)
    return answer


def line_of(scene: Scene, number: int = 2) -> dict[str, Any]:
    """Return the entry for a migration in `status --json`."""
    answer: dict[str, list[dict[str, Any]]] = json.loads(scene.start("status", "--json").ok().stdout)
    return next(line for line in answer["migrations"] if line["number"] == number)


@pytest.mark.parametrize("times", [3, pytest.param(10, marks=pytest.mark.thorough)])
def test_killed_again_and_again_it_meets_each_row_once(scene: Scene, times: int) -> None:
    random = Random(20261128)
    scene.write({"001_t.sql": TABLE.replace("1000)", "6000)"), "002_fill.sql": by(40, "fixed", "pause = 20ms") + FILL})
    for _ in range(times):
        run = scene.start("migrate")
        run.until("lock.acquired")
        # A random moment, not tied to any step of ours.
        with scene.database.connect() as connection:
            connection.execute("SELECT pg_sleep(%s)", (random.uniform(0.01, 0.25),))
        run.kill()
        run.wait()
    rows = scene.database.rows("SELECT status, error_message FROM schema_migrations WHERE migration_number = 2")
    assert rows == [] or rows[0][0] in ("running", "completed")
    assert scene.database.one("SELECT max(times) FROM orders") == 1
    run = scene.migrated()
    assert run.logs("migration.resumed") or run.logs("schema.up_to_date")
    assert scene.database.one(ALL) == (6000, 6000, 1)


def test_another_replica_goes_on_where_the_first_one_was_killed(scene: Scene) -> None:
    """Its unfinished batch is rolled back with it."""
    scene.write({"001_t.sql": TABLE + STOP_AT.format(500), "002_fill.sql": by(100, "fixed") + FILL})
    with Gate(scene.database) as gate:
        first = scene.start("migrate")
        gate.arrival()
        second = scene.start("migrate")
        second.until("lock.waiting")
        assert (state(scene)["cursor"], state(scene)["last"], state(scene)["rows"]) == (["400"], ["1000"], 400)
        first.kill(signal.SIGKILL)
    second.ok()
    (line,) = second.logs("migration.resumed")
    assert (line["rows"], line["batches"]) == (400, 4)
    assert scene.database.one(ALL) == (1000, 1000, 1)
    assert second.logs("migration.batches")[0]["rows"] == 1000


@pytest.mark.parametrize("delivered", [True, False])
def test_a_commit_whose_answer_is_lost_is_not_made_again(scene: Scene, proxy: Proxy, *, delivered: bool) -> None:
    """The row tells whether the commit arrived."""
    scene.write({"001_t.sql": TABLE, "002_fill.sql": by(100, "fixed") + FILL})
    cut = proxy.when_client_sends(b'"cursor": ["400"]', Proxy.cut, deliver=delivered)
    run = scene.start("migrate", url=scene.database.url_at(proxy.port)).ok()
    assert cut.is_set()
    assert run.logs("migration.resumed")[0]["rows"] in ((400,) if delivered else (300,))
    assert scene.database.one(ALL) == (1000, 1000, 1)


@pytest.mark.thorough
def test_losses_behind_other_batches_are_not_added_up(scene: Scene, proxy: Proxy) -> None:
    """Three losses at the same batch end a run; four in one night, far apart, do not."""
    scene.write({"001_t.sql": TABLE, "002_fill.sql": by(100, "fixed") + FILL})
    cuts = [proxy.when_client_sends(b'"cursor": ["%d"]' % key, Proxy.cut) for key in (200, 400, 600, 800)]
    scene.start("migrate", url=scene.database.url_at(proxy.port)).ok(60)
    assert all(cut.is_set() for cut in cuts)
    assert scene.database.one(ALL) == (1000, 1000, 1)


@pytest.mark.thorough
def test_a_frozen_holder_is_replaced_and_commits_nothing_later(scene: Scene) -> None:
    scene.write({"001_t.sql": TABLE + STOP_AT.format(500), "002_fill.sql": by(100, "fixed") + FILL})
    with Gate(scene.database) as gate:
        first = scene.start("migrate")
        gate.arrival()
        first.kill(signal.SIGSTOP)
    second = scene.start("migrate")
    second.ok(60)
    assert second.logs("migration.resumed")
    first.kill(signal.SIGCONT)
    first.wait()
    assert scene.database.one(ALL) == (1000, 1000, 1)


@pytest.mark.thorough
def test_rows_that_others_insert_and_delete_meanwhile_change_nothing_for_the_rest(scene: Scene) -> None:
    scene.write({"001_t.sql": TABLE.replace("SELECT n, n", "SELECT n * 10, n")})
    scene.migrated()
    scene.write({"002_fill.sql": by(25, "fixed", "pause = 20ms") + FILL})
    random = Random(7)
    run = scene.start("migrate")
    with scene.database.connect() as other:
        while run.running:
            other.execute("DELETE FROM orders WHERE id = %s", (random.randint(1, 500) * 20,))
            other.execute("INSERT INTO orders VALUES (%s, 1) ON CONFLICT DO NOTHING", (random.randint(1, 10_000),))
    run.ok()
    # These rows were never deleted.
    assert scene.database.one("SELECT sum(times) FROM orders WHERE id % 20 = 10 AND euros * 10 = id") == 500
    assert scene.database.one("SELECT max(times) FROM orders") == 1


def test_a_file_may_change_as_long_as_no_batch_is_committed(scene: Scene) -> None:
    scene.write({"001_t.sql": TABLE + STOP_AT.format(5), "002_fill.sql": by(100, "fixed") + FILL})
    with Gate(scene.database) as gate:
        run = scene.start("migrate")
        gate.arrival()
        run.kill()
    scene.write({"002_fill.sql": by(50, "fixed") + FILL})
    assert scene.migrated().logs("migration.batches")[0]["batches"] == 20
    assert scene.database.one(ALL) == (1000, 1000, 1)


def test_sigterm_ends_it_at_once_and_the_lock_is_free(scene: Scene) -> None:
    scene.write({"001_t.sql": TABLE, "002_fill.sql": by(100, "fixed", "pause = 1h") + FILL})
    run = scene.start("migrate")
    until(lambda: scene.database.one(ALL)[1] == 100 if scene.database.exists("orders") else None, what="a batch")
    run.terminate()
    assert run.wait(3) == 128 + 15
    assert scene.lock_is_free()
    assert state(scene)["cursor"] == ["100"]


@pytest.mark.thorough
def test_an_operator_who_frees_the_lock_ends_it(scene: Scene) -> None:
    scene.write({"001_t.sql": TABLE, "002_fill.sql": by(100, "fixed", "pause = 1h") + FILL})
    run = scene.start("migrate")
    until(lambda: scene.database.one(ALL)[1] == 100 if scene.database.exists("orders") else None, what="a batch")
    scene.database.execute(
        "UPDATE migration_lock SET locked_at = NULL, locked_by = NULL, process_id = NULL WHERE id = 1"
    )
    assert run.wait(20) == 75, run.report()
    assert only_error(run)["event"] == "lock.lost"
    assert scene.database.one(ALL)[1] == 100


def test_a_partitioned_table_is_gone_through_as_one(scene: Scene) -> None:
    parts = "".join(
        f"CREATE TABLE orders_{part} PARTITION OF orders FOR VALUES FROM ({part * 100}) TO ({part * 100 + 100});"
        for part in range(5)
    )
    made = (
        "CREATE TABLE orders (id int PRIMARY KEY, euros int, cents int, times int DEFAULT 0) PARTITION BY RANGE (id);"
        f"{parts} INSERT INTO orders SELECT n, n FROM generate_series(1, 499) n; ANALYZE orders;"
    )
    scene.write({"001_t.sql": made, "002_fill.sql": by(70, "fixed", "passes = 2") + FILL})
    (line,) = scene.migrated().logs("migration.batches")
    assert (line["rows"], line["batches"]) == (998, 16)
    assert scene.database.one(ALL) == (499, 998, 2)


def test_its_time_ends_and_the_next_start_goes_on(scene: Scene) -> None:
    scene.write({"001_t.sql": TABLE, "002_fill.sql": by(300, "fixed", "pause = 1h") + FILL})
    run = scene.migrate(MIGRATION_TIMEOUT_MS=1500)
    assert run.wait() == 70, run.report()
    error = only_error(run)
    assert error["event"] == "migration.timeout"
    assert "continues after the committed batches" in str(error["message"])
    assert "`-- entrypoint: phase = after`" in str(error["remedy"])
    assert scene.database.one(ALL)[1] == 300
    shown = scene.start("migrate", "--dry-run").ok().stdout
    assert "its batches would continue (300 rows in 1 batch, up to id 300 of 1000):" in shown
    run = scene.migrate(MIGRATION_TIMEOUT_MS=1500)
    assert run.logs("migration.resumed")
    assert scene.database.one(ALL)[1:] == (600, 1)


@pytest.mark.thorough
def test_after_the_rollout_it_has_all_the_time(scene: Scene) -> None:
    scene.write({"001_t.sql": TABLE})
    scene.migrated()
    scene.write({"002_fill.sql": by(250, "phase = after", "pause = 500ms") + FILL})
    assert scene.run()[:2] == ("up_to_date", "1")
    assert scene.database.one(ALL)[1] == 0
    scene.start("migrate", "--phase", "after", MIGRATION_TIMEOUT_MS="1000").ok()
    assert scene.database.one(ALL) == (1000, 1000, 1)


@pytest.mark.thorough
def test_replicas_start_beside_it(scene: Scene) -> None:
    scene.write({"001_t.sql": TABLE + STOP_AT.format(500)})
    scene.migrated()
    scene.write({"002_fill.sql": by(100, "fixed", "phase = after") + FILL})
    with Gate(scene.database) as gate:
        job = scene.start("migrate", "--phase", "after")
        gate.arrival()
        assert scene.run()[:2] == ("up_to_date", "1")
        assert line_of(scene)["state"] == "running"
    job.ok()
    assert scene.database.one(ALL) == (1000, 1000, 1)


def test_a_table_without_rows_is_gone_through(scene: Scene) -> None:
    scene.write({"001_t.sql": TABLE.partition("INSERT")[0], "002_fill.sql": by(10) + FILL})
    (line,) = scene.migrated().logs("migration.batches")
    assert (line["rows"], line["batches"]) == (0, 0)


MERGE = """MERGE INTO copy c USING (SELECT id FROM orders WHERE id BETWEEN :from AND :to) o ON o.id = c.id
WHEN NOT MATCHED THEN INSERT VALUES (o.id);"""


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    ("statement", "rows", "left"),
    [
        ("DELETE FROM orders WHERE id BETWEEN :from AND :to AND id % 2 = 0;", 500, 500),
        (
            "INSERT INTO copy SELECT id FROM orders WHERE id BETWEEN :from AND :to ON CONFLICT DO NOTHING;",
            1000,
            1000,
        ),
        (
            "WITH o AS (DELETE FROM orders WHERE id BETWEEN :from AND :to RETURNING id) INSERT INTO copy TABLE o;",
            1000,
            0,
        ),
        (
            MERGE,
            1000,
            1000,
        ),
    ],
)
def test_statements(scene: Scene, statement: str, rows: int, left: int) -> None:
    scene.write(
        {"001_t.sql": f"{TABLE} CREATE TABLE copy (id bigint PRIMARY KEY);", "002_x.sql": by(99, "fixed") + statement}
    )
    (line,) = scene.migrated().logs("migration.batches")
    assert (line["rows"], line["batches"]) == (rows, 11)
    assert scene.database.one("SELECT count(*) FROM orders") == left


# Failures.


@pytest.mark.thorough
def test_a_batch_that_fails_is_gone_on_with_when_the_cause_is_mended(scene: Scene) -> None:
    scene.write({"001_t.sql": TABLE, "002_fill.sql": by(100, "fixed") + FILL.replace("* 100", "* 100 / (555 - id)")})
    run = scene.migrate()
    assert run.wait() == 70, run.report()
    error = only_error(run)
    assert (error["event"], error["sqlstate"], error["file"]) == ("migration.failed", "22012", "002_fill.sql")
    assert "the earlier ones are committed" in str(error["message"])
    assert "500 rows in 5 batches, up to id 500 of 1000" in str(error["message"])
    assert (state(scene)["cursor"], state(scene)["rows"]) == (["500"], 500)
    line = line_of(scene)
    assert line["state"] == "failed"
    assert "Before that: " in str(line["error"])
    assert '"batch"' not in str(line["error"])
    # It is not retried automatically, and its message is written for people.
    run = scene.migrate()
    assert (run.wait(), only_error(run)["event"]) == (70, "migration.held_back")
    assert '"batch"' not in run.stderr
    scene.database.execute("UPDATE orders SET id = 5550 WHERE id = 555")
    repair = scene.start("repair", "--failed", "--yes").ok()
    assert "have the next start continue its batches" in repair.stdout
    run = scene.migrated()
    assert run.logs("migration.resumed")[0]["rows"] == 500
    # The last key was fixed when the first batch began.
    assert scene.database.rows("SELECT id, times FROM orders WHERE times <> 1") == [(5550, 0)]


@pytest.mark.thorough
def test_a_file_that_has_changed_is_for_a_person_to_look_at(scene: Scene) -> None:
    first = by(100, "fixed") + FILL.replace("* 100", "* 100 / (555 - id)")
    scene.write({"001_t.sql": TABLE, "002_fill.sql": first})
    scene.migrate()
    scene.write({"002_fill.sql": by(100, "fixed") + FILL})
    for event in ("migration.failed", "migration.held_back"):
        run = scene.migrate()
        assert (run.wait(), only_error(run)["event"]) == (70, event)
    assert "has changed since its first batch" in str(only_error(run)["message"])
    assert scene.database.one(ALL)[1] == 500
    # With the old text, it resumes where it stopped.
    scene.write({"002_fill.sql": first})
    run = scene.migrate()
    assert (only_error(run)["sqlstate"], run.logs("migration.resumed")[0]["rows"]) == ("22012", 500)
    # With the new text, it starts over once somebody asks for that.
    scene.write({"002_fill.sql": by(100, "fixed") + FILL})
    scene.migrate()
    assert (
        "the file has changed, so the next start runs it from its first batch"
        in scene.start("repair", "--failed", "--yes").ok().stdout
    )
    scene.migrated()
    assert scene.database.rows("SELECT times, count(*) FROM orders GROUP BY 1 ORDER BY 1") == [(1, 500), (2, 500)]


REFUSED = {
    "orders(nothing)": "public.orders has no column nothing",
    "nothing(id)": "there is no table nothing",
    "orders(euros)": "euros may be NULL, and no batch would include such a row",
    "orders(day)": "no B-tree index on public.orders starts with day",
    "seen(id)": "public.seen is a view",
}


@pytest.mark.sampled(3)
@pytest.mark.parametrize("key", REFUSED)
def test_a_key_that_does_not_fit_is_refused_before_anything_runs(scene: Scene, key: str) -> None:
    scene.write(
        {
            "001_t.sql": f"{TABLE} ALTER TABLE orders ADD day int NOT NULL DEFAULT 0; CREATE VIEW seen AS SELECT 1;",
            "002_fill.sql": by(100, key=key) + FILL,
        }
    )
    run = scene.migrate()
    assert run.wait() == 70, run.report()
    error = only_error(run)
    assert error["event"] == "migration.prevented"
    assert REFUSED[key] in str(error["message"])
    assert scene.ledger() == [(1, "completed")]
    assert scene.database.one(ALL)[1] == 0


VERDICTS = {
    "CREATE TABLE t (id int PRIMARY KEY)": None,
    "CREATE TABLE t (id int NOT NULL, b int); CREATE INDEX i ON t (id, b)": None,
    "CREATE TABLE t (id int NOT NULL); CREATE INDEX i ON t (id DESC NULLS LAST)": None,
    "CREATE TABLE t (id varchar(9) NOT NULL); CREATE INDEX i ON t (id varchar_ops)": None,
    "CREATE TABLE t (id int, PRIMARY KEY (id)) PARTITION BY RANGE (id)": None,
    "CREATE MATERIALIZED VIEW t AS SELECT 1 AS id": "id may be NULL",
    "CREATE TABLE t (id int UNIQUE)": "id may be NULL",
    "CREATE TABLE t (id int NOT NULL)": "no B-tree index on public.t starts with id",
    "CREATE TABLE t (id int NOT NULL); CREATE INDEX i ON t USING hash (id)": "no B-tree index",
    "CREATE TABLE t (id int NOT NULL, b int); CREATE INDEX i ON t (b, id)": "no B-tree index",
    "CREATE TABLE t (id int NOT NULL, b int); CREATE INDEX i ON t (b) INCLUDE (id)": "no B-tree index",
    "CREATE TABLE t (id int NOT NULL); CREATE INDEX i ON t (abs(id))": "no B-tree index",
    "CREATE TABLE t (id int NOT NULL); CREATE INDEX i ON t (id) WHERE id > 5": "public.t cannot be used: it has a",
    "CREATE TABLE t (id text NOT NULL); CREATE INDEX i ON t (id text_pattern_ops)": "operator class sorts differently",
    'CREATE TABLE t (id text NOT NULL); CREATE INDEX i ON t (id COLLATE "POSIX")': "its collation differs from its "
    "column's",
    "CREATE TABLE t (id int PRIMARY KEY); UPDATE pg_index SET indisvalid = false WHERE indrelid > 16383": "not valid",
    "CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE child () INHERITS (t)": "other tables inherit from public.t",
    "CREATE TABLE t (i int PRIMARY KEY)": "public.t has no column id",
    "CREATE VIEW t AS SELECT 1 AS id": "public.t is a view",
    "CREATE SEQUENCE t": "public.t is a sequence",
    "CREATE TABLE t (id point NOT NULL)": "no B-tree index",
    # One usable index is enough.
    "CREATE TABLE t (id int NOT NULL); CREATE INDEX a ON t (id) WHERE id > 5; CREATE INDEX b ON t (id)": None,
}


def test_which_keys_fit(database: Database) -> None:
    found = {}
    with database.connect() as connection:
        for sql in VERDICTS:
            connection.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public;")
            connection.execute(sql)
            oid = str(connection.execute("SELECT 't'::regclass::oid").fetchall()[0][0])
            answers = [
                [tuple(None if v is None else "t" if v is True else "f" if v is False else str(v) for v in row) for row
                 in connection.execute(question).fetchall()]
                for question in keys.questions(oid, ["id"])
            ]  # fmt: skip
            verdict = keys.usable_key(*keys.read(oid, *answers))
            found[sql] = verdict.reason if isinstance(verdict, keys.Unfit) else None
            assert not isinstance(verdict, keys.Unfit) or verdict.remedy
    wrong = {sql: found[sql] for sql, wanted in VERDICTS.items() if (wanted or "") not in (found[sql] or "") or (
        wanted is None) is not (found[sql] is None)}  # fmt: skip
    assert not wrong


ALL_OF_T = "SELECT count(*), sum(n) FROM t"
STANDING = (
    "CREATE TABLE t (x int, id int NOT NULL, n int DEFAULT 0); INSERT INTO t SELECT n, n FROM generate_series(1, 99) n;"
)
_ROOT = "(x int, id int NOT NULL, n int DEFAULT 0) PARTITION BY LIST (x)"
_ROWS = "SELECT n, n FROM generate_series(1, 99) n"
UNDER_A_ROOT = (
    f"CREATE TABLE root {_ROOT}; CREATE TABLE t PARTITION OF root DEFAULT; INSERT INTO root {_ROWS}; "
    "CREATE INDEX ON t (id);"
)
OVER_A_PART = f"{UNDER_A_ROOT.replace(' t ', ' part ').replace(' root ', ' t ')} CREATE INDEX ON t (id);"
_MADE = "(x int, id int GENERATED ALWAYS AS (x * 2) STORED NOT NULL, n int DEFAULT 0)"
MOVING = {
    "a key made of what is set": (
        f"CREATE TABLE t {_MADE}; INSERT INTO t SELECT n FROM generate_series(1, 99) n; CREATE INDEX ON t (id);",
        "UPDATE t SET n = n + 1, x = x + 100 WHERE id BETWEEN :from AND :to",
        "the statement sets x, which id is generated from",
    ),
    "set through the root": (
        UNDER_A_ROOT,
        "UPDATE root SET n = n + 1, id = id + 100 WHERE id BETWEEN :from AND :to",
        "the statement sets id through root",
    ),
    "set in a partition": (
        OVER_A_PART,
        "UPDATE part SET n = n + 1, id = id + 100 WHERE id BETWEEN :from AND :to",
        "the statement sets id through part",
    ),
    "set through a view of a view": (
        f"{STANDING} CREATE INDEX ON t (id); CREATE VIEW v AS SELECT * FROM t; CREATE VIEW w AS SELECT * FROM v;",
        "UPDATE w SET n = n + 1, id = id + 100 WHERE id BETWEEN :from AND :to",
        "the statement sets id through w",
    ),
    "inserted through the root": (
        UNDER_A_ROOT,
        "INSERT INTO root SELECT x, id + 9, 0 FROM t WHERE id BETWEEN :from AND :to",
        "the statement inserts rows through root",
    ),
}


@pytest.mark.parametrize("what", MOVING)
def test_a_statement_whose_rows_come_before_later_batches_is_refused(scene: Scene, what: str) -> None:
    made, statement, reason = MOVING[what]
    scene.write({"001_t.sql": made, "002_x.sql": by(7, "fixed", key="t(id)") + statement})
    run = scene.migrate()
    assert run.wait() == 70, run.report()
    error = only_error(run)
    assert (error["event"], reason in str(error["message"])) == ("migration.prevented", True), error
    assert scene.database.rows(ALL_OF_T) == [(99, 0)]


# Built like the extension citext, which the test servers do not have.
_SIGNS = {"lt": "<", "le": "<=", "eq": "=", "ge": ">=", "gt": ">"}
_BOTH = 'lower($1::text COLLATE "C") {} lower($2::text COLLATE "C")'
CASELESS = (
    'CREATE SCHEMA "My Sch"; SET search_path = "My Sch", public; CREATE TYPE ci; '
    "CREATE FUNCTION ci_in(cstring) RETURNS ci LANGUAGE internal IMMUTABLE STRICT AS 'textin'; "
    "CREATE FUNCTION ci_out(ci) RETURNS cstring LANGUAGE internal IMMUTABLE STRICT AS 'textout'; "
    "CREATE TYPE ci (INPUT = ci_in, OUTPUT = ci_out, LIKE = text); "
    "CREATE CAST (ci AS text) WITHOUT FUNCTION AS IMPLICIT; CREATE CAST (text AS ci) WITHOUT FUNCTION AS ASSIGNMENT; "
    "CREATE FUNCTION cmp(ci, ci) RETURNS int LANGUAGE sql IMMUTABLE AS "
    f"$$ SELECT CASE WHEN {_BOTH.format('<')} THEN -1 WHEN {_BOTH.format('>')} THEN 1 ELSE 0 END $$; "
    + "".join(
        f"CREATE FUNCTION {name}(ci, ci) RETURNS bool LANGUAGE sql IMMUTABLE AS $$ SELECT {_BOTH.format(sign)} $$; "
        f"CREATE OPERATOR {sign} (LEFTARG = ci, RIGHTARG = ci, FUNCTION = {name}); "
        for name, sign in _SIGNS.items()
    )
    + "CREATE OPERATOR CLASS ci_ops DEFAULT FOR TYPE ci USING btree AS "
    + ", ".join(f"OPERATOR {number} {sign}" for number, sign in enumerate(_SIGNS.values(), 1))
    + ", FUNCTION 1 cmp(ci, ci); RESET search_path; "
)


def test_a_key_that_the_statement_compares_otherwise_is_refused(scene: Scene) -> None:
    """Like citext outside the search_path: the index uses its own operators, but BETWEEN would use those of text."""
    made = (
        CASELESS + 'CREATE TABLE t (id "My Sch".ci NOT NULL, n int DEFAULT 0); INSERT INTO t '
        "SELECT (ARRAY['a', 'A', 'b', 'B'])[1 + g % 4] || g / 8 FROM generate_series(1, 99) g; CREATE INDEX ON t (id);"
    )
    statement = "UPDATE t SET n = n + 1 WHERE id BETWEEN :from AND :to"
    scene.write({"001_t.sql": made, "002_x.sql": by(7, "fixed", key="t(id)") + statement})
    error = only_error(scene.migrate())
    assert "BETWEEN would compare id differently from the index" in str(error["message"])
    assert scene.database.rows(ALL_OF_T) == [(99, 0)]
    scene.database.execute(f'ALTER DATABASE {scene.database.name} SET search_path = public, "My Sch"')
    assert 'ALTER ROLE ... SET search_path = public, "My Sch"' in str(error["remedy"])
    scene.migrated()
    assert scene.database.rows(ALL_OF_T) == [(99, 99)]


OTHER_GROUND = {
    "of another type": (
        "ALTER TABLE t ALTER id TYPE text",
        "the key of t was pg_catalog.int4 and is now pg_catalog.text COLLATE",
    ),
    "of another table": (
        "ALTER TABLE t RENAME TO old; CREATE TABLE t (LIKE old INCLUDING ALL); INSERT INTO t SELECT * FROM old",
        "t is not the same table as before",
    ),
}


@pytest.mark.parametrize("what", OTHER_GROUND)
def test_a_place_in_another_table_or_order_is_not_gone_on_from(scene: Scene, what: str) -> None:
    changed, reason = OTHER_GROUND[what]
    stops = "CREATE INDEX ON t (id); ALTER TABLE t ADD CHECK (n = 0 OR id <> 50);"
    statement = "UPDATE t SET n = n + 1 WHERE id BETWEEN :from AND :to"
    scene.write({"001_t.sql": STANDING + stops, "002_x.sql": by(7, "fixed", key="t(id)") + statement})
    assert only_error(scene.migrate())["sqlstate"] == "23514"
    scene.database.execute(f"ALTER TABLE t DROP CONSTRAINT t_check; {changed}")
    scene.start("repair", "--failed", "--yes").ok()
    error = only_error(scene.migrate())
    assert reason in str(error["message"]), error
    assert scene.database.rows(ALL_OF_T) == [(99, 49)]
    (delete,) = re.findall(r"DELETE FROM .* AND status = 'failed'", str(error["remedy"]))
    scene.database.execute(f"{delete}; UPDATE t SET n = 0")
    scene.migrated()
    assert scene.database.rows(ALL_OF_T) == [(99, 99)]


@pytest.mark.thorough
@pytest.mark.parametrize("said", [("fixed", "timeout = 30min"), ("pause = 1ms",), ("target = 1s", "phase = after")])
def test_with_other_directives_the_same_statement_goes_on(scene: Scene, said: tuple[str, ...]) -> None:
    """A fix may ask for more time or another phase. Neither makes it a different statement."""
    stops = "CREATE INDEX ON t (id); ALTER TABLE t ADD CHECK (n = 0 OR id <> 50);"
    statement = "UPDATE t SET n = n + 1 WHERE id BETWEEN :from AND :to"
    scene.write({"001_t.sql": STANDING + stops, "002_x.sql": by(7, "fixed", key="t(id)") + statement})
    assert only_error(scene.migrate())["sqlstate"] == "23514"
    scene.database.execute("ALTER TABLE t DROP CONSTRAINT t_check")
    scene.write({"002_x.sql": f"-- More time.\n{by(5, *said, key='t(id)')}{statement}"})
    repaired = scene.start("repair", "--failed", "--yes").ok()
    assert "have the next start continue its batches" in repaired.stdout
    assert "Repaired: the next start continues it." in scene.start("status").ok().stdout
    after = ("--phase", "after") if "phase = after" in said else ()
    assert "its batches would continue (" in scene.start("migrate", "--dry-run", *after).ok().stdout
    run = scene.start("migrate", *after).ok()
    (resumed,) = run.logs("migration.resumed")
    assert (resumed["rows"], "002_x.sql failed at " in str(resumed["message"])) == (49, True)
    assert scene.database.rows(ALL_OF_T) == [(99, 99)]


INDEXES = {
    "of a table": "CREATE TABLE shop.t (id int NOT NULL)",
    "of a partitioned table": "CREATE TABLE shop.t (id int NOT NULL) PARTITION BY LIST (id)",
    "that is invalid": (
        'CREATE TABLE shop.t (id int NOT NULL); CREATE INDEX "I x" ON shop.t (id); '
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'shop.\"I x\"'::regclass"
    ),
}


@pytest.mark.parametrize("what", INDEXES)
def test_the_remedy_makes_the_index(scene: Scene, what: str) -> None:
    statement = "DELETE FROM shop.t WHERE id BETWEEN :from AND :to"
    scene.write({"001_t.sql": f"CREATE SCHEMA shop; {INDEXES[what]}", "002_x.sql": by(7, key="shop.t(id)") + statement})
    error = only_error(scene.migrate())
    (sql,) = re.findall(r"(?:CREATE INDEX|REINDEX) [^.]*[.][^.,]*?(?:\)|\"(?=[.]))", str(error["remedy"]))
    for one in (scene.database.connect(),):
        one.execute(sql)
        one.close()
    scene.migrated()


@pytest.mark.thorough
def test_a_renumbered_file_does_not_begin_again(scene: Scene) -> None:
    stops = "CREATE INDEX ON t (id); ALTER TABLE t ADD CHECK (n = 0 OR id <> 50);"
    text = by(7, "fixed", key="t(id)") + "UPDATE t SET n = n + 1 WHERE id BETWEEN :from AND :to"
    scene.write({"001_t.sql": STANDING + stops, "002_x.sql": text})
    assert only_error(scene.migrate())["sqlstate"] == "23514"
    scene.database.execute("ALTER TABLE t DROP CONSTRAINT t_check")
    (scene.migrations / "002_x.sql").rename(scene.migrations / "003_x.sql")
    error = only_error(scene.migrate())
    assert "003_x.sql has the same statement as 002_x.sql, which is at" in str(error["message"])
    assert scene.database.rows(ALL_OF_T) == [(99, 49)]
    (follow,) = re.findall(r"UPDATE public.schema_migrations .*WHERE migration_number = 2", str(error["remedy"]))
    scene.database.execute(follow)
    scene.start("repair", "--failed", "--yes").ok()
    scene.migrated()
    assert scene.database.rows(ALL_OF_T) == [(99, 99)]


def test_a_generated_key_stays_where_nothing_sets_what_it_is_made_of(scene: Scene) -> None:
    made = MOVING["a key made of what is set"][0]
    statement = "UPDATE t SET n = n + 1 WHERE id BETWEEN :from AND :to"
    scene.write({"001_t.sql": made, "002_x.sql": by(7, "fixed", key="t(id)") + statement})
    scene.migrated()
    assert scene.database.rows(ALL_OF_T) == [(99, 99)]


@pytest.mark.thorough
def test_status_names_what_stands_half_way_and_has_no_file(scene: Scene) -> None:
    scene.write({"001_t.sql": TABLE + STOP_AT.format(500), "002_fill.sql": by(100, "fixed") + FILL})
    with Gate(scene.database) as gate:
        run = scene.start("migrate")
        gate.arrival()
        run.kill()
        run.wait()
    (scene.migrations / "002_fill.sql").unlink()
    shown = scene.start("status").ok().stdout
    assert "Up to date at version 1. 002_fill.sql was interrupted." in shown


def test_what_has_no_order_is_no_key(scene: Scene) -> None:
    statement = "DELETE FROM t WHERE id BETWEEN :from AND :to"
    scene.write({"001_t.sql": "CREATE TABLE t (id json NOT NULL)", "002_x.sql": by(7, key="t(id)") + statement})
    assert "The type pg_catalog.json has no sort order" in str(only_error(scene.migrate())["remedy"])


@pytest.mark.thorough
def test_a_walk_that_cannot_go_on_says_where_it_stands(scene: Scene) -> None:
    stops = "CREATE INDEX ON t (id); ALTER TABLE t ADD CHECK (n = 0 OR id <> 50);"
    statement = "UPDATE t SET n = n + 1 WHERE id BETWEEN :from AND :to"
    scene.write({"001_t.sql": STANDING + stops, "002_x.sql": by(7, "fixed", key="t(id)") + statement})
    assert only_error(scene.migrate())["sqlstate"] == "23514"
    scene.database.execute("ALTER TABLE t DROP CONSTRAINT t_check; DROP INDEX t_id_idx")
    run = scene.start("baseline", "2", "--yes")
    assert run.wait() == 70
    (delete,) = re.findall(r"DELETE FROM .* AND status = 'failed'", str(only_error(run)["remedy"]))
    scene.start("repair", "--failed", "--yes").ok()
    message = str(only_error(scene.migrate())["message"])
    assert re.search(r"it is at .*49 rows in 7 batches, up to id 49 of 99, and no further batch was run$", message)
    scene.database.execute(delete)
    scene.start("baseline", "2", "--yes").ok()


@pytest.mark.thorough
def test_a_file_that_does_not_run_in_batches_any_more_says_what_it_did(scene: Scene) -> None:
    scene.write({"001_t.sql": TABLE, "002_fill.sql": by(300, "fixed", "pause = 1h") + FILL})
    assert scene.migrate(MIGRATION_TIMEOUT_MS=1500).wait() == 70
    (scene.migrations / "rollback").mkdir()
    (scene.migrations / "rollback" / "002_fill.sql").write_text("UPDATE orders SET cents = NULL;")
    run = scene.start("rollback", "--to", "1", "--yes")
    assert run.wait() == 70, run.report()
    message = str(only_error(run)["message"])
    assert "002_fill.sql is running (300 rows in 1 batch, up to id 300 of 1000), and part of" in message
    scene.write({"002_fill.sql": "UPDATE orders SET cents = euros * 100, times = times + 1;"})
    error = only_error(scene.migrate())
    stands = "has changed since its first batch, and is at 300 rows in 1 batch, up to id 300 of 1000; no further batch"
    assert stands in str(error["message"])
    assert "entrypoint repair --failed. It then runs from the first statement" in str(error["remedy"])
    run = scene.start("rollback", "--to", "1", "--yes")
    assert run.wait() == 70, run.report()
    assert "002_fill.sql is failed (" in str(only_error(run)["message"])
    assert "an earlier version of it has changed 300 rows" in scene.start("repair", "--failed", "--yes").ok().stdout
    scene.migrated()
    assert scene.database.one(ALL)[1] == 1300


LABELS = (
    "CREATE TYPE e AS ENUM ('a', 'b', 'c', 'd'); CREATE DOMAIN de AS e; "
    "CREATE TABLE t (id {} NOT NULL, n int DEFAULT 0); CREATE INDEX ON t (id); "
    "INSERT INTO t SELECT (ARRAY['a', 'b', 'c', 'd'])[1 + g % 4]::e FROM generate_series(1, 99) g;"
)


@pytest.mark.thorough
def test_a_place_that_cannot_be_read_any_more_is_told_as_that(scene: Scene) -> None:
    stops = "ALTER TABLE t ADD CHECK (n = 0 OR id <> 'c');"
    statement = "UPDATE t SET n = n + 1 WHERE id BETWEEN :from AND :to"
    scene.write({"001_t.sql": LABELS.format("e") + stops, "002_x.sql": by(7, "fixed", key="t(id)") + statement})
    assert only_error(scene.migrate())["sqlstate"] == "23514"
    scene.database.execute("ALTER TABLE t DROP CONSTRAINT t_check; ALTER TYPE e RENAME VALUE 'b' TO 'bb'")
    scene.start("repair", "--failed", "--yes").ok()
    run = scene.migrate()
    assert run.wait() == 70, run.report()
    error = only_error(run)
    assert re.search(
        r'is at .*up to id b of d, but id can no longer be compared with that: invalid input value for enum .*"b"; '
        "no further batch was run$",
        str(error["message"]),
    )
    assert "migration_lock" not in str(error)
    assert "Undo the change to t (id) or to its type, then run entrypoint repair --failed" in str(error["remedy"])
    scene.database.execute("ALTER TYPE e RENAME VALUE 'bb' TO 'b'")
    scene.start("repair", "--failed", "--yes").ok()
    scene.migrated()
    assert scene.database.rows(ALL_OF_T) == [(99, 99)]


@pytest.mark.thorough
def test_a_key_whose_type_has_no_operators_is_refused_before_anything_runs(scene: Scene) -> None:
    statement = "UPDATE t SET n = n + 1 WHERE id BETWEEN :from AND :to"
    scene.write({"001_t.sql": LABELS.format("de"), "002_x.sql": by(7, "fixed", key="t(id)") + statement})
    run = scene.migrate()
    assert run.wait() == 70, run.report()
    error = only_error(run)
    assert error["event"] == "migration.prevented"
    assert "PostgreSQL cannot compare its values: operator does not exist" in str(error["message"])
    assert str(error["message"]).endswith("; no batch was run")
    assert scene.ledger() == [(1, "completed")]
    assert "a domain over an enum, change it to the enum itself" in str(error["remedy"])
    scene.database.execute("ALTER TABLE t ALTER id TYPE e")
    scene.migrated()
    assert scene.database.rows(ALL_OF_T) == [(99, 99)]


@pytest.mark.thorough
def test_columns_of_one_index_have_one_direction(scene: Scene) -> None:
    made = "CREATE TABLE t (a int NOT NULL, b int NOT NULL); CREATE INDEX i ON t (a, b DESC);"
    scene.write(
        {"001_t.sql": made, "002_x.sql": by(5, key="t(a, b)") + "DELETE FROM t WHERE (a, b) BETWEEN :from AND :to"}
    )
    error = only_error(scene.migrate())
    assert "some of its columns are descending and some ascending" in str(error["message"])
    assert "CREATE INDEX CONCURRENTLY ON public.t (a, b)" in str(error["remedy"])


# Other sessions.


def test_who_is_in_the_way_gets_time_and_is_named(scene: Scene) -> None:
    scene.write({"001_t.sql": TABLE})
    scene.migrated()
    scene.write({"002_fill.sql": by(400, "lock-timeout = 100ms") + FILL})
    with scene.database.connect(application_name="the shop") as other:
        other.execute("BEGIN; UPDATE orders SET euros = 0 WHERE id = 600")
        run = scene.start("migrate")
        named = run.until(lambda line: line["event"] == "migration.batch_retry" and line.get("blocker"))
        assert (named["level"], named["blocker"]) == ("warning", other.info.backend_pid)
        assert "the shop" in str(named["message"])
        assert named["attempt"] >= 3
        other.execute("ROLLBACK")
    run.ok()
    retries = run.logs("migration.batch_retry")
    assert [line["level"] for line in retries[:2]] == ["info", "info"]
    assert "migration.blocked" not in run.events()
    assert retries[1]["size"] < retries[0]["size"] < 600
    assert scene.database.one(ALL) == (1000, 1000, 1)


@pytest.mark.thorough
@pytest.mark.parametrize("what", ["a row", "the table"])
def test_who_was_in_the_way_to_the_end_is_named_there(scene: Scene, what: str) -> None:
    scene.write({"001_t.sql": TABLE})
    scene.migrated()
    scene.write({"002_fill.sql": by(400, "lock-timeout = 300ms") + FILL})
    with scene.database.connect(application_name="the shop") as other:
        other.execute("BEGIN")
        other.execute("LOCK TABLE orders" if what == "the table" else "UPDATE orders SET euros = 0 WHERE id = 600")
        pid = other.info.backend_pid
        run = scene.start("migrate", MIGRATION_TIMEOUT_MS=5000)
        assert run.wait(30) == 70
    error = only_error(run)
    assert re.search(rf"waited behind backend {pid} \(.*the shop", str(error["message"]))
    assert "The next run continues after the committed batches" in str(error["message"])
    assert error["blocker"] == pid


@pytest.mark.thorough
def test_who_keeps_the_second_pass_waiting_is_named_when_the_time_is_over(scene: Scene) -> None:
    scene.write({"001_t.sql": TABLE})
    scene.migrated()
    scene.write({"002_fill.sql": by(400, "passes = 2") + FILL})
    with scene.database.connect() as other:
        other.execute("BEGIN; UPDATE orders SET euros = 0 WHERE id = 2000; INSERT INTO orders VALUES (5000)")
        run = scene.start("migrate", MIGRATION_TIMEOUT_MS=3000)
        assert run.wait(30) == 70
        pid = other.info.backend_pid
    message = str(only_error(run)["message"])
    assert f"The next pass was to start when the transactions that have written to orders have ended: {pid}" in message
    assert run.logs("migration.waits_for_writers")[0]["pids"] == [pid]


def test_a_deadlock_is_rolled_back_and_tried_again(scene: Scene) -> None:
    scene.write({"001_t.sql": TABLE})
    scene.migrated()
    scene.write({"002_fill.sql": by(1000, "fixed", "lock-timeout = 20s") + FILL})
    with scene.database.connect(options="-c deadlock_timeout=10s") as other:
        other.execute("BEGIN; UPDATE orders SET euros = 0 WHERE id = 900")
        run = scene.start("migrate")
        waiting = "SELECT 1 FROM pg_locks WHERE NOT granted AND locktype = 'transactionid'"
        until(lambda: scene.database.rows(waiting), what="the batch to wait")
        # The batch has already locked this row; whichever session waits first detects the deadlock.
        other.execute("UPDATE orders SET euros = 0 WHERE id = 1; ROLLBACK")
    run.ok()
    assert scene.database.one(ALL) == (1000, 1000, 1)


def test_what_would_not_be_seen_is_met_by_a_second_pass(scene: Scene) -> None:
    """It finds a row whose transaction was still open when the first pass went by."""
    files = {"001_t.sql": TABLE.replace("generate_series(1, 1000) n", "generate_series(2, 1000) n")}
    scene.write(files)
    scene.migrated()
    fill = FILL.replace(";", " AND cents IS NULL;")
    scene.write({"002_once.sql": by(300) + fill})
    for name, met in (("002_once.sql", None), ("003_twice.sql", 1)):
        scene.write({name: by(300, *(["passes = 2"] if met else [])) + fill})
        with scene.database.connect() as other:
            other.execute("BEGIN; INSERT INTO orders VALUES (1, 5)")
            run = scene.start("migrate")
            if met:
                until(lambda: "the next pass starts" in json.dumps(scene.lock()), what="the wait for the writer")
                assert state(scene, 3)["turn"] == 1
            else:
                run.ok()
            other.execute("COMMIT")
        run.ok()
        rows = scene.database.rows("SELECT times FROM orders WHERE id = 1")
        assert rows == [(met or 0,)]
        if not met:
            scene.database.execute("DELETE FROM orders WHERE id = 1")
    assert scene.database.one("SELECT max(times) FROM orders") == 1


def test_inserts_at_its_end_do_not_keep_it_going(scene: Scene) -> None:
    insert = (
        "CREATE FUNCTION more() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO orders SELECT max(id) + 1, 0 "
        "FROM orders; RETURN NULL; END $$; CREATE TRIGGER more AFTER UPDATE ON orders FOR EACH STATEMENT "
        "EXECUTE FUNCTION more();"
    )
    scene.write({"001_t.sql": TABLE + insert, "002_fill.sql": by(100, "fixed") + FILL})
    scene.migrated()
    assert scene.database.one(ALL) == (1010, 1000, 1)


# Messages.


def test_how_far_it_is_is_shown_everywhere(scene: Scene) -> None:
    scene.write({"001_t.sql": f"{TABLE} ANALYZE orders;"})
    scene.migrated()
    scene.database.execute(STOP_AT.format(700))
    scene.write({"002_fill.sql": by(100, "fixed", "lock-timeout = 60s") + FILL})
    with Gate(scene.database) as gate:
        run = scene.start("migrate")
        gate.arrival()
        progress = run.until("migration.progress")
        assert (progress["command"], progress["relation"], progress["percent"]) == ("UPDATE", "public.orders", 60)
        assert "600 rows in 6 batches" in str(progress["phase"])
        text = scene.start("status").ok().stdout
        assert "60 %, 600 rows in 6 batches, up to id 600 of 1000" in text
        assert '"batch"' not in text
        line = line_of(scene)
        assert line["state"] == "running"
        assert line["batches"] == {
            "key": ["id"],
            "cursor": ["600"],
            "last": ["1000"],
            "rows": 600,
            "batches": 6,
            "size": 100,
            "pass": 1,
            "passes": 1,
            "percent": 60,
            "seconds": line["batches"]["seconds"],
        }
        until(lambda: "600 rows in 6 batches" in json.dumps(scene.lock()), what="the lock's row")
        assert (progress["rows"], progress["batches"]) == (600, 6)
        shown = json.loads(scene.start("status", "--json").ok().stdout)["lock"]["progress"]
        assert (shown["percent"], shown["rows"], shown["batches"]) == (60, 600, 6)
        waiter = scene.start("migrate")
        until(lambda: "600 rows in 6 batches" in waiter.stderr, what="a waiter to say so")
        assert "running, or interrupted, at 60 %, 600 rows" in scene.start("repair").ok().stdout
    run.ok()
    waiter.ok()


def test_what_would_run_is_shown(scene: Scene) -> None:
    said = by(100, "target = 200ms", "max-replica-lag = 16MB")
    scene.write({"001_t.sql": TABLE, "002_fill.sql": said + FILL, "003_n.sql": "CREATE TABLE n ();"})
    clause = "batches by orders (id), 100 at a time at first, target 200ms, max-replica-lag 16MB"
    assert f"002_fill.sql  (1 statement, {clause})" in scene.start("migrate", "--dry-run").ok().stdout
    checked = scene.start("check", "--no-lint")
    assert checked.wait() == 0, checked.report()
    assert f"runs in {clause}" in checked.stdout
    rehearsed = scene.start("migrate", "--rehearse")
    rehearsed.wait()
    assert "002_fill.sql runs in batches, of which each is committed before the next" in rehearsed.stdout
    assert not scene.database.exists("orders")


def test_what_is_wrong_is_found_before_anything_runs(scene: Scene) -> None:
    scene.write({"001_t.sql": TABLE, "002_fill.sql": by(100) + "UPDATE orders SET cents = 1;"})
    run = scene.migrate()
    assert run.wait() == 65
    assert "write WHERE id BETWEEN :from AND :to" in str(only_error(run)["message"])
    assert not scene.database.exists("orders")
    scene.write({"002_fill.sql": by(100) + "UPDATE orders SET SET a = 1 WHERE id BETWEEN :from AND :to;"})
    checked = scene.start("check", "--no-lint")
    assert checked.wait() == 65
    assert "syntax error" in checked.stdout


def test_no_file_that_takes_a_migration_back_runs_in_batches(scene: Scene) -> None:
    (scene.migrations / "rollback").mkdir()
    (scene.migrations / "rollback" / "001_t.sql").write_text(by(5) + FILL)
    scene.write({"001_t.sql": TABLE})
    checked = scene.start("check", "--no-lint")
    assert checked.wait() == 65
    assert "and this one runs in batches; remove the directive" in checked.stdout


# Other connections and servers.


def test_through_a_pooler_it_is_the_same(scene: Scene, small_pool: int) -> None:
    scene.write({"001_t.sql": TABLE, "002_fill.sql": by(50, "fixed", "pause = 200ms") + FILL})
    url = scene.database.url_at(small_pool)
    run = scene.start("migrate", url=url)
    until(lambda: scene.database.exists("orders") and scene.database.one(ALL)[1] > 100, what="some batches")
    run.kill()
    run.wait()
    assert told(scene.start(url=url))[:2] == ("migrated", "2")
    assert scene.database.one(ALL) == (1000, 1000, 1)


def test_backslashes_where_strings_have_escapes(scene: Scene) -> None:
    odd_strings(scene.database)
    made = (
        "CREATE TABLE orders (id text PRIMARY KEY, note text, times int DEFAULT 0); INSERT INTO orders "
        "SELECT chr(92) || n || chr(39) FROM generate_series(1, 100) n;"
    )
    fill = "UPDATE orders SET times = times + 1, note = 'it\\'s :no' WHERE id BETWEEN :from AND :to;"
    scene.write({"001_t.sql": made, "002_fill.sql": by(7, "fixed") + fill.replace("\\\\", "\\")})
    scene.migrated()
    assert scene.database.rows("SELECT DISTINCT note, times FROM orders") == [("it's :no", 1)]


def test_a_role_owns_what_it_makes_and_the_log_has_no_warnings(scene: Scene) -> None:
    role = f"owner_{scene.database.name}"[:60]
    scene.database.execute(f'CREATE ROLE "{role}"; GRANT ALL ON SCHEMA public TO "{role}"')
    try:
        scene.write({"001_t.sql": TABLE, "002_fill.sql": by(300) + FILL})
        run = scene.migrated(MIGRATION_ROLE=role)
        assert warnings(run) == []
        assert scene.database.one(ALL) == (1000, 1000, 1)
    finally:
        scene.database.execute(f'DROP OWNED BY "{role}"; DROP ROLE "{role}"')


@pytest.mark.thorough
def test_no_batch_begins_while_a_standby_is_too_far_behind(
    fresh_server: ServerFactory, migrations_dir: Path, run_entrypoint: Callable[..., Run]
) -> None:
    primary = fresh_server(settings={"wal_level": "replica", "max_wal_senders": 4})
    primary.create_database("app")
    standby = Standby(primary)
    try:
        standby.start(standby=True)
        scene = Scene(Database(primary, "app"), migrations_dir, run_entrypoint)
        scene.write({"001_t.sql": TABLE})
        scene.migrated()
        with standby.connect("app") as connection:
            connection.execute("SELECT pg_wal_replay_pause()")
            scene.write({"002_fill.sql": by(100, "fixed", "max-replica-lag = 16kB") + FILL})
            run = scene.start("migrate")
            behind = run.until("migration.replica_lag")
            assert behind["lag_bytes"] > behind["max_lag_bytes"] == 16384
            until(lambda: "waiting for a standby" in json.dumps(scene.lock()), what="the lock's row to say so")
            assert scene.database.one(ALL)[1] < 1000
            connection.execute("SELECT pg_wal_replay_resume()")
        run.ok()
        assert scene.database.one(ALL) == (1000, 1000, 1)
        # A role that may not see the lag is told so, once.
        in_public = ("SCHEMA public", "ALL TABLES IN SCHEMA public", "ALL SEQUENCES IN SCHEMA public")
        scene.database.execute(
            "; ".join(["CREATE ROLE shop LOGIN", *(f"GRANT ALL ON {all_} TO shop" for all_ in in_public)])
        )
        scene.write({"003_fill.sql": by(100, "fixed", "max-replica-lag = 16kB") + FILL})
        run = scene.migrated(url=primary.url("app", user="shop"))
        assert len(run.logs("migration.replica_lag_unknown")) == 1
    finally:
        standby.close()
