"""What each tool's directory contains, read as the tool reads it, and the numbers and names that the files get here."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from entrypoint import records
from entrypoint.migration.adoption.flyway import parts_of
from entrypoint.migration.adoption.tools import BY_NAME as ADOPTED
from entrypoint.migration.script import directives
from entrypoint.migration.script.directives import Origin
from entrypoint.operations.importing import naming, texts, tools

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from entrypoint.operations.importing.values import Contents, Direction, Migration


class Files:
    """A directory that exists only in memory."""

    def __init__(self, files: Mapping[str, str | bytes], empty: Sequence[str] = ()) -> None:
        self._files = {name: text if isinstance(text, bytes) else text.encode() for name, text in files.items()}
        self.paths = tuple(sorted(self._files))
        self.folders = tuple(sorted({*empty, *(path.partition("/")[0] for path in self.paths if "/" in path)}))

    def content(self, path: str) -> bytes:
        return self._files[path]

    def taken(self, part: Direction | None) -> str | None:
        """Return what is written for a part."""
        if part is None:
            return None
        content = self._files[part.path]
        return b"".join(one.before + content[one.start : one.stop] + one.after for one in part.pieces).decode()


def read(tool: str, files: Mapping[str, str | bytes]) -> tuple[Contents, Files]:
    source = Files(files)
    return tools.BY_NAME[tool].read(source), source


def forward(tool: str, text: str | bytes, name: str = "001_a.sql", **others: str) -> str | None:
    """Return what is taken from a directory's only migration."""
    reading, source = read(tool, {name: text, **others})
    assert not reading.faults
    return source.taken(reading.migrations[0].forward)


def back(tool: str, text: str, name: str = "001_a.sql") -> str | None:
    reading, source = read(tool, {name: text})
    return source.taken(reading.migrations[0].back)


def complaints(tool: str, files: Mapping[str, str | bytes]) -> list[str]:
    return [str(fault) for fault in read(tool, files)[0].faults]


def reasons(reading: Contents) -> dict[str, str]:
    """Return why each file was left out."""
    return {left.source: left.why.reason for left in reading.left}


def versions(tool: str, files: Mapping[str, str | bytes]) -> list[tuple[str, str]]:
    """Return version and source of each migration, in order."""
    return [(one.version, one.source) for one in read(tool, files)[0].migrations]


def test_the_tools_are_the_same_everywhere() -> None:
    assert records.TOOLS == tuple(tools.BY_NAME) == tuple(ADOPTED)


# --- goose ----------------------------------------------------------------------------------------------

UP, DOWN = "-- +goose Up\n", "-- +goose Down\n"
BEGIN, END = "-- +goose StatementBegin\n", "-- +goose StatementEnd\n"


@pytest.mark.parametrize(
    ("text", "ahead", "behind"),
    [
        (f"{UP}SELECT 1;\n{DOWN}SELECT 2;\n", "SELECT 1;\n", "SELECT 2;\n"),
        (f"{UP}SELECT 1;", "SELECT 1;", None),
        (f"-- Licence\n\n{UP}SELECT 1;\n", "-- Licence\n\nSELECT 1;\n", None),
        (f"{UP}\n  SELECT\t1 ;\r\n\n{DOWN}", "\n  SELECT\t1 ;\r\n\n", None),
        (f"{UP}SELECT 1;\n{DOWN}-- nothing\n", "SELECT 1;\n", None),
        ("--+goose UP\nSELECT 1;\n--   +goose down \r\nSELECT 2;", "SELECT 1;\n", "SELECT 2;"),
        (f"{UP}{BEGIN}DO $$ BEGIN; END $$;\n{END}{DOWN}", "DO $$ BEGIN; END $$;\n", None),
        # Sent separately, so it may lack the separator before the next statement.
        (f"{UP}{BEGIN}SELECT 1\n{END}SELECT 2;\n", "SELECT 1\n;\nSELECT 2;\n", None),
        (f"{UP}{BEGIN}SELECT 1; -- all;\n{END}SELECT 2;\n", "SELECT 1; -- all;\n;\nSELECT 2;\n", None),
        (f"{UP}{BEGIN}SELECT 1;\n-- done\n{END}SELECT 2;\n", "SELECT 1;\n-- done\nSELECT 2;\n", None),
        (f"{UP}-- +goose ENVSUB ON\nSELECT 1;\n-- +goose ENVSUB OFF\nSELECT '$x';", "SELECT 1;\nSELECT '$x';", None),
        (f"{UP}", "", None),
    ],
)
def test_goose_takes_what_is_between_the_marks(text: str, ahead: str, behind: str | None) -> None:
    assert forward("goose", text) == ahead
    assert back("goose", text) == behind


