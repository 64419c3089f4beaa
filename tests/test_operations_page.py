"""docs/operations.md, typed: each test causes a symptom, types what the page says, and checks that the symptom is gone.

Tests take what they type from the page itself, and name each line by a part of its text. A line that no test names is a
failure, so the page and the tests cannot drift apart.
"""

from __future__ import annotations

import argparse
import re
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import psycopg
import pytest

from conftest import missing
from entrypoint import cli
from kit.pooler import executable, pooler
from kit.processes import Run, until
from kit.terminal import Terminal
from scene import Gate, Scene, load_legacy, only_error, token_of, warnings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from kit.databases import Database
    from kit.proxy import Proxy

PAGE = Path(__file__).parent.parent / "docs" / "operations.md"
START = "Operations"
_F = TypeVar("_F", bound="Callable[..., None]")

GOOD = {"001_good.sql": "CREATE TABLE good (id integer);"}
GATED = {"001_gate.sql": f"CREATE TABLE a (); {Gate.PASS}"}

# Lines of the page that no test can type, each with the reason.
EXEMPT = {
    "kubectl exec": "there is no cluster here; what comes after -- is typed elsewhere on the page",
    "docker run": "there is no Docker here; what it starts is typed elsewhere on the page",
}


# --- The page -------------------------------------------------------------------------------------------


class Item(NamedTuple):
    """Something to type: a line for the shell, or a box of SQL."""

    heading: str
    language: str
    text: str

    @property
    def command(self) -> str:
        """Return it without the trailing comment."""
        return self.text if self.language == "sql" else re.sub(r"\s+# .*", "", self.text)


def items_of(page: str) -> list[Item]:
    """Return everything in boxes, fenced or indented."""
    items = []
    heading, fence = "", None
    box: list[str] = []
    for line in page.splitlines():
        text = line.strip()
        if fence is not None:
            if text == "```":
                items.append(Item(heading, fence, "\n".join(box)))
                fence = None
            else:
                box.append(text)
        elif text.startswith("```"):
            fence, box = text[3:], []
        elif line.startswith("#"):
            heading = line.lstrip("# ")
        elif line.startswith("    ") and text:
            items.append(Item(heading, "sh", text))
    return items


ITEMS = items_of(PAGE.read_text())


def find(heading: str, piece: str) -> Item:
    """Return the one item below a heading that equals `piece`, or else the one that contains it."""
    below = [item for item in ITEMS if item.heading == heading]
    found = [item for item in below if item.command == piece] or [item for item in below if piece in item.command]
    assert len(found) == 1, f"{piece!r} is there {len(found)} times below {heading!r}"
    return found[0]


EXERCISED: dict[str, tuple[str, tuple[str, ...]]] = {}


def types(heading: str, *pieces: str) -> Callable[[_F], _F]:
    """Declare which lines below a heading of the page a test types."""

    def note(test: _F) -> _F:
        assert test.__name__ not in EXERCISED
        EXERCISED[test.__name__] = (heading, pieces)
        return test

    return note


def test_every_line_of_the_page_is_typed_or_exempt() -> None:
    typed = {find(heading, piece) for heading, pieces in EXERCISED.values() for piece in pieces}
    exempt = {item for item in ITEMS if any(item.text.startswith(start) for start in EXEMPT)}
    assert len(exempt) == len(EXEMPT)
    assert [item for item in ITEMS if item not in typed | exempt] == []


def test_nothing_to_type_is_outside_a_box() -> None:
    """SQL and commands in running text would not be tested. A name alone is not a line to type."""
    prose = re.sub(r"(?ms)^ *```.*?^ *```|^    .*?$", "", PAGE.read_text())
    inline = set(re.findall(r"`([^`]+)`", prose.replace("\n", " ")))
    boxes = " ".join(" ".join(item.command.split()) for item in ITEMS)
    commands = [one for one in inline if re.match(r"(SELECT|UPDATE|DELETE|DROP|GRANT|ALTER|entrypoint|psql)\s", one)]
    # What the text repeats is in a box as well. The name of a statement has nothing after it.
    assert [one for one in commands if one not in boxes and one != "ALTER TABLE"] == []


