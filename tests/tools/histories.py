"""Let the real tools create the histories in tests/fixtures/histories/, also the odd ones, and save them as SQL.

    python -m tests.tools.histories [NAME…]

Needs all tools (`make tools`). The fixtures are kept because not every machine has the tools; each says what created
it.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from demo.postgres import Server
from kit.databases import Database
from tools import HOME
from tools.dumps import table_dump
from tools.install import version_of
from tools.kit import Step, Tool, ToolError
from tools.marked import Dbmate, Goose, Goose2, SqlMigrate
from tools.named import Diesel, Flyway, GolangMigrate, Sqlx
from tools.node import Drizzle, Drizzle1, Prisma, Supabase
from tools.steps import ACCOUNTS, FAULTY, INDEX, ORDERS, TOTALS, TOUCH

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FIXTURES = Path(__file__).parents[1] / "fixtures" / "histories"


class History(NamedTuple):
    """What a tool was made to do, and what its table says afterwards."""

    done: str
    """What was done with it."""
    applied: list[str]
    """The versions that the tool itself reports as applied."""
    wrong: str = ""
    """Why nobody should continue from here; empty if all is well."""
    table: str = ""
    """Where the history is, if not in the tool's usual place."""


_MAKERS: dict[str, tuple[type[Tool], Callable[..., History]]] = {}


def history(name: str, kind: type[Tool]) -> Callable[[Callable[..., History]], Callable[..., History]]:
    """Register a function that creates a history; it gets the tool, with an empty project, and a database's URL."""

    def register(make: Callable[..., History]) -> Callable[..., History]:
        _MAKERS[name] = (kind, make)
        return make

    return register


@contextlib.contextmanager
def failing() -> Iterator[None]:
    """Expect the tool to fail."""
    try:
        yield
    except ToolError:
        return
    raise AssertionError("the tool did not fail")


def add(tool: Tool, *steps: Step) -> list[str]:
    """Add several migrations and return their versions."""
    return [tool.add(step) for step in steps]


# --- goose ----------------------------------------------------------------------------------------------


@history("goose", Goose)
def _goose(tool: Goose, url: str) -> History:
    versions = add(tool, ACCOUNTS, TOUCH, ORDERS)
    tool.up(url)
    return History("up, with three files", versions)


@history("goose-out-of-order", Goose)
def _goose_gap(tool: Goose, url: str) -> History:
    first, second, third, fourth = add(tool, ACCOUNTS, TOUCH, ORDERS, TOTALS)
    with tool.without(second, fourth):
        # The third file's trigger needs what the second creates.
        tool.rewrite(third, "CREATE TABLE orders (id bigint);\n", "DROP TABLE orders;\n")
        tool.up(url)
    with tool.without(fourth):
        tool.up(url, "-allow-missing")
    return History("up without the second of three files, which came later: up -allow-missing", [first, third, second])


@history("goose-gap", Goose)
def _goose_missing(tool: Goose, url: str) -> History:
    first, second, third = add(tool, ACCOUNTS, TOUCH, ORDERS)
    with tool.without(second):
        tool.rewrite(third, "CREATE TABLE orders (id bigint);\n", "DROP TABLE orders;\n")
        tool.up(url)
    return History(f"up without the second of three files ({second}), which came later", [first, third])


@history("goose-down-and-up", Goose)
def _goose_again(tool: Goose, url: str) -> History:
    versions = add(tool, ACCOUNTS, TOUCH, ORDERS)
    tool.up(url)
    tool.command(url, "down-to", versions[0])
    tool.up(url)
    tool.down(url)
    return History("up, down-to the first, up, down: this version deletes the rows of what is undone", versions[:2])


@history("goose-none", Goose)
def _goose_none(tool: Goose, url: str) -> History:
    add(tool, ACCOUNTS)
    tool.up(url)
    tool.command(url, "reset")
    return History("up, reset: nothing is applied", [])


@history("goose-failed", Goose)
def _goose_failed(tool: Goose, url: str) -> History:
    versions = add(tool, ACCOUNTS, FAULTY._replace(alone=True))
    with failing():
        tool.up(url)
    return History("up; the second file, outside a transaction, failed half-way: no trace of it here", versions[:1])


@history("goose-other-table", Goose)
def _goose_elsewhere(tool: Goose, url: str) -> History:
    versions = add(tool, ACCOUNTS)
    _sql(url, "CREATE SCHEMA ops")
    tool.command(url, "up", table="ops.my_goose")
    return History("up, with -table ops.my_goose", versions, table="ops.my_goose")


@history("goose-2-down-and-up", Goose2)
def _goose2_again(tool: Goose2, url: str) -> History:
    versions = add(tool, ACCOUNTS, TOUCH, ORDERS)
    tool.up(url)
    tool.down(url)
    tool.down(url)
    tool.up(url)
    tool.down(url)
    return History(
        "up, down, down, up, down: this old version adds a row for each way back, too, and the newest counts",
        versions[:2],
    )


