"""Which migrations each tool's rows say are applied, as tables of cases, and where the tool's table is looked for."""

from __future__ import annotations

import hashlib

import pytest

from entrypoint.errors import ConfigurationError
from entrypoint.migration.adoption import checksums, finding
from entrypoint.migration.adoption.finding import ToolTable
from entrypoint.migration.adoption.history import list_versions
from entrypoint.migration.adoption.tools import BY_NAME
from entrypoint.records import Adopt
from entrypoint.settings import adopt_from
from tools.steps import ACCOUNTS

WHEN = 1795873285643  # 2026-11-28 13:41:25 in UTC

# Tool, its rows, the versions that the files come from; what is applied, and what has no file.
CASES = [
    ("goose", [("0", "t"), ("1", "t"), ("3", "t")], "1 2 3", "1 3", ""),
    ("goose", [("1", "t"), ("2", "t"), ("2", "f")], "1 2", "1", ""),
    ("goose", [("1", "t"), ("1", "f"), ("1", "t")], "1 2", "1", ""),
    ("goose", [("1", "t"), ("7", "t")], "1 2", "1", "7"),
    ("goose", [("0", "t")], "1", "", ""),
    ("dbmate", [("001",), ("10",)], "001 0002 10", "001 10", ""),
    ("dbmate", [("1",)], "001", "", "1"),
    ("supabase", [("20240101000100",)], "20240101000100 20240101000200", "20240101000100", ""),
    (
        "diesel",
        [("00000000000000",), ("20240101000100",)],
        "00000000000000 20240101000100",
        "00000000000000 20240101000100",
        "",
    ),
    ("sql-migrate", [("1-a.sql",), ("2-b.sql",)], "1-a.sql 3-c.sql", "1-a.sql", "2-b.sql"),
    ("golang-migrate", [], "1 2", "", ""),
    ("golang-migrate", [("2", "f")], "1 2 10", "1 2", ""),
    ("golang-migrate", [("9", "f")], "1 2 10", "1 2", "9"),
    ("golang-migrate", [("-1", "f")], "1 2", "", ""),
    (
        "flyway",
        [("1", "SQL", "V1__a.sql", "t", None), ("2.0", "SQL", "V2_0__b.sql", "t", None)],
        "1.0 2 2.1",
        "1.0 2",
        "",
    ),
    ("flyway", [("2", "BASELINE", "<<>>", "t", None), ("2.1", "SQL", "x", "t", None)], "1 2 2.1 3", "1 2 2.1", ""),
    ("flyway", [("1", "BASELINE", "<<>>", "t", None)], "2 3", "", ""),
    (
        "flyway",
        [("1", "SQL", "a", "t", None), ("2", "SQL", "b", "t", None), ("2", "UNDO_SQL", "u", "t", None)],
        "1 2",
        "1",
        "",
    ),
    ("flyway", [("1", "SQL", "a", "t", None), ("1", "DELETE", "a", "t", None)], "1", "", ""),
    (
        "flyway",
        [("1", "SQL", "a", "t", None), ("1", "UNDO_SQL", "a", "t", None), ("1", "SQL", "a", "t", None)],
        "1",
        "1",
        "",
    ),
    ("flyway", [(None, "SCHEMA", '"shop"', "t", None), (None, "SQL", "R__v.sql", "t", "7")], "1 R__v", "", ""),
    ("flyway", [("3", "JDBC", "db.V3__Seed", "t", None), ("4", "JDBC", "db.V4__X", "t", None)], "3", "3", "4"),
    ("flyway", [("1.x", "SQL", "by hand", "t", None), ("1_1", "SQL", "b", "t", None)], "1.1 2", "1.1", "1.x"),
    ("sqlx", [("1", "t", "aa"), ("3", "t", "bb")], "1 2 3", "1 3", ""),
    ("prisma", [("1_a", "t", "f", "x"), ("2_b", "f", "t", "y")], "1_a 2_b", "1_a", ""),
    ("prisma", [("1_a", "f", "t", "x"), ("1_a", "t", "f", "y")], "1_a", "1_a", ""),
    ("prisma", [("1_a", "t", "t", "x")], "1_a", "", ""),
    ("drizzle", [("100", None), ("200", None)], "0_a@100 1_b@200 2_c@300", "0_a@100 1_b@200", ""),
    ("drizzle", [("100", "20240101000100_a"), ("250", "x_y")], "20240101000100_a z", "20240101000100_a", "x_y"),
    ("drizzle", [("100", "20240101000100_a")], "0_a@100", "0_a@100", ""),
    ("drizzle", [(str(WHEN), None)], "20261128134125_a 20261128134126_b", "20261128134125_a", ""),
    ("drizzle", [("100", None), ("150", None)], "0_a@100", "0_a@100", "created_at@150"),
]