def test_a_line_that_nobody_types_would_be_seen() -> None:
    page = "# A\n\n    one  # comment\n\n## B\n\n- x\n\n      two\n\n  ```sql\n  three\n    four;\n  ```\n"
    assert items_of(page) == [
        Item("A", "sh", "one  # comment"),
        Item("B", "sh", "two"),
        Item("B", "sql", "three\nfour;"),
    ]
    assert items_of(page)[0].command == "one"


# --- Typing ---------------------------------------------------------------------------------------------


class Typist:
    """Somebody at a terminal who has the page at hand, and psql and entrypoint in the PATH."""

    def __init__(self, scene: Scene, directory: Path, heading: str, pieces: tuple[str, ...]) -> None:
        """Begin in `directory`."""
        self._scene = scene
        self._directory = directory
        self._heading = heading
        self.left = list(pieces)
        programs = directory / "bin"
        programs.mkdir()
        shim = programs / "entrypoint"
        shim.write_text(f'#!/bin/sh\nexec {sys.executable} -m entrypoint "$@"\n')
        shim.chmod(0o755)
        self._path = f"{programs}:{scene.database.server.bin}:{Path(sys.executable).parent}:/usr/bin:/bin"

    def _text(self, piece: str, replace: Mapping[str, str]) -> Item:
        self.left.remove(piece)
        item = find(self._heading, piece)
        for example, real in replace.items():
            assert example in item.text, f"{example!r} is not on the page any more: {item}"
            item = item._replace(text=item.text.replace(example, real))
        return item

    def start(self, piece: str, *, replace: Mapping[str, str] | None = None, **env: str | int) -> tuple[Run, Terminal]:
        """Type a line without waiting for it to finish; the caller closes both."""
        item = self._text(piece, replace or {})
        terminal = Terminal()
        environment = {
            "DATABASE_URL": self._scene.database.url,
            "MIGRATION_DDL_LOCK_TIMEOUT_MS": "60000",
            "PATH": self._path,
            **{name: str(value) for name, value in env.items()},
        }
        if item.language == "sql":
            script = self._directory / "typed.sql"
            script.write_text(item.text)
            argv = ["psql", environment["DATABASE_URL"], "-X", "-At", "-v", "ON_ERROR_STOP=1", "-f", str(script)]
        else:
            assert item.language == "sh"
            argv = ["sh", "-c", item.text]
        return Run(["env", *argv], directory=self._directory, env=environment, **terminal.options), terminal

    def type(
        self,
        piece: str,
        *,
        code: int = 0,
        replace: Mapping[str, str] | None = None,
        typed: str = "",
        **env: str | int,
    ) -> str:
        """Type a line, answer yes to every question, and return what was on the screen and on stdout."""
        run, terminal = self.start(piece, replace=replace, **env)
        with run, terminal:
            terminal.type(typed)
            answered = 0

            def ended() -> bool:
                nonlocal answered
                over = not run.running
                questions = terminal.text.count("[y/N] ")
                if questions > answered:
                    terminal.type("y\n")
                    answered += 1
                return over

            until(ended, 60, lambda: f"the end of {run.report()}\n{terminal.text}")
            shown = terminal.text + run.stdout
            assert run.code == code, f"{shown}\n{run.report()}"
            return shown

    def needs(self, command: str, option: str = "") -> None:
        """Skip a line if this checkout does not have its command."""
        parser = argparse.ArgumentParser()
        if command in cli.COMMANDS:
            cli.COMMANDS[command].add_options(parser)
            if option in parser.format_help():
                return
        self.left.clear()
        pytest.skip(f"there is no {command} {option} in this checkout")