# --- dbmate, sql-migrate --------------------------------------------------------------------------------


@history("dbmate", Dbmate)
def _dbmate(tool: Dbmate, url: str) -> History:
    versions = add(tool, ACCOUNTS, TOUCH, ORDERS)
    tool.up(url)
    tool.down(url)
    return History("migrate, rollback, with three files", versions[:2])


@history("dbmate-zeros", Dbmate)
def _dbmate_zeros(tool: Dbmate, url: str) -> History:
    for version, step in (("001", ACCOUNTS), ("0002", TOUCH), ("10", ORDERS)):
        created = tool.directory / f"{tool.add(step)}_{step.name}.sql"
        created.rename(created.with_name(f"{version}_{step.name}.sql"))
    tool.up(url)
    return History("migrate, with 001_accounts.sql, 0002_touch.sql and 10_orders.sql", ["001", "0002", "10"])


@history("dbmate-none", Dbmate)
def _dbmate_none(tool: Dbmate, url: str) -> History:
    add(tool, ACCOUNTS)
    tool.up(url)
    tool.down(url)
    return History("migrate, rollback, with one file: nothing is applied", [])


@history("dbmate-other-table", Dbmate)
def _dbmate_elsewhere(tool: Dbmate, url: str) -> History:
    versions = add(tool, ACCOUNTS)
    tool.command(url, "migrate", table="ops.dbmate")
    return History("migrate, with --migrations-table ops.dbmate", versions, table="ops.dbmate")


@history("sql-migrate", SqlMigrate)
def _sql_migrate(tool: SqlMigrate, url: str) -> History:
    versions = add(tool, ACCOUNTS, TOUCH, ORDERS)
    tool.up(url)
    tool.down(url)
    return History("up, down, with three files", versions[:2])


# --- golang-migrate -------------------------------------------------------------------------------------


@history("golang-migrate", GolangMigrate)
def _golang_migrate(tool: GolangMigrate, url: str) -> History:
    versions = add(tool, ACCOUNTS, TOUCH, ORDERS)
    tool.up(url)
    return History("up, with three files: the table has the newest alone", versions)


@history("golang-migrate-dirty", GolangMigrate)
def _golang_migrate_dirty(tool: GolangMigrate, url: str) -> History:
    versions = add(tool, ACCOUNTS, TOUCH, FAULTY)
    with failing():
        tool.up(url)
    return History("up, with three files, of which the third failed", versions[:2], wrong="dirty")


@history("golang-migrate-dirty-down", GolangMigrate)
def _golang_migrate_dirty_down(tool: GolangMigrate, url: str) -> History:
    versions = add(tool, ACCOUNTS, TOUCH._replace(down="DROP FUNCTION no_such();\n"))
    tool.up(url)
    with failing():
        tool.down(url)
    return History("up, down; the way back of the second of two files failed", versions[:1], wrong="dirty")


@history("golang-migrate-none", GolangMigrate)
def _golang_migrate_none(tool: GolangMigrate, url: str) -> History:
    add(tool, ACCOUNTS)
    tool.up(url)
    tool.down(url)
    return History("up, down 1, with one file: nothing is applied", [])


@history("golang-migrate-forced", GolangMigrate)
def _golang_migrate_forced(tool: GolangMigrate, url: str) -> History:
    versions = add(tool, ACCOUNTS, TOUCH, ORDERS)
    tool.command(url, "force", versions[1])
    return History("force 2, without a run", versions[:2])


# --- Flyway ---------------------------------------------------------------------------------------------


@history("flyway", Flyway)
def _flyway(tool: Flyway, url: str) -> History:
    versions = add(tool, ACCOUNTS, TOUCH, ORDERS)
    tool.up(url)
    return History("migrate, with three files", versions)


@history("flyway-failed", Flyway)
def _flyway_failed(tool: Flyway, url: str) -> History:
    versions = add(tool, ACCOUNTS, FAULTY)
    (tool.directory / "V2__faulty.sql.conf").write_text("executeInTransaction=false\n")
    with failing():
        tool.up(url)
    return History("migrate; the second file, outside a transaction, failed", versions[:1], wrong="failed")


@history("flyway-failed-inside", Flyway)
def _flyway_failed_inside(tool: Flyway, url: str) -> History:
    versions = add(tool, ACCOUNTS, FAULTY)
    with failing():
        tool.up(url)
    return History("migrate; the second file, in a transaction, failed: no trace of it here", versions[:1])


