"""Files whose statements can be read in two ways: nothing is committed by accident, and a good file works."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from conftest import missing
from entrypoint.database.answers import StatementError
from entrypoint.database.target import target
from entrypoint.deadline import Deadline
from kit.migrations import write_migrations
from kit.pooler import executable, pooler
from scene import Scene, needs_odd_strings, only_error

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from kit.databases import Database
    from kit.processes import Run

# The parser takes the comment for the end of the string, and reads on after the quote; the server does not.
DISPUTED = "DO E'BEGIN END'\n-- c\n'--\\' LANGUAGE '; {}; --';\n"
FILLER = f"-- {'x' * 100_001}\n"
ATOMIC = "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC {} END; COMMIT; SELECT 1/0;"


@pytest.fixture
def scene(any_database: Database, migrations_dir: Path, run_entrypoint: Callable[..., Run]) -> Scene:
    any_database.execute("CREATE TABLE effects (t text)")
    return Scene(any_database, migrations_dir, run_entrypoint)


def effects(scene: Scene) -> list[object]:
    return [value for (value,) in scene.database.rows("SELECT t FROM effects")]


def sets(database: Database) -> str:
    """Return a statement that changes how strings are read, in a way we cannot see.

    Since version 19 that is an error, so there it sets the default.
    """
    wanted = "off" if database.server.version < 19 else "on"
    return f"SELECT set_config('standard_conforming' || '_strings', '{wanted}', false);\n"


def insert(then: str) -> str:
    return f"INSERT INTO effects VALUES ('one');\n{then}"


@pytest.mark.case("A5")
@pytest.mark.parametrize("option", [(), ("--rehearse",)])
def test_a_commit_that_only_one_reading_finds_is_refused(scene: Scene, option: tuple[str, ...]) -> None:
    scene.write({"001_x.sql": insert(DISPUTED.format("COMMIT; SELECT 1/0"))})
    run = scene.start("migrate", *option)
    assert run.wait() == 65, run.report()
    assert "starts or ends a transaction" in only_error(run)["message"]
    assert "olled back" not in run.stdout + run.stderr
    assert effects(scene) == []


@pytest.mark.sampled(3)
@pytest.mark.case("A5")
@pytest.mark.case("A6")
@pytest.mark.parametrize("option", [(), ("--rehearse",)])
@pytest.mark.parametrize(
    "text",
    [
        insert(FILLER + ATOMIC.format("SELECT 1 case;")),
        insert(FILLER + ATOMIC.format("SELECT CASE WHEN true THEN 1. END;")),
    ],
)
def test_a_commit_without_begin_that_the_scanner_alone_finds_commits_nothing(
    scene: Scene, text: str, option: tuple[str, ...]
) -> None:
    scene.write({"001_x.sql": text})
    run = scene.start("migrate", *option)
    assert run.wait() == 70, run.report()
    assert only_error(run)["sqlstate"] == "22012"
    assert effects(scene) == []


@pytest.mark.case("A5")
def test_a_commit_without_begin_that_the_scanner_alone_finds_may_mean_units(scene: Scene) -> None:
    scene.write({"001_x.sql": insert(FILLER + DISPUTED.format("COMMIT; SELECT 1/0"))})
    run = scene.start("migrate")
    assert run.wait() == 70, run.report()
    assert "the statements before it are committed" in only_error(run)["message"]
    assert effects(scene) == ["one"]


@pytest.mark.case("A5")
def test_a_disputed_file_that_is_good_works(scene: Scene) -> None:
    """As when it is sent in one message, what it sets does not change how the rest of it is read."""
    text = (
        "SELECT set_config('client_encoding', 'LATIN1', false);\n"
        "INSERT INTO effects VALUES ('é\\');\n" + DISPUTED.format("SELECT 2") + "INSERT INTO effects SELECT 'ü'"
    )
    scene.write({"001_x.sql": text})
    scene.start("migrate", "--rehearse").ok()
    assert effects(scene) == []
    scene.migrated()
    assert effects(scene) == ["é\\", "ü"]


@pytest.mark.case("A5")
def test_an_error_in_a_disputed_file_is_shown_in_its_place(scene: Scene) -> None:
    scene.write({"001_x.sql": insert(DISPUTED.format("SELECT 1") + "SELECT nonsense;\n")})
    told = only_error(scene.migrate())
    assert told["line"] == 5, told
    assert "LINE 5: SELECT nonsense;\n               ^" in told["report"]
    assert effects(scene) == []


@pytest.mark.thorough
@pytest.mark.case("A6")
@pytest.mark.parametrize("option", [(), ("--rehearse",)])
def test_strings_that_a_large_file_sets_otherwise(scene: Scene, option: tuple[str, ...]) -> None:
    """If we cannot see that, it matters only once there is a backslash. If we can, we read it as psql would."""
    needs_odd_strings(scene.database.server)
    far, string = f"-- {'x' * (1 << 20)}\n", "INSERT INTO effects VALUES ('\\''; COMMIT; SELECT 1/0; SELECT ');"
    scene.write({"001_x.sql": insert(sets(scene.database) + far + string)})
    run = scene.start("migrate", *option)
    assert run.wait() == 70, run.report()
    assert "standard_conforming_strings is set to off" in only_error(run)["message"]
    assert effects(scene) == []
    seen = "SELECT set_config('standard_conforming_strings', 'off', false);\n"
    scene.write({"001_x.sql": insert(seen + far + "INSERT INTO effects VALUES ('it\\'s; COMMIT; SELECT 1/0;');")})
    scene.start("migrate", *option).ok()
    assert effects(scene) == ([] if option else ["one", "it's; COMMIT; SELECT 1/0;"])


@pytest.mark.case("A6")
def test_what_the_parser_has_not_read_is_rehearsed_statement_by_statement(scene: Scene) -> None:
    """Then no COMMIT can hide behind another statement, even if nobody has seen it."""
    says = "DO $$ BEGIN RAISE NOTICE 'sent: % characters', length(current_query()); END $$;\n"
    scene.write({"001_x.sql": insert(FILLER + says + "INSERT INTO effects VALUES ('\\');")})
    run = scene.start("migrate", "--rehearse").ok()
    assert "sent: 78 characters" in run.stdout, run.report()
    assert effects(scene) == []
    scene.migrated()
    assert effects(scene) == ["one", "\\"]


@pytest.mark.case("A6")
def test_of_two_statements_in_such_a_message_none_runs(scene: Scene) -> None:
    session = target(scene.database.url, "DATABASE_URL", "0").connect(5)
    session.query("BEGIN", Deadline(5))
    with pytest.raises(StatementError) as caught:
        session.statement("INSERT INTO effects VALUES (1); COMMIT", Deadline(5), lambda _result: None)
    assert caught.value.sqlstate == "42601"
    assert session.in_transaction
    session.close()
    assert effects(scene) == []


COMMITS = "DO $$ BEGIN INSERT INTO effects VALUES ('two'); COMMIT; END $$;"


@pytest.mark.thorough
@pytest.mark.case("D5")
@pytest.mark.parametrize("text", [COMMITS, "CREATE PROCEDURE p() LANGUAGE plpgsql AS 'BEGIN COMMIT; END';\nCALL p();"])
def test_the_way_out_for_what_commits_within_is_named_and_works(scene: Scene, text: str) -> None:
    scene.write({"001_x.sql": text})
    told = only_error(scene.migrate())
    assert told["sqlstate"] == "2D000"
    assert "put `-- entrypoint: no-transaction` at the top of the file" in told["remedy"]
    scene.write({"001_x.sql": f"-- entrypoint: no-transaction\n{text}"})
    scene.migrated()


IN_A_BLOCK = "move it out of the BEGIN … COMMIT block"
PROCEDURE = "CREATE PROCEDURE p() LANGUAGE plpgsql AS 'BEGIN COMMIT; END';\n"
ONLY_ONE = "CREATE SUBSCRIPTION s CONNECTION 'host=127.0.0.1 port=1 connect_timeout=1' PUBLICATION p"


@pytest.mark.case("D5", "B4")
@pytest.mark.parametrize(
    ("text", "before", "ways_out"),
    [
        (f"BEGIN; {COMMITS} COMMIT;", False, [IN_A_BLOCK, "nothing in the file was committed"]),
        (f"SELECT 1; BEGIN; {COMMITS} COMMIT;", True, [IN_A_BLOCK]),
        (f"{PROCEDURE}DO $$ BEGIN CALL p(); END $$;", True, ["run the procedure with CALL"]),
        (ONLY_ONE, False, ["nothing in the file was committed before that statement"]),
        ("DO $$ BEGIN COMMIT; PERFORM 1/0; END $$;", False, ["what this statement has committed itself stays"]),
    ],
)
def test_what_came_before_is_told_only_where_something_did(
    scene: Scene,
    text: str,
    before: bool,  # noqa: FBT001 - a column of the table
    ways_out: list[str],
) -> None:
    scene.write({"001_x.sql": f"-- entrypoint: no-transaction\n{text}"})
    told = only_error(scene.migrate())
    assert ("the statements before it are committed" in told["message"]) == before
    for way_out in ways_out:
        assert way_out in f"{told['message']} {told['remedy']}"
    assert "put `-- entrypoint: no-transaction`" not in told["remedy"]


@pytest.mark.case("D5")
def test_a_block_that_commits_is_found_beforehand(run_entrypoint: Callable[..., Run], migrations_dir: Path) -> None:
    write_migrations(
        migrations_dir,
        {
            "001_x.sql": f"SELECT 1;\n{COMMITS}",
            "002_x.sql": f"-- entrypoint: no-transaction\n{COMMITS}",
            "003_x.sql": "DO $$ BEGIN RAISE NOTICE '; COMMIT;'; END $$;",
        },
    )
    output = run_entrypoint("check", "--no-lint").ok().stdout
    assert output.count("commit-in-block") == 1, output
    assert "migrations/001_x.sql:2: warning: this DO block has a COMMIT or ROLLBACK" in output
    assert "no-transaction` at the top of the file" in output


@pytest.mark.thorough
@pytest.mark.case("A5")
def test_a_disputed_file_through_a_pooler(
    database: Database, migrations_dir: Path, run_entrypoint: Callable[..., Run]
) -> None:
    if executable() is None:
        missing("no pgbouncer (Debian's package pgbouncer)")
    database.execute("CREATE TABLE effects (t text)")
    scene = Scene(database, migrations_dir, run_entrypoint)
    scene.write({"001_x.sql": insert(DISPUTED.format("SELECT 2") + "INSERT INTO effects VALUES ('\\');")})
    with pooler(database.server, pool_size=3) as port:
        scene.start("migrate", "--rehearse", url=database.url_at(port)).ok()
        assert effects(scene) == []
        scene.start("migrate", url=database.url_at(port)).ok()
    assert effects(scene) == ["one", "\\"]