@pytest.mark.parametrize("mark", ["-- +goose NO TRANSACTION\n", "--+goose no transaction\r\n"])
@pytest.mark.parametrize("where", ["{mark}{up}SELECT 1;", "{up}{mark}SELECT 1;", "{up}SELECT 1;\n{down}{mark}"])
def test_goose_has_no_transaction_wherever_it_says_so(mark: str, where: str) -> None:
    reading, _ = read("goose", {"1_a.sql": where.format(mark=mark, up=UP, down=DOWN)})
    [part] = [one.forward for one in reading.migrations]
    assert part is not None
    assert part.no_transaction


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("SELECT 1;", "001_a.sql: goose rejects it too: it has no line `-- +goose Up`"),
        (f"SELECT 1;\n{UP}", "001_a.sql:1: goose rejects it too: this comes before `-- +goose Up`"),
        (f"{DOWN}SELECT 1;", "001_a.sql:1: goose rejects it too: `-- +goose Down` is not allowed here"),
        (f"{UP}{UP}SELECT 1;", "001_a.sql:2: goose rejects it too: `-- +goose Up` is not allowed here"),
        (f"{UP}{BEGIN}{DOWN}", "001_a.sql:3: goose rejects it too: `-- +goose Down` is not allowed here"),
        (f"{UP}{BEGIN}SELECT 1;", "001_a.sql:2: goose rejects it too: this `-- +goose StatementBegin` has no Statem"),
        (f"{UP}{END}", "001_a.sql:2: goose rejects it too: `-- +goose StatementEnd` is not allowed here"),
        (f"{UP}SELECT 1;\n {DOWN}", "001_a.sql:3: goose rejects it too: `-- +goose Down` is not a valid goose ann"),
        (f"{UP}-- +goose Sideways\n", "001_a.sql:2: goose rejects it too: `-- +goose Sideways` is not a valid goose"),
        # It reads lines, even in a function's body.
        (f"{UP}{BEGIN}DO $$\n{DOWN}$$;\n{END}", "001_a.sql:4: goose rejects it too: `-- +goose Down` is not allowed"),
    ],
)
def test_goose_refuses(text: str, complaint: str) -> None:
    [said] = complaints("goose", {"001_a.sql": text})
    assert said.startswith(complaint)


def test_goose_in_the_order_of_numbers() -> None:
    names = [
        "20210101120000_c.sql",
        "00002_b.sql",
        "1_a.sql",
        "10_x.sql",
        "0_zero.sql",
        "a_1.sql",
        "README.md",
        "4.sql",
    ]
    files = dict.fromkeys(names, f"{UP}SELECT 1;")
    expected = [
        ("1", "1_a.sql"),
        ("2", "00002_b.sql"),
        ("10", "10_x.sql"),
        ("20210101120000", "20210101120000_c.sql"),
    ]
    assert versions("goose", files) == expected
    assert set(reasons(read("goose", files)[0])) == {"0_zero.sql", "4.sql", "a_1.sql"}


def test_goose_numbers_twice() -> None:
    files = {"1_a.sql": UP, "00001_b.sql": UP, "sub/1_c.sql": "not looked at", "001_c.SQL": "nor this"}
    [said] = complaints("goose", files)
    assert said.startswith("00001_b.sql and 1_a.sql: 2 migrations have the version 1")


def test_goose_loses_a_line_after_an_empty_block() -> None:
    text = f"{UP}{BEGIN}-- SELECT 0;\n{END}SELECT 1;\nSELECT 2;\n"
    reading, source = read("goose", {"001_a.sql": text})
    assert source.taken(reading.migrations[0].forward) == "-- SELECT 0;\nSELECT 1;\nSELECT 2;\n"
    assert reasons(reading)["001_a.sql"].startswith(
        "goose skips the line after line 4, because the block that ends there"
    )


def test_what_goose_has_and_we_have_not() -> None:
    files = {
        "1_a.go": "package x",
        "1_a_test.go": "package x",
        "2_b.sql": f"{UP}-- +goose ENVSUB ON\nSELECT '${{NAME}}';\n",
        "3_c.sql": f"{UP}SELECT 1;",
    }
    reading, _ = read("goose", files)
    assert [one.forward is None for one in reading.migrations] == [True, True, False]
    assert [one.why and one.why.reason for one in reading.migrations] == [
        "it is written in Go",
        "it takes values from the environment (ENVSUB ON) in line 3",
        None,
    ]


# --- dbmate ---------------------------------------------------------------------------------------------

MUP, MDOWN = "-- migrate:up\n", "-- migrate:down\n"
OUTSIDE = "-- migrate:up transaction:false\n"


