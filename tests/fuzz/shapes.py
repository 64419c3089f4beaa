"""Files with their own transaction control: up to three blocks, with statements around them. psql is the judge.

Each file works in its own schema, in one database for the program and in another for psql. One start applies a batch of
files that psql accepts; a file that psql refuses gets its own start. Then the schemas' contents must be the same, which
also shows how far the file's settings reached. A file that fails in one transaction must leave nothing behind.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from entrypoint.migration.script.statements import advise
from fuzz.judge import Difference
from kit.processes import PROGRAM

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from random import Random

    from demo.postgres import Server

# A setting that was once set in a session and no longer is reads as an empty text, and a session runs many files.
_SEED = """
    CREATE SCHEMA {s};
    CREATE TABLE {s}.t (i int, w text DEFAULT coalesce(current_setting('x.y', true), ''));
    CREATE TABLE {s}.log (what text); CREATE SEQUENCE {s}.seq;
    CREATE TABLE {s}.parent (i int PRIMARY KEY);
    CREATE TABLE {s}.child (i int REFERENCES {s}.parent {deferred});
    CREATE TYPE {s}.m AS ENUM ('a'); CREATE TABLE {s}.e (m {s}.m);
    CREATE FUNCTION {s}.local() RETURNS text LANGUAGE sql AS $$ SELECT set_config('x.y', 'by local()', true) $$;
    CREATE FUNCTION {s}.session() RETURNS text LANGUAGE sql AS $$ SELECT set_config('x.y', 'by session()', false) $$;
    CREATE PROCEDURE {s}.p() LANGUAGE plpgsql AS 'BEGIN INSERT INTO {s}.t VALUES (-1); COMMIT; END';
"""
_DEFERRED = "DEFERRABLE INITIALLY DEFERRED"
# In each of the two text columns: what it is, and its details.
_STATE = """
    SELECT nspname || '.' || relname, relkind::text FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
    WHERE nspname = ANY (%(schemas)s)
    UNION ALL SELECT conrelid::regclass::text, conname || ' ' || convalidated || ' ' || condeferred
    FROM pg_constraint JOIN pg_namespace n ON n.oid = connamespace WHERE nspname = ANY (%(schemas)s)
    UNION ALL SELECT attrelid::regclass::text, attname || ' ' || attnum FROM pg_attribute
    JOIN pg_class c ON c.oid = attrelid JOIN pg_namespace n ON n.oid = relnamespace
    WHERE nspname = ANY (%(schemas)s) AND attnum > 0
    UNION ALL SELECT enumtypid::regtype::text, enumlabel FROM pg_enum JOIN pg_type t ON t.oid = enumtypid
    JOIN pg_namespace n ON n.oid = typnamespace WHERE nspname = ANY (%(schemas)s)
