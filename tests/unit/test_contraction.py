"""Which statements should run after the rollout, and which cannot be repeated, as tables of cases."""

from __future__ import annotations

import pytest

from entrypoint.migration.script import contraction
from entrypoint.migration.script.contraction import (
    CHANGES_TYPE,
    DROPS_COLUMN,
    DROPS_KEY,
    DROPS_TABLE,
    FORBIDS_NULL,
    MOVES,
    RENAMES,
    TRUNCATES,
    ContractionKind,
    contractions,
)
from entrypoint.migration.script.repetition import unrepeatable
from entrypoint.migration.script.scanner import scan

CONTRACTIONS: list[tuple[str, list[ContractionKind]]] = [
    ("DROP TABLE a", [DROPS_TABLE]),
    ("DROP TABLE IF EXISTS a, s.b CASCADE", [DROPS_TABLE]),
    ("drop /* not */ table -- yet\n a", [DROPS_TABLE]),
    ("ALTER TABLE a DROP b", [DROPS_COLUMN]),
    ("ALTER TABLE IF EXISTS ONLY s.a * DROP COLUMN IF EXISTS b", [DROPS_COLUMN]),
    ("ALTER TABLE a ADD c int, DROP b, DROP d", [DROPS_COLUMN]),
    ("ALTER TABLE a ALTER b TYPE numeric(10, 2) USING (b::numeric), ALTER c SET DATA TYPE text", [CHANGES_TYPE]),
    ('ALTER TABLE "A B" ALTER COLUMN "b c" SET NOT NULL, DROP d', [FORBIDS_NULL, DROPS_COLUMN]),
    ("ALTER TABLE a RENAME b TO c", [RENAMES]),
    ("ALTER TABLE a RENAME COLUMN b TO c", [RENAMES]),
    ("ALTER TABLE a RENAME TO b", [RENAMES]),
    ("ALTER TABLE a SET SCHEMA s", [MOVES]),
    ("ALTER VIEW a RENAME TO b", [MOVES]),
    ("ALTER MATERIALIZED VIEW a RENAME TO b", [MOVES]),
    ("ALTER FOREIGN TABLE a DROP b", [DROPS_COLUMN]),
    ("ALTER TYPE a RENAME VALUE 'b' TO 'c'", [MOVES]),
    ("TRUNCATE a", [TRUNCATES]),
    ("TRUNCATE TABLE ONLY s.a RESTART IDENTITY", [TRUNCATES]),
    ("ALTER TABLE a DROP CONSTRAINT a_pkey", [DROPS_KEY]),
    ("ALTER TABLE a DROP CONSTRAINT IF EXISTS a_b_key", [DROPS_KEY]),
    ("ALTER TABLE a DROP CONSTRAINT b CASCADE", [DROPS_KEY]),
    # These disturb nobody.
    ("ALTER TABLE a DROP CONSTRAINT a_b_check", []),
    ("ALTER TABLE a RENAME CONSTRAINT b TO c", []),
    ("ALTER TABLE a ADD b int, ALTER c DROP NOT NULL, ALTER d DROP DEFAULT, ALTER e SET DEFAULT 1", []),
    ("ALTER TABLE a ADD CHECK (b IN (1, 2)) NOT VALID, VALIDATE CONSTRAINT c", []),
    ("ALTER TYPE a ADD VALUE 'b'", []),
    ("ALTER INDEX a RENAME TO b", []),
    ("DROP INDEX a", []),
    ("DROP VIEW a", []),
    ("SELECT 'DROP TABLE a'", []),
    ("DO $$ BEGIN EXECUTE 'DROP TABLE a'; END $$", []),
    # Nobody else knows about objects that the file itself creates.
    ("CREATE TABLE a (); DROP TABLE a", []),
    ("CREATE UNLOGGED TABLE IF NOT EXISTS s.a (); ALTER TABLE s.a DROP b; TRUNCATE a", []),
    ("CREATE TEMP TABLE a AS SELECT 1; DROP TABLE a, b", [DROPS_TABLE]),
    ('CREATE TABLE "A" (); DROP TABLE a', [DROPS_TABLE]),
    ("DROP TABLE a; CREATE TABLE a ()", [DROPS_TABLE]),
    # Silenced by a comment.
    ("-- squawk-ignore ban-drop-table\nDROP TABLE a; DROP TABLE b", [DROPS_TABLE]),
    ("-- squawk-ignore needs-phase-after, other\nDROP TABLE a", []),
    ("-- squawk-ignore other\nDROP TABLE a", [DROPS_TABLE]),
    ("-- squawk-ignore\nDROP TABLE a", []),
    ("-- squawk-ignore ban-drop-table -- nobody reads it since March\nDROP TABLE a", []),
    ("/* squawk-ignore ban-drop-table */ DROP TABLE a", []),
    ("/*\n squawk-ignore ban-drop-table\n*/\nDROP TABLE a", []),
    ("DROP TABLE a; -- squawk-ignore ban-drop-table", []),
    ("DROP TABLE a -- squawk-ignore ban-drop-table\n;", []),
    ("DROP TABLE a;\nSELECT 1; -- squawk-ignore ban-drop-table", [DROPS_TABLE]),
    ("DROP TABLE a;\n\n-- squawk-ignore ban-drop-table", [DROPS_TABLE]),
    ("-- squawk-ignored ban-drop-table\nDROP TABLE a", [DROPS_TABLE]),
    ("-- squawk-ignore-files\nDROP TABLE a", [DROPS_TABLE]),
    ("SELECT 1;\n/* squawk-ignore-file */\nDROP TABLE a; DROP TABLE b", []),
    ("SELECT 1;\n-- squawk-ignore-file needs-phase-after\nDROP TABLE a; DROP TABLE b", []),
    ("", []),
    ("ALTER TABLE", []),
    ("ALTER TABLE a ALTER", []),
    ("TRUNCATE", [TRUNCATES]),
]