@pytest.mark.parametrize(
    ("text", "ahead", "behind", "outside"),
    [
        (f"{MUP}SELECT 1;\n{MDOWN}SELECT 2;\n", "SELECT 1;\n", "SELECT 2;\n", False),
        (f"{MUP}SELECT 1\n{MDOWN}", "SELECT 1\n", None, False),
        (f"\n-- why\n{MUP}SELECT 1;\n{MDOWN}\n", "\n-- why\nSELECT 1;\n", None, False),
        (f"{OUTSIDE}VACUUM;\n{MDOWN}", "VACUUM;\n", None, True),
        ("--migrate:up  a:b  transaction:false\r\nVACUUM;", "VACUUM;", None, True),
        (f"-- migrate:up transaction:true\nSELECT 1;\n{MDOWN}", "SELECT 1;\n", None, False),
        (f"{MUP}{MDOWN}", "", None, False),
        # Several pairs run one after another, in both directions in the file's order.
        (f"{MUP}SELECT 1\n{MDOWN}SELECT -1;\n{MUP}SELECT 2;\n{MDOWN}SELECT -2;\n",
         "SELECT 1\n;\nSELECT 2;\n", "SELECT -1;\nSELECT -2;\n", False),
        (f"{MUP}SELECT 1;\n{MDOWN}{OUTSIDE}VACUUM;\n{MDOWN}", "BEGIN;\nSELECT 1;\nCOMMIT;\nVACUUM;\n", None, True),
        (f"{MUP}SELECT 1\n{MDOWN}{OUTSIDE}VACUUM;", "BEGIN;\nSELECT 1\n;\nCOMMIT;\nVACUUM;", None, True),
    ],
)  # fmt: skip
def test_dbmate_takes_what_is_below_the_marks(text: str, ahead: str, behind: str | None, outside: bool) -> None:  # noqa: FBT001
    reading, source = read("dbmate", {"001_a.sql": text})
    [one] = reading.migrations
    assert one.forward is not None
    assert (source.taken(one.forward), source.taken(one.back), one.forward.no_transaction) == (ahead, behind, outside)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("SELECT 1;", "dbmate rejects it too: its first mark must be `-- migrate:up`"),
        (f"{MDOWN}SELECT 1;\n{MUP}", "dbmate rejects it too: its first mark must be `-- migrate:up`"),
        (f"SELECT 1;\n{MUP}", ":1: dbmate rejects it too: this comes before `-- migrate:up`"),
        (f"{MUP}{MDOWN}{MDOWN}", ":3: dbmate rejects it too: a second `-- migrate:down`"),
        (" -- migrate:up\n", "dbmate rejects it too: its first mark"),
        ("-- migrate:upwards\n", "dbmate rejects it too: its first mark"),
    ],
)
def test_dbmate_refuses(text: str, complaint: str) -> None:
    [said] = complaints("dbmate", {"001_a.sql": text})
    assert complaint in said


def test_dbmate_in_the_order_of_names() -> None:
    files = dict.fromkeys(("9_b.sql", "10_a.sql", "0001.sql", "2x.sql", "x_3.sql", "4_a.SQL"), MUP)
    assert versions("dbmate", files) == [
        ("0001", "0001.sql"),
        ("10", "10_a.sql"),
        ("2", "2x.sql"),
        ("9", "9_b.sql"),
    ]
    assert set(reasons(read("dbmate", files)[0])) == {"x_3.sql", "4_a.SQL"}
    assert complaints("dbmate", {"1_a.sql": MUP, "1_b.sql": MUP})[0].startswith("1_a.sql and 1_b.sql: 2 migrations")
    # dbmate compares texts, so to it these are different versions.
    assert not complaints("dbmate", {"1_a.sql": MUP, "01_b.sql": MUP})


# --- sql-migrate ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "ahead", "behind", "outside"),
    [
        ("-- +migrate Up\nSELECT 1;\n-- +migrate Down\nSELECT 2;\n", "SELECT 1;\n", "SELECT 2;\n", False),
        ("-- +migrate Up notransaction\nVACUUM;\n", "VACUUM;\n", None, True),
        ("-- c\n-- +migrate Up\n-- +migrate StatementBegin\nSELECT 1\n-- +migrate StatementEnd\nSELECT 2;",
         "-- c\nSELECT 1\n;\nSELECT 2;", None, False),
        ("-- +migrate Up\nSELECT 1;\n-- +migrate Down\nSELECT 2;\n-- +migrate Up\nSELECT 3;\n",
         "SELECT 1;\nSELECT 3;\n", "SELECT 2;\n", False),
        ("-- +migrate Down\nSELECT 2;\n", "", "SELECT 2;\n", False),
    ],
)  # fmt: skip
def test_sql_migrate(text: str, ahead: str, behind: str | None, outside: bool) -> None:  # noqa: FBT001
    reading, source = read("sql-migrate", {"a.sql": text})
    [one] = reading.migrations
    assert one.forward is not None
    assert (source.taken(one.forward), source.taken(one.back), one.forward.no_transaction) == (ahead, behind, outside)