@pytest.fixture
def scene(database: Database, migrations_dir: Path, run_entrypoint: Callable[..., Run]) -> Scene:
    return Scene(database, migrations_dir, run_entrypoint)


@pytest.fixture
def typist(scene: Scene, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Typist]:
    typist = Typist(scene, tmp_path, *EXERCISED[request.function.__name__])
    failed = request.session.testsfailed
    yield typist
    if request.session.testsfailed == failed:
        assert typist.left == [], "said to be typed, and not typed"


# --- What always helps ----------------------------------------------------------------------------------


@types(START, "entrypoint status", "entrypoint check", "entrypoint migrate --dry-run")
def test_looking(scene: Scene, typist: Typist) -> None:
    scene.write(GOOD)
    assert "pending" in typist.type("entrypoint status")
    assert "no errors" in typist.type("entrypoint check")
    assert "1 migration would run" in typist.type("entrypoint migrate --dry-run")
    assert not scene.database.exists("schema_migrations")


@types(START, "entrypoint status --exit-code")
def test_looking_as_a_script_does(scene: Scene, typist: Typist) -> None:
    typist.needs("status", "--exit-code")
    scene.write(GOOD)
    typist.type("entrypoint status --exit-code", code=10)


@types(START, "entrypoint migrate --rehearse")
def test_rehearsing(scene: Scene, typist: Typist) -> None:
    typist.needs("migrate", "--rehearse")
    scene.write(GOOD)
    typist.type("entrypoint migrate --rehearse")
    assert not scene.database.exists("good")


# --- A migration failed ---------------------------------------------------------------------------------

FAILED = "A migration failed"


@pytest.fixture
def failed(scene: Scene) -> Scene:
    """Return a scene in which 002 has failed because of a missing table, and is not tried again."""
    scene.write({**GOOD, "002_bad.sql": "INSERT INTO needed VALUES (1);", "003_last.sql": "CREATE TABLE last ()"})
    assert only_error_of(scene)["event"] == "migration.failed"
    assert only_error_of(scene)["event"] == "migration.held_back"
    return scene


def only_error_of(scene: Scene) -> dict[str, object]:
    run = scene.migrate()
    assert run.code, run.report()
    return only_error(run)


def is_well(scene: Scene, numbers: list[int]) -> None:
    """Start once more, and check that the history is complete."""
    assert scene.run().outcome in {"up_to_date", "migrated"}
    assert scene.ledger() == [(number, "completed") for number in numbers]
    assert scene.lock_is_free()


@types(FAILED, "entrypoint status", "SELECT migration_number", "migrate --rehearse")
def test_failed_and_the_file_is_wrong(failed: Scene, typist: Typist) -> None:
    assert re.search(r"^002 +002_bad\.sql +failed", typist.type("entrypoint status"), re.MULTILINE)
    assert '2|002_bad.sql|002_bad.sql:1: ERROR:  relation "needed"' in typist.type("SELECT migration_number")
    failed.write({"002_bad.sql": "CREATE TABLE good_after_all ();"})
    assert "002_bad.sql" in typist.type("migrate --rehearse")
    is_well(failed, [1, 2, 3])


@pytest.mark.thorough
@types(FAILED, "entrypoint repair --failed && entrypoint migrate")
def test_failed_and_the_cause_was_elsewhere(failed: Scene, typist: Typist) -> None:
    failed.database.execute("CREATE TABLE needed (id integer)")
    typist.type("entrypoint repair --failed && entrypoint migrate")
    is_well(failed, [1, 2, 3])


@pytest.mark.thorough
@types(FAILED, "DELETE FROM schema_migrations")
def test_failed_and_the_row_is_deleted_in_sql(failed: Scene, typist: Typist) -> None:
    failed.database.execute("CREATE TABLE needed (id integer)")
    assert "DELETE 1" in typist.type("DELETE FROM schema_migrations")
    is_well(failed, [1, 2, 3])