@pytest.mark.parametrize(("text", "kinds"), CONTRACTIONS)
def test_contractions(text: str, kinds: list[ContractionKind]) -> None:
    assert [found.kind for found in contractions(text, scan(text).statements)] == kinds


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("DROP VIEW a, s.b", ["a", "b"]),
        ('DROP MATERIALIZED VIEW IF EXISTS "A"', ["A"]),
        ("DROP FUNCTION a(int, text), b", ["a", "b"]),
        ("DROP VIEW a; CREATE OR REPLACE VIEW a AS SELECT 1", []),
        ("DROP TRIGGER a ON b", ["a"]),
        ("ALTER TABLE a DROP b", []),
    ],
)
def test_what_is_dropped_and_not_made_again(text: str, names: list[str]) -> None:
    assert [name for _, name, _ in contraction.dropped(text, scan(text).statements)] == names


REPEATABLE = (
    "CREATE OR REPLACE VIEW v AS SELECT 1",
    "CREATE OR REPLACE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "CREATE OR REPLACE TRIGGER t BEFORE INSERT ON a EXECUTE FUNCTION f()",
    "CREATE EXTENSION IF NOT EXISTS citext",
    "DROP VIEW IF EXISTS v; CREATE VIEW v AS SELECT 1",
    "DROP POLICY IF EXISTS p ON t; CREATE POLICY p ON t",
    "DROP TRIGGER IF EXISTS t ON a; CREATE CONSTRAINT TRIGGER t AFTER INSERT ON a EXECUTE FUNCTION f()",
    "DROP MATERIALIZED VIEW IF EXISTS m; CREATE MATERIALIZED VIEW m AS SELECT 1",
    "GRANT SELECT ON t TO public; COMMENT ON TABLE t IS 'x'; ALTER TABLE t ENABLE ROW LEVEL SECURITY",
    "INSERT INTO t VALUES (1) ON CONFLICT DO NOTHING",
    "INSERT INTO t SELECT 1 WHERE NOT EXISTS (SELECT FROM t)",
    "ALTER TABLE t ADD COLUMN IF NOT EXISTS a int",
    "UPDATE t SET a = 1; SELECT 1; DO $$ BEGIN END $$",
    "",
)


@pytest.mark.parametrize("text", REPEATABLE)
def test_what_can_be_repeated(text: str) -> None:
    assert unrepeatable(text, scan(text).statements) == ()


@pytest.mark.parametrize(
    ("text", "message", "remedy"),
    [
        ("CREATE TABLE t ()", "CREATE TABLE: it fails", "Put it into a numbered migration."),
        (
            "CREATE TABLE IF NOT EXISTS t ()",
            "CREATE TABLE: the second time it does nothing",
            "Put it into a numbered migration.",
        ),
        ("CREATE UNIQUE INDEX i ON t (a)", "CREATE INDEX: it fails", "Put it into a numbered migration."),
        (
            "CREATE MATERIALIZED VIEW m AS SELECT 1",
            "CREATE MATERIALIZED VIEW: it fails",
            "Put it into a numbered migration.",
        ),
        ("CREATE VIEW v AS SELECT 1", "CREATE VIEW without OR REPLACE", "Write CREATE OR REPLACE VIEW."),
        ("CREATE RECURSIVE VIEW v (a) AS SELECT 1", "CREATE VIEW without", "Write CREATE OR REPLACE VIEW."),
        ("CREATE FUNCTION f() RETURNS int", "CREATE FUNCTION without", "Write CREATE OR REPLACE FUNCTION."),
        ("CREATE CONSTRAINT TRIGGER t AFTER INSERT ON a", "CREATE TRIGGER: it fails", "Write DROP TRIGGER IF EXISTS"),
        ("CREATE POLICY p ON t", "CREATE POLICY: it fails", "Write DROP POLICY IF EXISTS"),
        ("CREATE SCHEMA s", "CREATE SCHEMA: it fails", "Write CREATE SCHEMA IF NOT EXISTS."),
        ("DROP VIEW v", "DROP without IF EXISTS", "Write DROP … IF EXISTS."),
        ("INSERT INTO t VALUES (1)", "INSERT without ON CONFLICT", "Write ON CONFLICT"),
        ("ALTER TABLE t ADD a int", "ALTER TABLE … ADD", "Put it into a numbered migration."),
        ("ALTER TABLE t RENAME a TO b", "ALTER TABLE … RENAME", "Put it into a numbered migration."),
    ],
)
def test_what_cannot_be_repeated(text: str, message: str, remedy: str) -> None:
    (found,) = unrepeatable(text, scan(text).statements)
    assert found.message.startswith(message)
    assert found.remedy.startswith(remedy)