def test_sql_migrate_passes_over_what_is_above() -> None:
    reading, source = read("sql-migrate", {"a.sql": "SELECT 0;\n-- +migrate Up\nSELECT 1;\n"})
    assert source.taken(reading.migrations[0].forward) == "SELECT 1;\n"
    assert "skips everything above" in reasons(reading)["a.sql"]


def test_sql_migrate_refuses() -> None:
    assert "neither `-- +migrate Up` nor" in complaints("sql-migrate", {"a.sql": "SELECT 1;"})[0]
    assert "a mark without a command" in complaints("sql-migrate", {"a.sql": "-- +migrate  \n"})[0]
    assert "a.sql:2:" in complaints("sql-migrate", {"a.sql": "-- +migrate Up\n-- +migrate StatementBegin\n"})[0]


def test_sql_migrate_in_its_order() -> None:
    files = dict.fromkeys(("b.sql", "10-x.sql", "9_y.sql", "9_a.sql", "a.sql"), "-- +migrate Up\n")
    order = ["9_a.sql", "9_y.sql", "10-x.sql", "a.sql", "b.sql"]
    assert versions("sql-migrate", files) == [(name, name) for name in order]


# --- golang-migrate and sqlx ----------------------------------------------------------------------------


def test_golang_migrate() -> None:
    files = {
        "000001_init.up.sql": "SELECT 1;\n",
        "000001_init.down.sql": "SELECT -1;\n",
        "10_b.up.sql": "BEGIN; SELECT 2; COMMIT;",
        "10_c.down.sql": "-- nothing\n",
        "2_only.down.sql": "SELECT 3;",
        "3_x.up.json": "{}",
        "4_x.sql": "SELECT 4;",
        "5_x.up.SQL": "SELECT 5;",
    }
    reading, source = read("golang-migrate", files)
    assert [(one.version, one.words) for one in reading.migrations] == [("1", "init"), ("10", "b")]
    assert [source.taken(one.forward) for one in reading.migrations] == ["SELECT 1;\n", "BEGIN; SELECT 2; COMMIT;"]
    assert [source.taken(one.back) for one in reading.migrations] == ["SELECT -1;\n", None]
    assert set(reasons(reading)) == {"10_c.down.sql", "2_only.down.sql", "3_x.up.json", "4_x.sql", "5_x.up.SQL"}


@pytest.mark.parametrize("tool", ["golang-migrate", "sqlx"])
def test_a_pair_with_two_of_a_kind(tool: str) -> None:
    files = {"1_a.up.sql": "", "001_b.up.sql": "", "2_a.down.sql": "", "2_b.down.sql": ""}
    assert complaints(tool, files) == [
        f"001_b.up.sql and 1_a.up.sql: 2 files have the version 1, which {tool} rejects too",
        f"2_a.down.sql and 2_b.down.sql: 2 files have the version 2, which {tool} rejects too",
    ]


def test_sqlx() -> None:
    files = {
        "1_simple.sql": "SELECT 1;",
        "0002_pair.up.sql": "-- no-transaction\nCREATE INDEX CONCURRENTLY i ON a (b);\n",
        "0002_pair.down.sql": "DROP INDEX i;",
        "3_late.sql": "\n-- no-transaction\nSELECT 1;",
        "4_said.sql": "-- no-transaction, as it is large\nSELECT 1;",
        "README.sql": "",
    }
    reading, source = read("sqlx", files)
    parts = [one.forward for one in reading.migrations]
    assert [(one.version, one.words) for one in reading.migrations] == [
        ("1", "simple"),
        ("2", "pair"),
        ("3", "late"),
        ("4", "said"),
    ]
    assert [part and part.no_transaction for part in parts] == [False, True, False, True]
    assert source.taken(parts[1]) == "CREATE INDEX CONCURRENTLY i ON a (b);\n"
    assert source.taken(parts[3]) == files["4_said.sql"]
    assert source.taken(reading.migrations[1].back) == "DROP INDEX i;"


def test_sqlx_refuses_what_is_no_number() -> None:
    assert complaints("sqlx", {"a_b.sql": ""}) == [
        "a_b.sql: sqlx rejects it too: 'a' before the first _ is not a number"
    ]
    assert len(complaints("sqlx", {"99999999999999999999_b.sql": ""})) == 1
    mixed = {"1_a.sql": "", "1_a.up.sql": ""}
    assert complaints("sqlx", mixed) == ["1_a.sql and 1_a.up.sql: 2 files have the version 1, which sqlx rejects too"]


# --- diesel, Prisma -------------------------------------------------------------------------------------