@pytest.mark.thorough
@types(FAILED, "UPDATE schema_migrations SET status = 'completed'")
def test_failed_and_done_by_hand(failed: Scene, typist: Typist) -> None:
    assert "UPDATE 1" in typist.type("UPDATE schema_migrations SET status = 'completed'")
    is_well(failed, [1, 2, 3])
    assert not failed.database.exists("needed")


# --- The lock -------------------------------------------------------------------------------------------

LOCKED = "Failed to acquire migration lock after …ms"


def time_out(scene: Scene, stale: int = 600_000) -> dict[str, object]:
    run = scene.migrate(MIGRATION_LOCK_TIMEOUT_MS=300, MIGRATION_LOCK_STALE_MS=stale)
    assert run.code == 75, run.report()
    error = only_error(run)
    assert str(error["message"]).startswith("Failed to acquire migration lock after 300ms")
    return error


@types(LOCKED, "entrypoint unlock", "MIGRATION_LOCK_TIMEOUT_MS=600000")
def test_locked_and_the_holder_works(scene: Scene, typist: Typist) -> None:
    scene.write(GATED)
    with Gate(scene.database) as gate:
        leader = scene.start()
        gate.arrival()
        time_out(scene)
        assert f"(process {leader.pid})" in typist.type("entrypoint unlock", code=75)
        waiter, terminal = typist.start("MIGRATION_LOCK_TIMEOUT_MS=600000")
        with waiter, terminal:
            until(lambda: "waiting for the migration lock" in terminal.text, 20, "the waiter")
            gate.open()
            until(lambda: terminal.text and not waiter.running, 30, "its end")
            assert waiter.code == 0, terminal.text
    is_well(scene, [1])


@pytest.mark.thorough
@types(LOCKED, "SELECT pid, pg_blocking_pids(pid)")
def test_locked_and_the_holder_is_blocked(scene: Scene, typist: Typist) -> None:
    scene.write(GOOD)
    scene.migrated()
    scene.write({"002_more.sql": "ALTER TABLE good ADD COLUMN more integer"})
    with scene.database.connect() as other:
        other.execute("BEGIN; LOCK TABLE good")
        leader = scene.start()
        token_of(leader)
        blocked = "SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%ALTER TABLE good%'"
        until(lambda: scene.database.rows(blocked), 15, "the migration behind the lock")
        time_out(scene)
        assert f"{{{other.info.backend_pid}}}|Lock|active" in typist.type("SELECT pid, pg_blocking_pids(pid)")
    leader.ok()
    is_well(scene, [1, 2])


@pytest.mark.thorough
@types(LOCKED, "entrypoint unlock --force")
def test_locked_and_the_holder_is_to_stop(scene: Scene, typist: Typist) -> None:
    scene.write(GATED)
    with Gate(scene.database) as gate:
        leader = scene.start("migrate")
        gate.arrival()
        time_out(scene)
        assert "The lock is free." in typist.type("entrypoint unlock --force")
        assert leader.wait() == 75
        gate.open()
        is_well(scene, [1])


@pytest.mark.thorough
@types(LOCKED, "UPDATE migration_lock")
def test_locked_and_the_holder_is_to_stop_in_sql(scene: Scene, typist: Typist) -> None:
    scene.write(GATED)
    with Gate(scene.database) as gate:
        leader = scene.start("migrate")
        gate.arrival()
        time_out(scene)
        assert "UPDATE 1" in typist.type("UPDATE migration_lock")
        assert leader.wait() == 75
        gate.open()
        is_well(scene, [1])


@pytest.mark.thorough
@types(LOCKED, "SELECT release_stale_migration_locks();")
def test_locked_by_the_earlier_system(scene: Scene, typist: Typist) -> None:
    scene.write(GOOD)
    scene.migrated()
    scene.write({"002_b.sql": "CREATE TABLE b ()"})
    scene.database.execute(
        "UPDATE migration_lock SET locked_at = now() - interval '11 minutes', locked_by = 'earlier-1', process_id = 1"
    )
    # As if somebody had raised it.
    time_out(scene, stale=3_600_000)
    assert typist.type("SELECT release_stale_migration_locks();").strip() == "1"
    assert scene.run(MIGRATION_LOCK_STALE_MS=3_600_000).outcome == "migrated"