@history("flyway-baselined", Flyway)
def _flyway_baselined(tool: Flyway, url: str) -> History:
    versions = add(tool, ACCOUNTS, TOUCH, ORDERS)
    _sql(url, ACCOUNTS.up)
    _sql(url, TOUCH.up)
    tool.command(url, "-baselineVersion=2", "baseline")
    tool.up(url)
    return History("baseline of version 2 on tables made by hand, migrate, with three files", versions)


@history("flyway-out-of-order", Flyway)
def _flyway_out_of_order(tool: Flyway, url: str) -> History:
    first, second, third, fourth = add(tool, ACCOUNTS, TOUCH, ORDERS, TOTALS)
    with tool.without(third):
        tool.rewrite(fourth, "CREATE TABLE later (id integer);\n")
        tool.up(url)
    tool.command(url, "-outOfOrder=true", "migrate")
    return History("migrate without the third of four files, then -outOfOrder=true", [first, second, fourth, third])


@history("flyway-repeatable", Flyway)
def _flyway_repeatable(tool: Flyway, url: str) -> History:
    versions = add(tool, ACCOUNTS)
    view = tool.directory / "R__active_accounts.sql"
    for columns in ("id", "id, email"):
        view.write_text(f"CREATE OR REPLACE VIEW active_accounts AS SELECT {columns} FROM account;\n")
        tool.up(url)
    return History("migrate twice, with a file and a repeatable one, R__active_accounts.sql, that changed", versions)


@history("flyway-repaired", Flyway)
def _flyway_repaired(tool: Flyway, url: str) -> History:
    first, second, third = add(tool, ACCOUNTS, TOUCH, ORDERS)
    tool.up(url)
    tool.path(second).unlink()
    tool.command(url, "repair")
    return History(f"migrate, then repair without the second of three files ({second})", [first, third])


@history("flyway-schema", Flyway)
def _flyway_schema(tool: Flyway, url: str) -> History:
    versions = add(tool, ACCOUNTS)
    tool.command(url, "-schemas=shop", "migrate")
    return History("migrate, with -schemas=shop, which Flyway made", versions, table="shop.flyway_schema_history")


@history("flyway-skipped", Flyway)
def _flyway_skipped(tool: Flyway, url: str) -> History:
    versions = add(tool, ACCOUNTS, TOUCH)
    tool.up(url)
    tool.command(url, "repair")
    return History("migrate, repair, with nothing to repair", versions)


# --- sqlx, diesel ---------------------------------------------------------------------------------------


@history("sqlx", Sqlx)
def _sqlx(tool: Sqlx, url: str) -> History:
    versions = add(tool, ACCOUNTS, TOUCH, ORDERS)
    tool.up(url)
    tool.down(url)
    return History("run, revert, with three files", versions[:2])


@history("sqlx-failed", Sqlx)
def _sqlx_failed(tool: Sqlx, url: str) -> History:
    versions = add(tool, ACCOUNTS, FAULTY._replace(alone=True, up="SELECT 1 / 0;\n"))
    with failing():
        tool.up(url)
    return History("run; the second file, with -- no-transaction, failed: no trace of it here", versions[:1])


@history("sqlx-failed-inside", Sqlx)
def _sqlx_failed_inside(tool: Sqlx, url: str) -> History:
    versions = add(tool, ACCOUNTS, FAULTY)
    with failing():
        tool.up(url)
    return History("run; the second file, in a transaction, failed: no trace of it here", versions[:1])


@history("sqlx-alone", Sqlx)
def _sqlx_alone(tool: Sqlx, url: str) -> History:
    versions = add(tool, ACCOUNTS, TOUCH, ORDERS, INDEX)
    tool.up(url)
    return History("run, with four files, the last with -- no-transaction", versions)


@history("diesel", Diesel)
def _diesel(tool: Diesel, url: str) -> History:
    versions = add(tool, ACCOUNTS, TOUCH, ORDERS)
    tool.up(url)
    tool.down(url)
    return History("run, revert, with three migrations", versions[:2])


# --- Prisma, Drizzle, Supabase --------------------------------------------------------------------------


@history("prisma", Prisma)
def _prisma(tool: Prisma, url: str) -> History:
    versions = add(tool, ACCOUNTS, TOUCH, ORDERS)
    tool.up(url)
    return History("deploy, with three migrations", versions)


@history("prisma-failed", Prisma)
def _prisma_failed(tool: Prisma, url: str) -> History:
    versions = add(tool, ACCOUNTS, FAULTY)
    with failing():
        tool.up(url)
    return History("deploy; the second migration failed", versions[:1], wrong="failed")


@history("prisma-rolled-back", Prisma)
def _prisma_rolled_back(tool: Prisma, url: str) -> History:
    versions = add(tool, ACCOUNTS, FAULTY)
    with failing():
        tool.up(url)
    tool.command(url, "resolve", "--rolled-back", versions[1])
    return History("deploy; the second migration failed; resolve --rolled-back", versions[:1])