def test_diesel() -> None:
    files = {
        "00000000000000_diesel_initial_setup/up.sql": "SELECT 0;",
        "00000000000000_diesel_initial_setup/down.sql": "-- nothing",
        "2021-01-01-120000_b/up.sql": "SELECT 1;",
        "2021-01-01-120000_b/down.sql": "SELECT -1;",
        "2021-01-01-120000_b/metadata.toml": "run_in_transaction = false",
        "20220101000000_c/up.sql": "SELECT 2;",
        "20220101000000_c/metadata.toml": "# says nothing",
        "20220101000001_d/up.sql": "SELECT 2;",
        "20220101000001_d/metadata.toml": "run_in_transaction = ",
        "20220101000002_f/up.sql": "SELECT 2;",
        "20220101000002_f/metadata.toml": f"run_in_transaction = {'[' * 100_000}",
        ".hidden/x.sql": "",
        "README.md": "",
    }
    reading, source = read("diesel", files)
    assert not reading.faults
    found = [(one.version, one.words, one.forward and one.forward.no_transaction) for one in reading.migrations]
    assert found == [
        ("00000000000000", "diesel_initial_setup", False),
        ("20210101120000", "b", True),
        ("20220101000000", "c", True),
        ("20220101000001", "d", False),
        ("20220101000002", "f", False),
    ]
    assert [source.taken(one.back) for one in reading.migrations] == [None, "SELECT -1;", None, None, None]
    files["20230101000000_e/down.sql"] = ""
    assert complaints("diesel", files) == ["20230101000000_e: diesel rejects it too: there is no up.sql in it"]
    assert read("diesel", {"a/down.sql": "", "b/x": ""})[0].empty


def test_prisma() -> None:
    files = {
        "migration_lock.toml": 'provider = "postgresql"\n',
        "0_init/migration.sql": "SELECT 0;",
        "20240101120000_a_b/migration.sql": "SELECT 1;",
        "20240101120000_a_b/down.sql": "SELECT -1;",
        "README.md": "",
    }
    reading, source = read("prisma", files)
    found = [(one.version, one.digits, one.words) for one in reading.migrations]
    assert found == [("0_init", "0", "_init"), ("20240101120000_a_b", "20240101120000", "_a_b")]
    assert source.taken(reading.migrations[1].back) == "SELECT -1;"
    missing = {**files, "20240102000000_c/x.txt": ""}
    assert complaints("prisma", missing) == ["20240102000000_c: Prisma rejects it too: there is no migration.sql in it"]
    mysql = {**files, "migration_lock.toml": 'provider = "mysql"'}
    assert complaints("prisma", mysql) == ["migration_lock.toml: these migrations are for mysql, not PostgreSQL"]


@pytest.mark.parametrize(("tool", "file"), [("diesel", "up.sql"), ("prisma", "migration.sql")])
def test_a_directory_without_any_file(tool: str, file: str) -> None:
    source = Files({f"20240101000000_a/{file}": "SELECT 1;"}, empty=["20240102000000_b", ".git"])
    faults = [str(fault) for fault in tools.BY_NAME[tool].read(source).faults]
    assert faults == [f"20240102000000_b: {tools.shown_tool(tool)} rejects it too: there is no {file} in it"]


# --- Drizzle, Supabase ----------------------------------------------------------------------------------


def journal(*tags: str, **more: str) -> str:
    entries = [{"idx": i, "when": 1700000000000 + i, "tag": tag, "breakpoints": True} for i, tag in enumerate(tags)]
    return json.dumps({"version": "7", "dialect": "postgresql", "entries": entries, **more})


def test_drizzle() -> None:
    files = {
        "meta/_journal.json": journal("0000_a", "0001_b"),
        "0000_a.sql": "SELECT 1;--> statement-breakpoint\nSELECT 2\n--> statement-breakpoint\nSELECT 3",
        "0001_b.sql": "SELECT 4;\r\n",
        "0002_c.sql": "",
        "relations.ts": "",
    }
    reading, source = read("drizzle", files)
    assert [(one.version, one.digits, one.words) for one in reading.migrations] == [
        ("0000_a 1700000000000", "0000", "_a"),
        ("0001_b 1700000000001", "0001", "_b"),
    ]
    assert source.taken(reading.migrations[0].forward) == "SELECT 1;\nSELECT 2\n;\n\nSELECT 3"
    assert source.taken(reading.migrations[1].forward) == "SELECT 4;\r\n"
    assert set(reasons(reading)) == {"0002_c.sql"}


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (journal("0000_a"), "it has an entry for 0000_a.sql, which does not exist; Drizzle rejects that too"),
        (journal(dialect="mysql"), "these migrations are for mysql, not PostgreSQL"),
        ("[]", "it is not a Drizzle journal"),
        ("{", "it is not a Drizzle journal"),
        ('{"entries": [{"tag": 1, "when": 2}]}', "it is not a Drizzle journal"),
        ('{"entries": 5}', "it is not a Drizzle journal"),
        (journal("0000_a", "0000_a"), "it has 2 entries for 0000_a.sql, so Drizzle would run it 2 times; keep one"),
        pytest.param('{"entries": ' + "[" * 100_000, "it is not a Drizzle journal", id="nested"),
    ],
)
def test_a_bad_journal(text: str, complaint: str) -> None:
    files = {"meta/_journal.json": text} | ({"0000_a.sql": ""} if "2 entries" in complaint else {})
    assert complaints("drizzle", files) == [f"meta/_journal.json: {complaint}"]