@pytest.mark.thorough
@types(LOCKED, "SELECT pg_terminate_backend(a.pid)")
def test_locked_by_a_frozen_holder(scene: Scene, typist: Typist) -> None:
    scene.write(GATED)
    with Gate(scene.database) as gate:
        leader = scene.start("migrate")
        token = token_of(leader)
        gate.arrival()
        leader.kill(signal.SIGSTOP)
        time_out(scene)
        assert typist.type("SELECT pg_terminate_backend(a.pid)").split() == ["t", "t"]
        until(lambda: not scene.backends(token), 10, "the end of its sessions")
        gate.open()
        is_well(scene, [1])


def test_the_lock_of_an_earlier_systems_database_is_the_same_row(scene: Scene) -> None:
    """What the page says in SQL also works before anything was upgraded, when there is no `token` column."""
    load_legacy(scene.database, rows=False)
    scene.database.execute(find(LOCKED, "UPDATE migration_lock").text)


# --- The connection -------------------------------------------------------------------------------------

UNREACHABLE = "Database connection failed after 5 retries"


@types(UNREACHABLE, "psql")
def test_unreachable(scene: Scene, typist: Typist, proxy: Proxy) -> None:
    scene.write(GOOD)
    url = scene.database.url_at(proxy.port)
    proxy.refuse()
    run = scene.start("migrate", url=url, DB_CONNECT_ATTEMPTS=1)
    assert run.wait() == 69
    assert "connection refused" in str(only_error(run)["message"])
    proxy.accept()
    assert "1 row" in typist.type("psql", DATABASE_URL=url)
    assert scene.run(url=url).outcome == "migrated"


@pytest.mark.thorough
@types(UNREACHABLE, "entrypoint wait")
def test_unreachable_for_a_while(scene: Scene, typist: Typist, proxy: Proxy) -> None:
    typist.needs("wait")
    scene.write(GOOD)
    url = scene.database.url_at(proxy.port)
    proxy.refuse()
    run, terminal = typist.start("entrypoint wait", DATABASE_URL=url)
    with run, terminal:
        until(lambda: "refused" in terminal.text, 20, "its first try")
        proxy.accept()
        until(lambda: terminal.text and not run.running, 30, "its end")
        assert run.code == 0, terminal.text
    assert scene.run(url=url).outcome == "migrated"


@types(UNREACHABLE, "python3 -c")
def test_a_malformed_address(scene: Scene, typist: Typist) -> None:
    scene.write(GOOD)
    password = "s@cr/t?%"
    url = scene.database.url.replace("postgres@", "postgres:{}@")
    run = scene.start("migrate", url=url.format(password))
    assert run.wait() == 78
    assert "malformed" in str(only_error(run)["message"])
    shown = typist.type("python3 -c", typed=f"{password}\n")
    assert scene.run(url=url.format(shown.split()[-1])).outcome == "migrated"


READ_ONLY = "The database takes no writes"


@types(READ_ONLY, "SELECT pg_is_in_recovery()", "MIGRATION_DATABASE_URL=")
def test_no_writes(scene: Scene, typist: Typist) -> None:
    scene.write(GOOD)
    scene.database.execute(f"ALTER DATABASE {scene.database.name} SET default_transaction_read_only TO on")
    assert only_error_of(scene)["event"] == "database.read_only"
    assert typist.type("SELECT pg_is_in_recovery()").strip() == "f|on"
    primary = f"{scene.database.url}?options=-cdefault_transaction_read_only%3Doff"
    typist.type("MIGRATION_DATABASE_URL=", replace={"postgresql://shop@primary:5432/shop": primary})
    assert scene.run().outcome == "up_to_date"