@history("prisma-again", Prisma)
def _prisma_again(tool: Prisma, url: str) -> History:
    versions = add(tool, ACCOUNTS, FAULTY)
    with failing():
        tool.up(url)
    tool.command(url, "resolve", "--rolled-back", versions[1])
    tool.rewrite(versions[1], "CREATE TABLE half (id integer);\n")
    tool.up(url)
    return History("deploy; the second migration failed; resolve --rolled-back, mended, deploy", versions)


@history("prisma-resolved", Prisma)
def _prisma_resolved(tool: Prisma, url: str) -> History:
    versions = add(tool, ACCOUNTS, FAULTY)
    with failing():
        tool.up(url)
    tool.command(url, "resolve", "--applied", versions[1])
    return History("deploy; the second migration failed; resolve --applied, after it was done by hand", versions)


@history("prisma-baselined", Prisma)
def _prisma_baselined(tool: Prisma, url: str) -> History:
    versions = add(tool, ACCOUNTS, TOUCH)
    _sql(url, ACCOUNTS.up)
    tool.command(url, "resolve", "--applied", versions[0])
    tool.up(url)
    return History("resolve --applied of the first, whose table was made by hand; deploy", versions)


@history("drizzle", Drizzle)
def _drizzle(tool: Drizzle, url: str) -> History:
    versions = add(tool, ACCOUNTS, TOUCH, ORDERS)
    tool.up(url)
    return History("migrate, with three migrations; the journal:\n" + tool.journal(), versions)


@history("drizzle-1", Drizzle1)
def _drizzle1(tool: Drizzle1, url: str) -> History:
    versions = add(tool, ACCOUNTS, TOUCH, ORDERS)
    tool.up(url)
    return History("migrate, with three migrations", versions)


@history("drizzle-upgraded", Drizzle)
def _drizzle_upgraded(tool: Drizzle, url: str) -> History:
    versions = add(tool, ACCOUNTS, TOUCH)
    tool.up(url)
    newer = Drizzle1(tool.home, tool.project)
    (tool.project / "node_modules").unlink()
    newer.upgrade()
    newer.up(url)
    return History(
        "migrate with 0.31, then `drizzle-kit up` and migrate with 1.0: it adds columns to the table",
        [path.name for path in sorted(newer.directory.iterdir())] or versions,
    )


@history("supabase", Supabase)
def _supabase(tool: Supabase, url: str) -> History:
    versions = add(tool, ACCOUNTS, TOUCH, ORDERS)
    tool.up(url)
    return History("migration up, with three files", versions)


@history("supabase-repaired", Supabase)
def _supabase_repaired(tool: Supabase, url: str) -> History:
    first, second, third = add(tool, ACCOUNTS, TOUCH, ORDERS)
    with tool.without(third):
        tool.up(url)
    tool.command(url, "repair", "--status", "reverted", second)
    tool.command(url, "repair", "--status", "applied", third)
    return History("migration up with two files; repair: the second reverted, the third applied", [first, third])


# --- Saving them ----------------------------------------------------------------------------------------


def _sql(url: str, sql: str) -> None:
    import psycopg

    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(sql.encode())


def text(tool: Tool, found: History, database: Database) -> str:
    """Return a history as an SQL file that says where it comes from."""
    lines = [
        f"{tool.name} {version_of(tool.package)}: {found.done}",
        f"Applied: {' '.join(found.applied) or 'nothing'}",
    ]
    if found.wrong:
        lines.append(f"Wrong: {found.wrong}")
    if found.table:
        lines.append(f"Table: {found.table}")
    head = "".join(f"-- {line}".rstrip() + "\n" for entry in lines for line in entry.splitlines())
    return f"{head}\n{table_dump(database, found.table or tool.table)}"


def main(wanted: list[str]) -> int:
    """Create the requested histories, by default all; return how many failed."""
    FIXTURES.mkdir(parents=True, exist_ok=True)
    numbers, problems = count(1), 0
    with Server(16) as server, tempfile.TemporaryDirectory() as folder:
        for name, (kind, make) in _MAKERS.items():
            if wanted and name not in wanted:
                continue
            tool = kind(HOME, Path(folder, name))
            if reason := tool.missing():
                print(f"{name}: {reason}")
                problems += 1
                continue
            database = Database(server, f"h{next(numbers)}")
            server.create_database(database.name)
            try:
                found = make(tool, database.url)
                (FIXTURES / f"{name}.sql").write_text(text(tool, found, database))
                print(f"{name}: {' '.join(found.applied)} {found.wrong}", flush=True)
            except AssertionError as error:
                print(f"{name}: {error}", flush=True)
                problems += 1
    return problems


if __name__ == "__main__":
    sys.exit(1 if main(sys.argv[1:]) else 0)