def test_drizzle_without_a_journal() -> None:
    files = {
        "20240102000000_b/migration.sql": "SELECT 2;",
        "20240102000000_b/snapshot.json": "{}",
        "20240101000000_a/migration.sql": "SELECT 1;",
    }
    expected = ["20240101000000_a", "20240102000000_b"]
    assert versions("drizzle", files) == [(name, name) for name in expected]


def test_supabase() -> None:
    files = {
        "20211208000000_init.sql": "SELECT 0;",
        "20230101000000_remote_schema.sql": "SELECT 1;",
        "20230102000000_.sql": "SELECT 2;",
        "seed.sql": "",
    }
    assert versions("supabase", files) == [
        ("20230101000000", "20230101000000_remote_schema.sql"),
        ("20230102000000", "20230102000000_.sql"),
    ]
    assert set(reasons(read("supabase", files)[0])) == {"20211208000000_init.sql", "seed.sql"}
    assert versions("supabase", {"20211209000000_init.sql": ""}) != []
    assert complaints("supabase", {"1_a.sql": "", "1_b.sql": ""})[0].startswith("1_a.sql and 1_b.sql: 2 migrations")


# --- Flyway ---------------------------------------------------------------------------------------------


def test_flyway() -> None:
    files = {
        "V1__init.sql": "SELECT 1;",
        "2020/V2_1__Add_things.sql": "SELECT 2;",
        "V2.0.1__b.sql": "CREATE INDEX CONCURRENTLY i ON a (b);",
        "V2.0.1__b.sql.conf": "# x\nexecuteInTransaction=false\n",
        "V10.sql": "SELECT 10;",
        "U2.1__Add_things.sql": "SELECT -2;",
        "U3__alone.sql": "SELECT -3;",
        "U1__init.sql": "-- nothing",
        "R__views.sql": "CREATE OR REPLACE VIEW v AS SELECT 1;",
        "sub/R__A_first.sql": "SELECT 1;",
        "afterMigrate.sql": "SELECT 1;",
        "v3__lower.sql": "",
        "V1_2_x.sql": "",
        "V5__a.SQL": "",
        "V1.__x.sql": "",
    }
    reading, source = read("flyway", files)
    assert [(one.version, one.digits, one.words) for one in reading.migrations] == [
        ("1", "1", "init"),
        ("2.0.1", "", "b"),
        ("2.1", "", "Add things"),
        ("10", "10", ""),
    ]
    assert [one.forward and one.forward.no_transaction for one in reading.migrations] == [False, True, False, False]
    assert [source.taken(one.back) for one in reading.migrations] == [None, None, "SELECT -2;", None]
    assert [one.version for one in reading.repeatables] == ["R__A first", "R__views"]
    assert set(reasons(reading)) == {
        "U1__init.sql",
        "U3__alone.sql",
        "afterMigrate.sql",
        "v3__lower.sql",
        "V1_2_x.sql",
        "V5__a.SQL",
        "V1.__x.sql",
    }


def test_flyway_versions_that_are_equal() -> None:
    assert parts_of("1.0.0") == parts_of("01") == (1,)
    assert sorted(["2.10", "2.9", "10", "2"], key=parts_of) == ["2", "2.9", "2.10", "10"]
    files = {"V1__a.sql": "", "V1_0__b.sql": "", "R__x.sql": ""}
    assert complaints("flyway", files) == [
        "V1_0__b.sql and V1__a.sql: 2 files have the version 1 and 1.0, which Flyway rejects too; give each its own"
    ]


def test_flyway_repeatable_ones_that_are_equal() -> None:
    files = {"R__a b.sql": "SELECT 1;", "x/R__a_b.sql": "SELECT 2;", "R__c.sql": "SELECT 3;"}
    (complaint,) = complaints("flyway", files)
    assert complaint.startswith("R__a b.sql and x/R__a_b.sql: 2 repeatable migrations have the description 'a b',")


