r"""Files in a database where a backslash in a string begins an escape: we read them as the server does."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from scene import Scene, needs_odd_strings, odd_strings, only_error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from kit.databases import Database
    from kit.processes import Run

OFF = "SET standard_conforming_strings = off;\n"
ON = "SET standard_conforming_strings = on;\n"
ALONE = "-- entrypoint: no-transaction\n"
FILLER = f"-- {'x' * 100_001}\n"


@pytest.fixture
def plain(any_database: Database, migrations_dir: Path, run_entrypoint: Callable[..., Run]) -> Scene:
    """Return a scene in a database with PostgreSQL's defaults."""
    any_database.execute("CREATE TABLE effects (t text)")
    return Scene(any_database, migrations_dir, run_entrypoint)


@pytest.fixture
def scene(plain: Scene) -> Scene:
    """Return a scene in a database where backslashes in strings are escapes."""
    odd_strings(plain.database)
    return plain


def effects(scene: Scene) -> list[object]:
    return [value for (value,) in scene.database.rows("SELECT t FROM effects")]


def insert(value: str) -> str:
    return f"INSERT INTO effects VALUES ({value});\n"


@pytest.fixture(params=["database", "role", "role in the database", "address"])
def odd_login(plain: Scene, request: pytest.FixtureRequest) -> Iterator[str]:
    r"""Return an address whose sessions read \' in a string as an escape, set in one of four places."""
    needs_odd_strings(plain.database.server)
    database, server = plain.database, plain.database.server
    name, setting = f"odd_{database.name}"[:60], "SET standard_conforming_strings = off"
    database.execute(f"CREATE ROLE {name} LOGIN SUPERUSER")
    where = {
        "database": f"ALTER DATABASE {database.name} {setting}",
        "role": f"ALTER ROLE {name} {setting}",
        "role in the database": f"ALTER ROLE {name} IN DATABASE {database.name} {setting}",
    }
    if request.param in where:
        database.execute(where[request.param])
        yield server.url(database.name, user=name)
    else:
        yield server.url(database.name, user=name, options="-c standard_conforming_strings=off")
    database.execute(f"REASSIGN OWNED BY {name} TO postgres; DROP OWNED BY {name}; DROP ROLE {name}")


# Each has a COMMIT that is one only if a backslash begins an escape.
HIDDEN = {
    "behind a quote": r"SELECT '\''; COMMIT AND CHAIN; SELECT ' AS a -- '",
    "behind a bit string": r"SELECT B'0', '\''; COMMIT AND CHAIN; SELECT ' --'",
    "behind a string in two parts": "SELECT 'a'\n'\\''; COMMIT AND CHAIN; SELECT ' -- '",
    "behind a comment and a name": "SELECT 1 AS \"'\", /* ' */ '\\'' -- '\n; COMMIT AND CHAIN; SELECT ' --'",
    "behind a national string": r"SELECT n'\\\''; COMMIT AND CHAIN; SELECT '--'",
    "behind a command of psql's": "\\echo \"'\" -- \\\\ SELECT '\\''; COMMIT AND CHAIN; SELECT ' -- '",
}


@pytest.mark.case("A6")
@pytest.mark.sampled(24)
@pytest.mark.parametrize("hidden", HIDDEN)
def test_wherever_the_setting_comes_from_no_commit_hides(plain: Scene, odd_login: str, hidden: str) -> None:
    scene = plain
    scene.write({"001_x.sql": insert("'one'") + HIDDEN[hidden] + ";\n"})
    before = scene.database.contents()
    run = scene.migrate(url=odd_login)
    assert run.wait() == 65, run.report()
    assert "COMMIT AND CHAIN: the migration's row" in only_error(run)["message"]
    assert scene.database.contents() == before
    scene.write({"001_x.sql": insert(r"'it\'s; COMMIT;'") + insert(r"E'\\' || '\\'")})
    scene.migrated(url=odd_login)
    assert effects(scene) == ["it's; COMMIT;", "\\\\"]


@pytest.mark.thorough
@pytest.mark.case("A6")
@pytest.mark.parametrize("filler", ["", FILLER])
@pytest.mark.parametrize("option", [(), ("--rehearse",)])
def test_a_commit_that_looks_like_part_of_a_string_is_refused(
    scene: Scene, filler: str, option: tuple[str, ...]
) -> None:
    scene.write({"001_x.sql": filler + insert("'one'") + "SELECT '\\''; COMMIT AND CHAIN; SELECT ' AS a -- '\n"})
    run = scene.start("migrate", *option)
    assert run.wait() == 65, run.report()
    assert "COMMIT AND CHAIN: the migration's row could not be written" in only_error(run)["message"]
    assert effects(scene) == []