# --- Time -----------------------------------------------------------------------------------------------


@pytest.mark.thorough
@types("The migrations took longer than …ms", "MIGRATION_TIMEOUT_MS=3600000")
def test_too_long(scene: Scene, typist: Typist) -> None:
    scene.write({"001_long.sql": "SELECT pg_sleep(1.5); CREATE TABLE a ()"})
    run = scene.migrate(MIGRATION_TIMEOUT_MS=1000)
    assert run.code == 70
    assert only_error(run)["event"] == "migration.timeout"
    typist.type("MIGRATION_TIMEOUT_MS=3600000", MIGRATION_TIMEOUT_MS=1000)
    is_well(scene, [1])


WAITING = "It is waiting and nothing happens"


@types(WAITING, "SELECT pg_terminate_backend(12345);")
def test_waiting_behind_somebody(scene: Scene, typist: Typist) -> None:
    scene.write(GOOD)
    scene.migrated()
    scene.write({"002_more.sql": "ALTER TABLE good ADD COLUMN more integer"})
    other = scene.database.connect()
    other.execute("BEGIN; LOCK TABLE good")
    leader = scene.start(MIGRATION_DDL_LOCK_TIMEOUT_MS=1000)
    blocker = leader.until("migration.blocked")["blocker"]
    assert blocker == other.info.backend_pid
    assert typist.type("SELECT pg_terminate_backend(12345);", replace={"12345": str(blocker)}).strip() == "t"
    leader.ok()
    is_well(scene, [1, 2])
    with pytest.raises(psycopg.OperationalError):
        other.execute("SELECT 1")
    other.close()


@pytest.mark.thorough
@types(WAITING, "SELECT pg_cancel_backend(23456);")
def test_waiting_and_to_be_stopped(scene: Scene, typist: Typist) -> None:
    scene.write(GATED)
    with Gate(scene.database) as gate:
        leader = scene.start("migrate")
        worker = gate.arrival()
        looked = scene.start("unlock")
        looked.wait()
        assert f"Worker: backend {worker} " in looked.stdout
        typist.type("SELECT pg_cancel_backend(23456);", replace={"23456": str(worker)})
        assert leader.wait() == 70
        assert only_error(leader)["event"] == "migration.stopped"
    assert scene.ledger() == []
    is_well(scene, [1])


# --- Files and history ----------------------------------------------------------------------------------


@types("A file was changed after it was applied", "entrypoint repair --checksums")
def test_changed(scene: Scene, typist: Typist) -> None:
    scene.write(GOOD)
    scene.migrated()
    scene.write({"001_good.sql": GOOD["001_good.sql"] + " -- a comment"})
    assert any("was changed after it was applied" in warning for warning in warnings(scene.migrated()))
    typist.type("entrypoint repair --checksums")
    assert warnings(scene.migrated()) == []
    is_well(scene, [1])


@pytest.mark.thorough
@types("An applied file is missing", "entrypoint repair --missing")
def test_gone(scene: Scene, typist: Typist) -> None:
    scene.write({**GOOD, "002_b.sql": "CREATE TABLE b ()"})
    scene.migrated()
    (scene.migrations / "001_good.sql").unlink()
    assert any("its file is missing" in warning for warning in warnings(scene.migrated()))
    typist.type("entrypoint repair --missing")
    assert warnings(scene.migrated()) == []
    is_well(scene, [2])


AHEAD = "The schema is ahead of this image's files"


@pytest.fixture
def ahead(scene: Scene) -> Scene:
    """Return a scene with the newer image's three migrations; the older image ends at 2."""
    scene.write({**GOOD, "002_b.sql": "CREATE TABLE b ()", "003_c.sql": "CREATE TABLE c ()"})
    (scene.migrations / "rollback").mkdir()
    (scene.migrations / "rollback" / "003_c.sql").write_text("DROP TABLE c")
    scene.migrated()
    return scene