def test_what_flyway_has_and_we_have_not() -> None:
    files = {
        "V1__a.java": "",
        "V2__b.sql": "SELECT '${schema}';",
        "V3__c.sql": "SELECT '${x}';",
        "V3__c.sql.conf": "placeholderReplacement = false",
        "V4__d.sql": "SELECT 1;",
        "V4__d.sql.conf": "shouldExecute=${x}==true",
        "V5__e.sh": "",
        "R__f.sql": "SELECT ${g};",
        "B3__h.sql": "",
    }
    reading, source = read("flyway", files)
    assert [one.why and one.why.reason for one in reading.migrations] == [
        "it is written in Java",
        "it has a placeholder, ${schema} in line 1",
        None,
        "its .conf has shouldExecute",
        "it is a script (.sh)",
    ]
    assert source.taken(reading.migrations[2].forward) == "SELECT '${x}';"
    assert reasons(reading) == {
        "B3__h.sql": "it replaces the migrations up to 3 on a new database, and those are imported",
        "R__f.sql": "it has a placeholder, ${g} in line 1",
    }


def test_a_baseline_migration_whose_forebears_are_gone() -> None:
    files = {"B3__base.sql": "SELECT 3;", "V4__d.sql": "SELECT 4;", "V3.1__c.sql": ""}
    assert versions("flyway", files) == [("3", "B3__base.sql"), ("3.1", "V3.1__c.sql"), ("4", "V4__d.sql")]


# --- Which tool they belong to --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("000001_a.up.sql", {"golang-migrate", "sqlx"}),
        ("1_a.down.sql", {"golang-migrate", "sqlx"}),
        ("V1_2__a.sql", {"flyway"}),
        ("R__a.sql", {"flyway"}),
        ("2021_a/up.sql", {"diesel"}),
        ("2021_a/migration.sql", {"prisma", "drizzle"}),
        ("2021_a/snapshot.json", {"drizzle"}),
        ("meta/_journal.json", {"drizzle"}),
        ("migration_lock.toml", {"prisma"}),
        ("001_a.sql", None),
        ("a/V1__a.sql", None),
        ("meta/0000_snapshot.json", None),
    ],
)
def test_signs_in_names(path: str, expected: set[str] | None) -> None:
    sign = tools.sign_in_name(path)
    assert (sign and set(sign.tools)) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("SELECT 1;\n-- +goose Down\n", ("goose", "-- +goose Down", 2)),
        ("-- migrate:up", ("dbmate", "-- migrate:up", 1)),
        ("-- +migrate Up", ("sql-migrate", "-- +migrate Up", 1)),
        ("--liquibase formatted sql", ("liquibase", "--liquibase formatted sql", 1)),
        ("\n-- entrypoint: origin = goose 1\n", ("entrypoint", "-- entrypoint: origin = goose 1", 2)),
        ("-- +goose Up\n-- entrypoint: timeout = 5s\n", ("goose", "-- +goose Up", 1)),
        ("-- entrypoint: timeout = 5s\n-- +goose Up\n", ("goose", "-- +goose Up", 2)),
        ("SELECT 1;--> statement-breakpoint", None),
    ],
)
def test_signs_in_texts(text: str, expected: tuple[str, str, int] | None) -> None:
    sign = tools.sign_in_text(text)
    assert (sign and (*sign.tools, sign.what, sign.line)) == expected


# --- Numbers and names ----------------------------------------------------------------------------------


def numbers(tool: str, *names: str) -> tuple[list[str], str]:
    """Return the names that files get here, and why their numbers change."""
    text = {"goose": UP, "dbmate": MUP, "sql-migrate": "-- +migrate Up\n"}.get(tool, "SELECT 1;")
    plan = naming.plan(read(tool, dict.fromkeys(names, text))[0], tool)
    return [target.path for target in plan.files], plan.anew


@pytest.mark.parametrize(
    ("tool", "names", "expected"),
    [
        ("goose", ["1_a.sql", "12_b.sql"], ["001_a.sql", "012_b.sql"]),
        ("goose", ["00001_Add-Users.sql"], ["00001_add_users.sql"]),
        ("goose", ["20210101120000_a.sql", "00002_b.sql"], ["00002_b.sql", "20210101120000_a.sql"]),
        ("goose", ["001_Größe.sql", "002_.sql"], ["001_grosse.sql", "002_migration.sql"]),
        ("dbmate", ["20210101120000.sql"], ["20210101120000_migration.sql"]),
        ("golang-migrate", ["000001_a.up.sql"], ["000001_a.sql"]),
        ("flyway", ["V1__a.sql", "V2__b.sql"], ["001_a.sql", "002_b.sql"]),
        ("prisma", ["0_init/migration.sql", "20240101120000_a/migration.sql"],
         ["000_init.sql", "20240101120000_a.sql"]),
        ("diesel", ["00000000000000_x/up.sql", "2021-01-01-120000_y/up.sql"],
         ["00000000000000_x.sql", "20210101120000_y.sql"]),
        ("flyway", ["R__a-b.sql", "R__a_b.sql"], ["repeatable/a_b.sql", "repeatable/a_b_2.sql"]),
    ],
)  # fmt: skip
def test_numbers_stay(tool: str, names: list[str], expected: list[str]) -> None:
    assert numbers(tool, *names) == (expected, "")