def spelled(versions: str) -> list[str]:
    return [version.replace("@", " ") for version in versions.split()]


@pytest.mark.parametrize(("tool", "rows", "here", "applied", "unknown"), CASES)
def test_what_is_applied(tool: str, rows: list[tuple[str | None, ...]], here: str, applied: str, unknown: str) -> None:
    history = BY_NAME[tool].decide(rows, spelled(here))
    assert history.refusal is None
    assert sorted(history.applied) == sorted(spelled(applied))
    assert list(history.unknown) == spelled(unknown)


@pytest.mark.parametrize(
    ("tool", "rows", "here", "says", "do"),
    [
        ("golang-migrate", [("3", "t")], "1 2 3", "version 3 is dirty", "migrate force VERSION"),
        ("golang-migrate", [("3", "t")], "1 2 3", "has not finished it (yet)", "running right now: wait until"),
        ("sqlx", [("2", "f", "bb")], "1 2", "as not successful (yet)", "running it right now: wait until"),
        ("prisma", [("1_a", "f", "f", "x")], "1_a", "was started", "running it right now: wait until"),
        ("golang-migrate", [("1", "f"), ("2", "f")], "1 2", "2 rows", "migrate force VERSION"),
        ("golang-migrate", [(None, "f")], "1 2", "(NULL, f) that golang-migrate would not write", "correct the row"),
        ("golang-migrate", [("1", None)], "1 2", "(1, NULL)", "correct the row"),
        ("goose", [("0", "t"), ("abc", "t")], "1 2", "(abc, t) that goose would not write", "correct the row"),
        ("goose", [("0", "t"), ("1", None)], "1 2", "(1, NULL)", "correct the row"),
        ("flyway", [("2", "SQL", "V2__b.sql", "f", None)], "1 2", "2 is recorded", "flyway repair"),
        ("flyway", [(None, "SQL", "R__v.sql", "f", None)], "1 2", "R__v.sql is recorded", "flyway repair"),
        ("sqlx", [("1", "t", "aa"), ("2", "f", "bb")], "1 2", "version 2", "version = 2"),
        ("prisma", [("1_a", "f", "f", "x")], "1_a", "1_a was started", "resolve --applied 1_a"),
        ("drizzle", [("100", None), ("300", None)], "0_a@100 1_b@200 2_c@300", "1_b is not recorded", "200"),
    ],
)
def test_what_is_refused(tool: str, rows: list[tuple[str | None, ...]], here: str, says: str, do: str) -> None:
    history = BY_NAME[tool].decide(rows, spelled(here))
    assert history.refusal is not None
    assert says in history.refusal.message
    assert do in history.refusal.remedy
    assert not history.applied


def test_many_versions_are_not_all_named() -> None:
    assert list_versions(["1", "2"]) == "1, 2"
    assert list_versions([str(n) for n in range(9)]) == "0, 1, 2, 3, 4 and 4 more"


TEXT = b"CREATE TABLE a ();\r\n-- end\n"
ABOVE = b"-- entrypoint: origin = sqlx 1\n-- entrypoint: no-transaction\n"


