"""SIGTERM and SIGINT at random moments of a start that has a bit of everything.

The ordinary suite tries 40 moments; `ENTRYPOINT_TEST_SIGNALS=200` tries more. A failure names its seed, and
`ENTRYPOINT_TEST_SEED` begins there.
"""

from __future__ import annotations

import os
import random
import signal
import time
from typing import TYPE_CHECKING

import pytest

from conftest import new_database
from kit.migrations import write_migrations
from kit.processes import status, until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from demo.postgres import Server
    from kit.databases import Database
    from kit.processes import Run

pytestmark = pytest.mark.cold

MOMENTS = int(os.environ.get("ENTRYPOINT_TEST_SIGNALS", "40"))
FIRST = int(os.environ.get("ENTRYPOINT_TEST_SEED", "1"))
PROMISE = 2.0
# However many moments you ask for, each test takes so few that it stays within pytest's timeout.
_MOMENTS_PER_TEST = 10
GROUPS = -(-MOMENTS // _MOMENTS_PER_TEST)

FILES = {
    "001_notices.sql": "CREATE TABLE one (id integer);\n"
    "DO $$ BEGIN FOR i IN 1..3000 LOOP RAISE NOTICE 'row %', i; END LOOP; END $$;\nINSERT INTO one VALUES (1);",
    "002_long.sql": "CREATE TABLE two (id integer);\nSELECT pg_sleep(0.3);\nINSERT INTO two VALUES (1);",
    "003_outside.sql": "CREATE INDEX CONCURRENTLY one_id ON one (id);\nVACUUM one;\nANALYZE two;",
    "004_busy.sql": "CREATE TABLE four (id integer);\nINSERT INTO four VALUES (1);\n"
    "ALTER TABLE busy ADD COLUMN a text;",
}
TABLES = {1: "one", 2: "two", 4: "four"}
APPLICATION = ("run", "--", "sh", "-c", "echo started; exec sleep 60")


@pytest.mark.thorough
@pytest.mark.case("B1")
@pytest.mark.parametrize("group", range(GROUPS))
def test_each_moment_ends_it(
    server: Server, run_entrypoint: Callable[..., Run], migrations_dir: Path, tmp_path: Path, group: int
) -> None:
    write_migrations(migrations_dir, FILES)
    (tmp_path / "backups").mkdir()
    for seed in range(FIRST + group, FIRST + MOMENTS, GROUPS):
        with new_database(server, f"moment {seed}") as database:
            one_moment(run_entrypoint, database, tmp_path / "backups", random.Random(seed), f"seed {seed}")


def one_moment(
    run_entrypoint: Callable[..., Run], database: Database, backups: Path, chance: random.Random, seed: str
) -> None:
    environment = {"DATABASE_URL": database.url, "MIGRATION_DDL_LOCK_TIMEOUT_MS": "100"}
    if chance.random() < 0.3:
        environment["MIGRATION_BACKUP_DIR"] = str(backups)
        environment["PATH"] = f"{database.server.bin}:{os.environ['PATH']}"  # its own pg_dump
    blocked, number = chance.random() < 0.5, chance.choice((signal.SIGTERM, signal.SIGINT))
    moment = chance.uniform(0, 2.5)
    seed = f"{seed}: {number.name} after {moment:.3f} s, {'blocked' if blocked else 'not blocked'}"
    database.execute("CREATE TABLE busy ()")
    with database.connect() as other, other.transaction():
        if blocked:
            other.execute("SELECT * FROM busy")
        run = run_entrypoint(*APPLICATION, env=environment)
        until(lambda: int(status(run.pid)["SigCgt"], 16) & 1 << signal.SIGTERM - 1, 15, "our handlers")
        time.sleep(moment)  # Not for synchronization: the moment is what we test.
        sent = time.time()
        run.kill(number)
        code = run.wait(20)
        took = time.time() - sent
        report = f"{seed}\n{run.report()}"
        assert took < PROMISE, report
        # Ended by the signal itself: it hit the application, or the last moment before it.
        assert code in (128 + number, -number), report
        assert "Traceback" not in run.stderr, report
        # The clocks of two processes cannot tell which came first, the application or the signal, but the exit code
        # can: only a signal that meets no handler of ours ends the process by itself, and one that we caught and
        # dropped ends nothing.
        started = run.stdout.strip()
        assert not started or code == -number, f"the application was started in spite of the signal; {report}"
        assert "backup.failed" not in run.stderr, report
        assert not list(backups.glob(".*")), f"an unfinished backup was left; {report}"
        until(lambda: database.sessions(ours=2) == 0, 3, f"the end of the backends; {report}")
    nothing_half_done(database, report)
    if started or chance.random() < 0.2:
        again = run_entrypoint("migrate", env={"DATABASE_URL": database.url})
        assert again.wait(30) == 0, f"{report}\n{again.report()}"
        completed = "SELECT count(*) FROM schema_migrations WHERE status = 'completed'"
        assert database.one(completed) == 4, report
        assert database.one("SELECT indisvalid FROM pg_index WHERE indexrelid = 'one_id'::regclass") is True


def nothing_half_done(database: Database, report: str) -> None:
    """Fail unless each file that runs in a transaction has left either all or nothing, and its row with it."""
    recorded = (
        {
            number
            for (number,) in database.rows("SELECT migration_number FROM schema_migrations WHERE status = 'completed'")
        }
        if database.exists("schema_migrations")
        else set()
    )
    for number, table in TABLES.items():
        assert database.exists(table) == (number in recorded), report
        if number in recorded:
            assert database.one(f"SELECT count(*) FROM {table}") == 1, report
    if database.exists("schema_migrations"):
        assert database.one("SELECT count(*) FROM schema_migrations WHERE status = 'failed'") == 0, report