@pytest.mark.parametrize(
    ("tool", "names", "expected", "why"),
    [
        ("flyway", ["V1__a.sql", "V1.1__b.sql", "V2__c.sql"], ["001_a.sql", "002_b.sql", "003_c.sql"],
         "V1.1__b.sql has no whole number"),
        ("dbmate", ["9_a.sql", "10_b.sql"], ["001_b.sql", "002_a.sql"],
         "10_b.sql runs before 9_a.sql, whose number is lower"),
        ("dbmate", ["1_a.sql", "01_b.sql"], ["001_b.sql", "002_a.sql"], "01_b.sql and 1_a.sql have the same number"),
        ("dbmate", ["1234567890123456789_b.sql", "2_a.sql"], ["001_b.sql", "002_a.sql"],
         "1234567890123456789_b.sql has a number of more than 18 digits"),
        ("sql-migrate", ["b.sql", "1_a.sql"], ["001_a.sql", "002_b.sql"], "b.sql has no whole number"),
    ],
)  # fmt: skip
def test_numbers_anew(tool: str, names: list[str], expected: list[str], why: str) -> None:
    assert numbers(tool, *names) == (expected, why)


def test_a_thousand_numbers_anew_have_one_width() -> None:
    names = [f"V1.{number}__x.sql" for number in range(1, 1001)]
    paths, _ = numbers("flyway", *names)
    assert (paths[0], paths[-1]) == ("0001_x.sql", "1000_x.sql")


def test_what_is_written_by_hand_keeps_its_place() -> None:
    files = {"1_a.go": "", "2_b.sql": f"-- +goose NO TRANSACTION\n{UP}VACUUM;\n{DOWN}SELECT 1;"}
    plan = naming.plan(read("goose", files)[0], "goose")
    assert [(one.path, one.header) for one in plan.unwritten] == [("001_a.sql", ("-- entrypoint: origin = goose 1",))]
    header = ("-- entrypoint: origin = goose 2", "-- entrypoint: no-transaction")
    assert [(one.path, one.header) for one in plan.files] == [("002_b.sql", header)]
    assert [(one.path, one.header) for one in plan.backs] == [("rollback/002_b.sql", header[:1])]


def test_a_long_description_makes_no_long_name() -> None:
    [path], _ = numbers("goose", f"1_{'x' * 240}.sql")
    assert path == f"001_{'x' * 200}.sql"


def migration_of(tool: str, files: Mapping[str, str]) -> Migration:
    return read(tool, files)[0].migrations[0]


def test_origins_are_spelled_as_the_tools_record_them() -> None:
    files = {
        "goose": {"00007_a.sql": UP},
        "dbmate": {"007_a.sql": MUP},
        "sql-migrate": {"007-a.sql": "-- +migrate Up\n"},
        "golang-migrate": {"000007_a.up.sql": ""},
        "flyway": {"V2_1__a.sql": ""},
        "sqlx": {"007_a.sql": ""},
        "diesel": {"2021-01-01-120000_a/up.sql": ""},
        "prisma": {"20240101120000_a/migration.sql": ""},
        "drizzle": {"meta/_journal.json": journal("0007_a"), "0007_a.sql": ""},
        "supabase": {"007_a.sql": ""},
    }
    assert tuple(files) == records.TOOLS
    spelled = {tool: migration_of(tool, there).version for tool, there in files.items()}
    assert spelled == {
        "goose": "7",
        "dbmate": "007",
        "sql-migrate": "007-a.sql",
        "golang-migrate": "7",
        "flyway": "2.1",
        "sqlx": "7",
        "diesel": "20210101120000",
        "prisma": "20240101120000_a",
        "drizzle": "0007_a 1700000000000",
        "supabase": "007",
    }
    for tool, version in spelled.items():
        line = directives.spell_origin(Origin(tool, version))
        assert directives.read(line)[0].origin == Origin(tool, version)


def test_lines_that_are_statements() -> None:
    assert texts.first_statement(b"-- a\n\n  -- b\nSELECT 1", 0, 21) == 13
    assert texts.first_statement(b"-- a\n\r\n", 0, 7) is None
    assert texts.first_statement(b"-- a\nSELECT 1", 0, 5) is None
    assert texts.first_statement(b"", 0, 0) is None