@pytest.mark.parametrize(
    ("tool", "recorded"),
    [
        ("sqlx", hashlib.sha384(TEXT).hexdigest()),
        ("sqlx", hashlib.sha384(b"\xef\xbb\xbf" + TEXT).hexdigest()),
        ("prisma", hashlib.sha256(TEXT).hexdigest()),
    ],
)
def test_a_checksum_of_the_tools_own_is_worked_out_again(tool: str, recorded: str) -> None:
    assert not checksums.differs(tool, ABOVE + TEXT, recorded)
    assert not checksums.differs(tool, TEXT, recorded)
    assert checksums.differs(tool, ABOVE + TEXT + b" ", recorded)


@pytest.mark.parametrize(
    ("tool", "recorded"),
    [
        ("flyway", "-575467870"),
        ("sqlx", "9c08a10f3ace804d463ef9edf9d9141eaafca805e606105bc6bc7df62f93ea16185b284f04ff4c77cdc3a543ae88e37f"),
        ("prisma", "3b5b2b988f2499bf6365953b43fb1ef3ad662e28256ca2a52b9378e847666da6"),
    ],
)
def test_the_real_tools_recorded_the_same(tool: str, recorded: str) -> None:
    """`fixtures/histories` has these checksums for the first migration."""
    text = ACCOUNTS.up.encode()
    assert not checksums.differs(tool, ABOVE + text, recorded)
    assert checksums.differs(tool, ABOVE + text.replace(b"email", b"mail"), recorded)
    # Flyway reads lines and ignores how they end.
    assert checksums.differs(tool, text.replace(b"\n", b"\r\n"), recorded) == (tool != "flyway")
    assert checksums.differs(tool, text.removesuffix(b"\n"), recorded) == (tool != "flyway")


def test_without_a_checksum_nothing_differs() -> None:
    assert not checksums.differs("goose", TEXT, "x")


# --- Where the table is -----------------------------------------------------------------------------------------------


def table(schema: str, name: str, columns: str, **changes: bool) -> ToolTable:
    found = ToolTable(
        schema,
        name,
        plain=True,
        usable=True,
        readable=True,
        owner="o",
        trusted=True,
        columns=frozenset(columns.split()),
    )
    return found._replace(**changes)  # type: ignore[arg-type]


GOOSE = table("app", "goose_db_version", "id version_id is_applied tstamp")
DBMATE = table("app", "schema_migrations", "version")
MIGRATE = table("app", "schema_migrations", "version dirty")
OURS = table("app", "schema_migrations", "id migration_number filename status")
RAILS = table("app", "ar_internal_metadata", "key value")
DRIZZLE = table("drizzle", "__drizzle_migrations", "id hash created_at")
SUPABASE = table("supabase_migrations", "schema_migrations", "version statements name")


@pytest.mark.parametrize(
    ("adopt", "tables", "path", "found"),
    [
        ("goose", [GOOSE], "app public", GOOSE),
        ("goose", [GOOSE, GOOSE._replace(schema="public")], "public app", GOOSE._replace(schema="public")),
        ("goose", [], "app", None),
        ("goose:ops.mine", [], "ops", None),
        ("goose:app.goose_db_version", [GOOSE], "app", GOOSE),
        ("dbmate", [DBMATE], "app", DBMATE),
        ("dbmate", [DBMATE._replace(schema="public"), OURS], "app public", DBMATE._replace(schema="public")),
        ("dbmate", [OURS], "app", None),
        ("golang-migrate", [MIGRATE], "app", MIGRATE),
        ("drizzle", [DRIZZLE], "drizzle", DRIZZLE),
        ("supabase", [SUPABASE, DBMATE], "supabase_migrations", SUPABASE),
        ("dbmate", [SUPABASE._replace(columns=frozenset({"version"})), DBMATE], "app", DBMATE),
    ],
)  # fmt: skip
def test_the_table_is_found(adopt: str, tables: list[ToolTable], path: str, found: ToolTable | None) -> None:
    tool, _, named_table = adopt.partition(":")
    assert finding.choose(adopt_from(tool, named_table or None), tables, path.split()) == found