"""
# {s}: the schema, {i}: a number that other statements of the file also use.
_PLAIN = (
    *("INSERT INTO {s}.t VALUES ({i})", "INSERT INTO {s}.t DEFAULT VALUES", "UPDATE {s}.t SET i = i + 1"),
    *(
        "INSERT INTO {s}.log (what) VALUES (coalesce(current_setting('x.y', true), ''))",
        "DELETE FROM {s}.t WHERE i = {i}",
    ),
    *("CREATE TABLE {s}.n{i} (a int)", "CREATE TABLE IF NOT EXISTS {s}.k AS SELECT 1 AS a", "SELECT 1", "SELECT now()"),
    *("SET x.y = 'session {i}'", "RESET x.y", "SET SESSION x.y TO 'too'", "COMMENT ON TABLE {s}.t IS 'c{i}'"),
    *("SET search_path = {s}", "INSERT INTO {s}.log (what) VALUES (current_setting('search_path'))", "ANALYZE {s}.t"),
    *(
        "GRANT SELECT ON {s}.t TO PUBLIC",
        "ALTER TABLE {s}.t ADD COLUMN IF NOT EXISTS x{i} int",
        "DROP TABLE IF EXISTS {s}.n1",
    ),
    *("SELECT setval('{s}.seq', {i}0)", "INSERT INTO {s}.log (what) SELECT count(*)::text FROM {s}.t"),
    *("CREATE INDEX ON {s}.t (i)", "CREATE VIEW {s}.v{i} AS SELECT * FROM {s}.t", "TRUNCATE {s}.t"),
)
_TRICKY = (
    *("SET LOCAL x.y = 'local {i}'", "SET /* c */ LOCAL x.y = 'local'", "SET LOCAL search_path = {s}"),
    *("SELECT set_config('x.y', 'true', true)", "SELECT set_config('x.y', 'false', false)"),
    *("SELECT {s}.local()", "SELECT {s}.session()", "INSERT INTO {s}.t (i, w) SELECT {i}, {s}.local()"),
    *("CREATE TABLE {s}.f{i} AS SELECT {s}.local()", "DO $$ BEGIN SET LOCAL x.y = 'by DO'; END $$"),
    *("DO $$ BEGIN PERFORM {s}.local(); END $$", "DO $$ BEGIN INSERT INTO {s}.t VALUES ({i}); END $$"),
    *("DO $$ BEGIN RAISE NOTICE 'x'; END $$", "DO $$ BEGIN INSERT INTO {s}.t VALUES ({i}); COMMIT; END $$"),
    *(
        "CREATE TEMP TABLE IF NOT EXISTS tmp ON COMMIT DROP AS SELECT 7 AS i",
        "CREATE TEMP TABLE IF NOT EXISTS tmp (i int)",
    ),
    *("CREATE TEMP TABLE IF NOT EXISTS tmp ON COMMIT DELETE ROWS AS SELECT 8 AS i", "INSERT INTO tmp VALUES ({i})"),
    *("INSERT INTO {s}.t SELECT i FROM tmp", "ALTER TYPE {s}.m ADD VALUE IF NOT EXISTS 'v{i}'"),
    *("INSERT INTO {s}.e VALUES ('v{i}')", "INSERT INTO {s}.e SELECT ('v' || '{i}')::{s}.m"),
    *("SET CONSTRAINTS ALL DEFERRED", "SET CONSTRAINTS ALL IMMEDIATE", "INSERT INTO {s}.child VALUES ({i})"),
    *(
        "INSERT INTO {s}.parent VALUES ({i}) ON CONFLICT DO NOTHING",
        "ALTER TABLE {s}.child ADD COLUMN IF NOT EXISTS y int",
    ),
    *("TRUNCATE {s}.child", "SAVEPOINT a", "SAVEPOINT a; INSERT INTO {s}.t VALUES (0); ROLLBACK TO a"),
    *("SAVEPOINT b; SET LOCAL x.y = 'b'; RELEASE b", "ROLLBACK TO a", "CALL {s}.p()", "LOCK TABLE {s}.t"),
    *("DECLARE c CURSOR FOR SELECT 1", "DECLARE c CURSOR WITH HOLD FOR SELECT 1", "CLOSE c", "FETCH c", "NOTIFY a"),
    *("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE", "SET default_transaction_isolation = 'repeatable read'"),
    *("INSERT INTO {s}.log (what) VALUES (current_setting('transaction_isolation'))", "BEGIN", "COMMIT", "ROLLBACK"),
    "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL REPEATABLE READ",
    *("ALTER TABLE {s}.t ADD CONSTRAINT k{i} CHECK (i < 1000) NOT VALID", "ALTER TABLE {s}.t VALIDATE CONSTRAINT k{i}"),
    *("CREATE INDEX CONCURRENTLY i{i} ON {s}.t (i)", "VACUUM {s}.t", "REINDEX TABLE {s}.t", "DISCARD ALL", "RESET ALL"),
    *("PREPARE q AS INSERT INTO {s}.t VALUES (9)", "EXECUTE q", "SELECT pg_advisory_xact_lock(1)", "SELECT 1/0"),
    *("REFRESH MATERIALIZED VIEW {s}.none", "SET ROLE NONE", "SET TIME ZONE 'UTC'", "CLUSTER {s}.t"),
    "CREATE TABLE {s}.g{i} (i int REFERENCES {s}.parent " + _DEFERRED + ")",
)
_BEGINS = ("BEGIN",) * 6 + ("START TRANSACTION", "BEGIN WORK", "BEGIN ISOLATION LEVEL SERIALIZABLE", "begin /* c */")
_ENDS = ("COMMIT",) * 6 + ("END", "COMMIT WORK", "commit -- c\n", "ROLLBACK")
# A statement outside all blocks runs in one of our transactions here, and in none in psql.
_LENIENT = "can only be used in transaction blocks"
_BATCH = 40
_SECONDS = 300


def make(random: Random) -> str:
    """Return the text of a file, with {s} for its schema: up to three blocks and statements around them."""
    # Either almost everything is harmless, so that many files can be one transaction, or not.
    tricky = random.choice((0.03, 0.15, 0.4))

    def some(most: int) -> list[str]:
        chosen = []
        for _ in range(random.randint(0, most)):
            template = random.choice(_TRICKY if random.random() < tricky else _PLAIN)
            chosen.append(template.replace("{i}", str(random.randint(1, 3))))
        return chosen

    parts = some(2)
    for _ in range(random.choice((1, 1, 2, 2, 2, 3))):
        parts += [random.choice(_BEGINS), *some(3), random.choice(_ENDS) if random.random() < 0.15 else "COMMIT"]
        parts += some(2)
    if random.random() < 0.1:
        parts.insert(random.randint(0, len(parts)), "COMMIT")
    return "".join(f"{part};{random.choice((' ', chr(10)))}" for part in parts)


class _Case(NamedTuple):
    number: int
    text: str
    merged: bool
    good: bool
    """Whether psql accepted it."""

    @property
    def schema(self) -> str:
        return f"s{self.number}"


class Shapes:
    """Two databases, one for the program and one for psql."""

    def __init__(self, server: Server, psql: str, *, deferred: bool, prefix: str = "shapes") -> None:
        """`deferred`: whether the databases start with deferred triggers."""
        self._server, self._psql = server, psql
        self._deferred = _DEFERRED if deferred else ""
        self._ours, self._theirs = (f"{prefix}_{name}_{deferred}".lower() for name in ("ours", "psql"))
        for name in (self._ours, self._theirs):
            server.create_database(name)
        self._number = 0
        self.counts: Counter[str] = Counter()
        self.found: list[tuple[Difference, str]] = []

    def close(self) -> None:
        """Leave nothing behind on the server."""
        for name in (self._ours, self._theirs):
            self._server.drop_database(name)

    def run(self, random: Random, count: int, tell: Callable[[Difference, str], None] = lambda *_: None) -> None:
        """Try `count` files."""
        while count > 0:
            cases = self._prepared([make(random) for _ in range(min(count, _BATCH))])
            count -= _BATCH
            before = len(self.found)
            self._apply([case for case in cases if case.good])
            for case in cases:
                if not case.good:
                    self._fail(case)
            for difference, text in self.found[before:]:
                tell(difference, text)

    def _prepared(self, texts: Sequence[str]) -> list[_Case]:
        """Let psql run what is not refused beforehand."""
        cases = []
        for template in texts:
            self._number += 1
            text = template.replace("{s}", f"s{self._number}").replace(_DEFERRED, self._deferred)
            advice = advise(text)
            if advice.faults:
                self.counts["refused"] += 1
                continue
            seed = _SEED.format(s=f"s{self._number}", deferred=self._deferred)
            for name in (self._ours, self._theirs):
                with self._server.connect(name) as connection:
                    connection.execute(seed.encode())
            command = [self._psql, "-X", "-q", "-v", "ON_ERROR_STOP=1", self._server.url(self._theirs)]
            done = subprocess.run(
                command, input=text.encode(), capture_output=True, timeout=_SECONDS, check=False, env=_environment()
            )
            if _LENIENT in done.stderr.decode():
                self.counts["not comparable"] += 1
                continue
            merged = advice.merged and not (advice.unless_deferred and self._deferred)
            cases.append(_Case(self._number, text, merged, done.returncode == 0))
        return cases

    def _apply(self, cases: Sequence[_Case]) -> None:
        """Let one start apply what psql accepted; files that fail here are differences."""
        left = list(cases)
        while left:
            done = self._start(left)
            if done.returncode == 0:
                break
            failed = re.search(r'"file": "(\d+)_x\.sql"[^\n]*', done.stderr[done.stderr.index('"level": "error"') :])
            if done.returncode != 70 or failed is None:
                raise AssertionError(done.stderr)
            case = next(case for case in left if case.number == int(failed[1]))
            self._differs("only psql succeeds", failed[0][:1000], case)
            left.remove(case)
            self._forget(case)
        states = [self._state(name, [case.schema for case in left]) for name in (self._ours, self._theirs)]
        for case in left:
            self.counts["merged" if case.merged else "units"] += 1
            ours, theirs = ([row for row in state if row[0] == case.schema] for state in states)
            if ours != theirs:
                self._differs("other effect", _apart(ours, theirs), case)

    def _fail(self, case: _Case) -> None:
        """Let a separate start run what psql refused."""
        before = self._state(self._ours, [case.schema])
        done = self._start([case])
        self._forget(case)
        if done.returncode == 0:
            # What psql's transaction has deferred or already ended may be different in ours. It does no harm if ours
            # succeeds, unless nobody would expect that of this text.
            kind = "only psql fails" if not case.merged else "only psql fails, merged"
            self._differs(kind, done.stderr[-300:], case)
            return
        as_units = "migration.as_units" in done.stderr
        merged = case.merged and not as_units
        self.counts["failed, merged" if merged else "failed, units"] += 1
        after = self._state(self._ours, [case.schema])
        expected = before if merged else self._state(self._theirs, [case.schema])
        if [row for row in after if not _is_sequence(row)] != [row for row in expected if not _is_sequence(row)]:
            self._differs("other effect of a failure", _apart(after, expected), case)

    def _start(self, cases: Sequence[_Case]) -> subprocess.CompletedProcess[str]:
        with tempfile.TemporaryDirectory(prefix="shapes-") as directory:
            for case in cases:
                (Path(directory) / f"{case.number:03d}_x.sql").write_text(case.text)
            environment = {
                **_environment(),
                "DATABASE_URL": self._server.url(self._ours),
                "MIGRATIONS_DIR": directory,
                "MIGRATION_SCHEMA": "ledger",
                "LOG_FORMAT": "json",
            }
            command = [*PROGRAM, "migrate"]
            done = subprocess.run(command, env=environment, capture_output=True, timeout=_SECONDS, check=False)
        return subprocess.CompletedProcess(command, done.returncode, done.stdout.decode(), done.stderr.decode())

    def _forget(self, case: _Case) -> None:
        with self._server.connect(self._ours) as connection:
            connection.execute("DELETE FROM ledger.schema_migrations WHERE migration_number = %s", (case.number,))

    def _state(self, database: str, schemas: Sequence[str]) -> list[tuple[str, str, str]]:
        """Return everything in the schemas: the schema, what it is, and its details."""
        with self._server.connect(database) as connection:
            rows = connection.execute(_STATE.encode(), {"schemas": list(schemas)}).fetchall()
            for name, kind in [row for row in rows if row[1] in ("r", "S")]:
                what = "c" if kind == "r" else "last_value"
                content = connection.execute(f"SELECT {what}::text FROM {name} c ORDER BY 1".encode())
                rows += [(name, f"row {row[0]}") for row in content]
        return sorted((str(name).partition(".")[0], str(name), str(what)) for name, what in rows)

    def _differs(self, what: str, detail: str, case: _Case) -> None:
        self.counts[what] += 1
        self.found.append((Difference(what, "shapes", detail), case.text))


def _environment() -> dict[str, str]:
    return {"PATH": os.environ["PATH"]}


def _is_sequence(row: tuple[str, str, str]) -> bool:
    """Tell whether the row is about something that no rollback undoes."""
    return row[1].endswith(".seq")


def _apart(ours: Sequence[tuple[str, ...]], theirs: Sequence[tuple[str, ...]]) -> str:
    return (
        f"here {[row[1:] for row in ours if row not in theirs]}, psql {[row[1:] for row in theirs if row not in ours]}"
    )