@pytest.mark.thorough
@types(AHEAD, "entrypoint rollback --to 2")
def test_ahead_and_to_go_back(ahead: Scene, typist: Typist) -> None:
    typist.type("entrypoint rollback --to 2")
    (ahead.migrations / "003_c.sql").unlink()
    assert ahead.run()[:2] == ("up_to_date", "2")
    assert not ahead.database.exists("c")


@pytest.mark.thorough
@types(AHEAD, "entrypoint backup")
def test_a_backup_before_that(ahead: Scene, typist: Typist, tmp_path: Path) -> None:
    typist.needs("backup")
    backups = tmp_path / "backups"
    backups.mkdir()
    typist.type("entrypoint backup", replace={"/backups": str(backups)})
    assert len(list(backups.iterdir())) == 1
    assert ahead.database.exists("c")


@pytest.mark.thorough
@types(AHEAD, "entrypoint repair --ahead")
def test_ahead_and_undone_by_hand(ahead: Scene, typist: Typist) -> None:
    ahead.database.execute("DROP TABLE c")
    (ahead.migrations / "003_c.sql").unlink()
    assert ahead.run()[:2] == ("ahead", "3")
    typist.type("entrypoint repair --ahead")
    assert ahead.run()[:2] == ("up_to_date", "2")


TOO_OLD = "This image is too old for the schema"
AFTER = "A migration waits for the end of the rollout"


@pytest.fixture
def contracted(scene: Scene) -> Scene:
    """Return a scene in which an older image, which ends at 13, must not start any more."""
    drop = "-- entrypoint: phase = after\n-- entrypoint: floor = 014_drop.sql\nDROP TABLE good;"
    scene.write({"013_good.sql": GOOD["001_good.sql"], "014_drop.sql": drop})
    (scene.migrations / "rollback").mkdir()
    (scene.migrations / "rollback" / "014_drop.sql").write_text(GOOD["001_good.sql"])
    scene.start("migrate", "--phase", "after").ok()
    return scene


@types(TOO_OLD, "entrypoint rollback --to 13")
def test_too_old_and_to_go_back(contracted: Scene, typist: Typist) -> None:
    typist.type("entrypoint rollback --to 13")
    (contracted.migrations / "014_drop.sql").unlink()
    assert contracted.run()[:2] == ("up_to_date", "13")


@types(TOO_OLD, "SET floor = NULL")
def test_too_old_and_the_floor_is_wrong(contracted: Scene, typist: Typist) -> None:
    (contracted.migrations / "014_drop.sql").unlink()
    assert contracted.run().outcome == "failed"
    typist.type("SET floor = NULL")
    assert contracted.run()[:2] == ("ahead", "14")


@types(AFTER, "entrypoint migrate --phase after")
def test_after_the_rollout(scene: Scene, typist: Typist) -> None:
    scene.write(GOOD)
    scene.migrated()
    scene.write({"002_drop.sql": "-- entrypoint: phase = after\nDROP TABLE good;"})
    assert scene.run()[:2] == ("up_to_date", "1")
    typist.type("entrypoint migrate --phase after")
    assert scene.run()[:2] == ("up_to_date", "2")


@pytest.mark.thorough
@types("The database has tables but no migration history", "entrypoint baseline 2")
def test_tables_without_a_ledger(scene: Scene, typist: Typist) -> None:
    scene.write({**GOOD, "002_b.sql": "CREATE TABLE b ()", "003_c.sql": "CREATE TABLE c ()"})
    scene.database.execute("CREATE TABLE good (id integer); CREATE TABLE b ()")
    assert 'relation "good" already exists' in str(only_error_of(scene)["message"])
    typist.type("entrypoint baseline 2")
    is_well(scene, [1, 2, 3])