@pytest.mark.parametrize(
    ("tool", "tables", "says"),
    [
        ("dbmate", [DBMATE, RAILS], "belongs to Rails"),
        ("dbmate", [MIGRATE], "belongs to golang-migrate"),
        ("golang-migrate", [DBMATE], "belongs to Rails or dbmate"),
        ("goose", [GOOSE._replace(columns=frozenset({"id"}))], "is not goose's"),
        ("goose", [GOOSE._replace(plain=False)], "is not goose's"),
        ("goose", [GOOSE._replace(trusted=False)], "belongs to o"),
        ("goose", [GOOSE._replace(readable=False)], "may not read"),
        ("goose", [GOOSE._replace(usable=False)], "may not read"),
        ("goose", [GOOSE._replace(filtered=True)], "Row-level security may hide rows of app.goose_db_version"),
        ("goose", [GOOSE._replace(schema="elsewhere")], "elsewhere.goose_db_version"),
        ("goose", [DBMATE], "dbmate has one"),
        ("goose", [DRIZZLE], "Drizzle has one"),
        ("goose", [SUPABASE], "Supabase has one"),
    ],
)
def test_what_cannot_be_the_tools_is_refused(tool: str, tables: list[ToolTable], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says) as raised:
        finding.choose(Adopt(tool), tables, ["app"])
    assert raised.value.remedy


def test_a_remedy_names_a_table_as_it_is_to_be_typed() -> None:
    with pytest.raises(ConfigurationError) as raised:
        finding.choose(Adopt("goose"), [GOOSE._replace(schema="else.where")], ["app"])
    assert 'MIGRATION_ADOPT=goose:"else.where".goose_db_version' in str(raised.value.remedy)


@pytest.mark.parametrize("tables", [[DBMATE], [GOOSE._replace(schema="elsewhere")]])
def test_a_variable_that_is_not_set_is_not_to_be_unset(tables: list[ToolTable]) -> None:
    for by_hand in (False, True):
        with pytest.raises(ConfigurationError) as raised:
            finding.choose(Adopt("goose", by_hand=by_hand), tables, ["app"])
        assert ("unset it" in str(raised.value.remedy)) is not by_hand


@pytest.mark.parametrize(
    ("tool", "named_table", "adopt"),
    [
        ("goose", None, Adopt("goose")),
        (" Flyway ", None, Adopt("flyway")),
        ("goose", "ops.mine", Adopt("goose", "ops", "mine")),
        ("goose", "mine", Adopt("goose", None, "mine")),
        ("goose", "a.b.c", Adopt("goose", "a.b", "c")),
        ("goose", '"a.b"', Adopt("goose", None, "a.b")),
        ("goose", '"Ops X"."My.Goose"', Adopt("goose", "Ops X", "My.Goose")),
        ("goose", 'ops."a.b"', Adopt("goose", "ops", "a.b")),
        ("goose", '"o.p".mine', Adopt("goose", "o.p", "mine")),
        ("goose", '"say ""hi""."', Adopt("goose", None, 'say "hi".')),
    ],
)
def test_a_tool_and_its_table_are_read(tool: str, named_table: str | None, adopt: Adopt) -> None:
    assert adopt_from(tool, named_table) == adopt


@pytest.mark.parametrize(
    ("tool", "named_table", "says"),
    [
        ("gose", None, "it must be one of: goose, dbmate"),
        ("alembic", None, "docs/coming-from/programs.md"),
        ("Rails", None, "Rails's migrations are programs"),
        ("goose", "", "SCHEMA.TABLE"),
        ("goose", ".x", "SCHEMA.TABLE"),
        ("goose", "x.", "SCHEMA.TABLE"),
        ("goose", '"x', "SCHEMA.TABLE"),
        ("goose", 'x"y', "SCHEMA.TABLE"),
        ("goose", '""', "SCHEMA.TABLE"),
        ("goose", '"a"."b"."c"', "SCHEMA.TABLE"),
        ("goose", 'a.b."c"', "SCHEMA.TABLE"),
        ("goose", "x" * 64, "63 bytes"),
    ],
)
def test_what_cannot_be_adopted_is_said(tool: str, named_table: str | None, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        adopt_from(tool, named_table)