@pytest.mark.sampled(2)
@pytest.mark.case("A6")
@pytest.mark.parametrize("head", ["", FILLER, ALONE, f"{ALONE}BEGIN;\n", "BEGIN;\n"])
def test_a_string_with_escapes_is_what_it_is_for_psql(scene: Scene, head: str) -> None:
    tail = "COMMIT;\n" if "BEGIN" in head else ""
    scene.write({"001_x.sql": head + insert(r"'it\'s'") + insert(r"'a\'; COMMIT; --'") + insert(r"'a\tb'") + tail})
    scene.migrated()
    assert effects(scene) == ["it's", "a'; COMMIT; --", "a\tb"]
    assert scene.ledger() == [(1, "completed")]


@pytest.mark.case("A6")
@pytest.mark.parametrize("head", ["", ALONE, "SELECT 1;\n"])
def test_a_file_that_says_how_it_is_read_is_read_so(scene: Scene, head: str) -> None:
    r"""As in pg_dump's files: a string ends with a backslash, where \' would be an escape."""
    scene.write(
        {"001_x.sql": head + ON + insert(r"'C:\new\'") + OFF + insert(r"'it\'s'"), "002_y.sql": insert(r"'\''")}
    )
    scene.migrated()
    assert effects(scene) == ["C:\\new\\", "it's", "'"]


@pytest.mark.case("A6")
@pytest.mark.parametrize("head", ["", ALONE])
def test_a_converted_dump_is_read_as_it_says(plain: Scene, head: str) -> None:
    if plain.database.server.version >= 19:
        pytest.skip("refused since PostgreSQL 19")
    scene = plain
    scene.write({"001_x.sql": head + OFF + insert(r"'it\'s'") + insert(r"'a\nb'"), "002_y.sql": insert(r"'\n'")})
    scene.start("migrate", "--dry-run").ok()
    scene.migrated()
    assert effects(scene) == ["it's", "a\nb", "\\n"]


@pytest.mark.case("A6")
@pytest.mark.parametrize("head", ["", ALONE])
@pytest.mark.parametrize(
    "unseen",
    [
        "SELECT set_config('standard_conforming' || '_strings', '{}', false);\n",
        "SELECT set_config('standard_conforming_strings', lower('{}'), false);\n",
        "DO $$ BEGIN SET standard_conforming_strings = {}; END $$;\n",
    ],
)
def test_a_file_that_sets_unseen_how_it_is_read_stops_before_that_matters(scene: Scene, unseen: str, head: str) -> None:
    r"""From there on psql would store different strings.

    Without a backslash, or with one only before it, nothing stops.
    """
    sets = unseen.format("on")
    scene.write({"001_x.sql": head + sets + insert("'it''s'") + f"SELECT 1;\n{sets}"})
    scene.migrated()
    scene.write({"002_x.sql": head + insert(r"'it\'s'") + f"SELECT 1;\n{sets}" + insert(r"'\n'")})
    run = scene.migrate()
    assert run.wait() == 70, run.report()
    told = only_error(run)
    assert "standard_conforming_strings is set to on in a way that cannot be tracked" in told["message"]
    assert effects(scene) == (["it's", "it's"] if head else ["it's"])
    assert told["line"] == len(head.splitlines()) + 3
    followed = "SET standard_conforming_strings = on;\n"
    assert followed.strip() in told["remedy"]
    scene.database.execute("DELETE FROM effects")
    scene.write({"002_x.sql": head + followed + insert(r"'\n'")})
    scene.start("repair", "--failed", "--yes").ok()
    scene.migrated()
    assert effects(scene) == ["\\n"]


@pytest.mark.case("A6")
def test_a_block_that_sets_unseen_how_it_is_read_is_rolled_back(scene: Scene) -> None:
    """By then, the server has read all of it."""
    sets = "SELECT set_config('standard_conforming' || '_strings', 'on', true);\n"
    scene.write({"001_x.sql": ALONE + f"BEGIN;\n{sets}" + insert(r"'a\\b'") + "COMMIT;\n"})
    run = scene.migrate()
    assert run.wait() == 70, run.report()
    assert "001_x.sql:3: here or further down, standard_conforming_strings is set to on" in only_error(run)["message"]
    assert effects(scene) == []


def test_an_error_is_shown_in_its_place(scene: Scene) -> None:
    scene.write({"001_x.sql": insert(r"'it\'s'") + r"SELECT 'a\'b', nonsense;"})
    told = only_error(scene.migrate())
    assert told["line"] == 2
    assert "LINE 2: SELECT 'a\\'b', nonsense;\n                       ^" in told["report"], told["report"]


@pytest.mark.thorough
def test_a_down_migration_is_read_so_too(scene: Scene) -> None:
    scene.write({"001_x.sql": insert(r"'it\'s'")})
    scene.migrated()
    (scene.migrations / "rollback").mkdir()
    (scene.migrations / "rollback" / "001_x.sql").write_text(r"DELETE FROM effects WHERE t = 'it\'s';")
    scene.start("rollback", "--to", "0", "--yes").ok()
    assert effects(scene) == []


def test_check_knows_it_from_the_database(scene: Scene) -> None:
    scene.write({"001_x.sql": insert(r"'it\'s'")})
    scene.start("check", "--no-lint").ok()