@pytest.mark.thorough
@types("The table schema_migrations belongs to another tool", "MIGRATION_SCHEMA=entrypoint")
def test_another_tools_table(scene: Scene, typist: Typist) -> None:
    scene.write(GOOD)
    scene.database.execute("CREATE TABLE schema_migrations (version varchar PRIMARY KEY)")
    before = scene.database.rows("SELECT * FROM schema_migrations")
    assert only_error_of(scene)["event"] == "ledger.foreign"
    typist.type("MIGRATION_SCHEMA=entrypoint")
    assert scene.run(MIGRATION_SCHEMA="entrypoint")[:2] == ("up_to_date", "1")
    assert scene.database.rows("SELECT * FROM schema_migrations") == before


@pytest.mark.thorough
@types(
    "These migrations are already recorded in another schema",
    "MIGRATION_SCHEMA=public",
    "CREATE SCHEMA IF NOT EXISTS",
)
def test_a_ledger_in_another_schema(scene: Scene, typist: Typist) -> None:
    scene.write(GOOD)
    scene.migrated()
    url = scene.database.server.url(scene.database.name, options="-c search_path=app")
    assert only_error(scene.migrate(url=url, MIGRATION_SCHEMA="app"))["event"] == "ledger.elsewhere"
    typist.type("MIGRATION_SCHEMA=public")
    typist.type("CREATE SCHEMA IF NOT EXISTS")
    scene.migrated(url=url, MIGRATION_SCHEMA="app")
    assert scene.database.exists("app.good")


@pytest.mark.thorough
@types("An invalid index", "SELECT c.oid::regclass", "DROP INDEX CONCURRENTLY")
def test_an_invalid_index(scene: Scene, typist: Typist) -> None:
    scene.database.execute("CREATE TABLE orders (total integer); INSERT INTO orders VALUES (1), (1)")
    with scene.database.connect() as somebody, pytest.raises(psycopg.errors.UniqueViolation):
        somebody.execute("CREATE UNIQUE INDEX CONCURRENTLY orders_total ON orders (total)")
    assert typist.type("SELECT c.oid::regclass").strip() == "orders_total|orders"
    typist.type("DROP INDEX CONCURRENTLY")
    assert not scene.database.exists("orders_total")


# --- Privileges and paths -------------------------------------------------------------------------------


@pytest.mark.thorough
@types("A pooler is in the way", "MIGRATION_DATABASE_URL=")
def test_a_pooler_in_between(scene: Scene, typist: Typist) -> None:
    if executable() is None:
        missing("no pgbouncer (Debian's package pgbouncer)")
    scene.write({**GOOD, "002_i.sql": "CREATE INDEX CONCURRENTLY i ON good (id);"})
    with pooler(scene.database.server, pool_size=2) as port:
        url = scene.database.url_at(port)
        run = scene.migrate(url=url)
        assert run.code == 78
        assert "this one goes through a pooler" in str(only_error(run)["message"])
        real = {"postgresql://shop@db:5432/shop": scene.database.url}
        typist.type("MIGRATION_DATABASE_URL=", replace=real, DATABASE_URL=url)
        assert scene.run(url=url).outcome == "up_to_date"


@types("A privilege is missing", "GRANT CREATE, USAGE")
def test_a_right_is_missing(scene: Scene, typist: Typist) -> None:
    scene.write(GOOD)
    owner = f"owner_{scene.database.name}"[:60]
    scene.database.execute(f"CREATE ROLE {owner} LOGIN")
    try:
        url = scene.database.server.url(scene.database.name, user=owner)
        run = scene.migrate(url=url)
        assert run.code == 70
        assert only_error(run)["sqlstate"] == "42501"
        typist.type("GRANT CREATE, USAGE", replace={"shop_owner": owner})
        assert scene.run(url=url).outcome == "migrated"
    finally:
        scene.database.execute(f"DROP OWNED BY {owner}; DROP ROLE {owner}")


@pytest.mark.thorough
@types("An internal error", "LOG_LEVEL=debug")
def test_a_debug_log(scene: Scene, typist: Typist) -> None:
    scene.write(GOOD)
    assert "debug: connected to" in typist.type("LOG_LEVEL=debug")
