"""Which database? Each command that changes something says so first, and asks with it; `status` says so too."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from demo.postgres import HOST
from kit.processes import until
from kit.screen import Terminal as Screen
from kit.terminal import Terminal
from scene import Scene

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from kit.databases import Database
    from kit.processes import Run


@pytest.fixture
def scene(database: Database, migrations_dir: Path, run_entrypoint: Callable[..., Run]) -> Scene:
    scene = Scene(database, migrations_dir, run_entrypoint)
    scene.write({"001_a.sql": "CREATE TABLE a ();", "002_b.sql": "CREATE TABLE b ();"})
    (migrations_dir / "rollback").mkdir()
    (migrations_dir / "rollback" / "002_b.sql").write_text("DROP TABLE b;")
    return scene


def short(scene: Scene) -> str:
    return f"{scene.database.name} on {HOST}:{scene.database.server.port}"


def line(scene: Scene) -> str:
    return f"{short(scene)} as postgres, schema public"


COMMANDS = {
    "rollback": ("rollback", "--to", "1"),
    "baseline": ("baseline", "1"),
    "repair": ("repair",),
    "unlock": ("unlock",),
    "dry-run": ("migrate", "--dry-run"),
    "rehearse": ("migrate", "--rehearse"),
    "status": ("status",),
}


@pytest.mark.sampled(3)
@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_it_begins_with_the_database(scene: Scene, command: tuple[str, ...]) -> None:
    if command[0] == "rollback":
        scene.migrated()
    run = scene.start(*command)
    run.wait()
    assert run.stdout.splitlines()[0] == line(scene), run.report()


def test_it_asks_with_it_and_no_is_no_error(scene: Scene) -> None:
    scene.migrated()
    with Terminal() as terminal:
        env = {"DATABASE_URL": scene.database.url}
        run = scene.launch("rollback", "--to", "1", env=env, **terminal.options)
        shown = terminal.asked(run)
        assert shown.startswith(line(scene) + "\n")
        assert shown.endswith(f"Roll back to 1 in {short(scene)}? [y/N] ")
        assert terminal.answer(run, "n\n") == 64
        assert terminal.text.endswith("\nNothing was changed.\n")
        assert "error:" not in terminal.text
    assert run.stdout == ""


def test_the_log_on_a_terminal_begins_with_it(scene: Scene) -> None:
    """And has no empty lines in between, nor any remains of the bar at its end."""
    with Screen(columns=200) as screen:
        env = {"DATABASE_URL": scene.database.url, "TERM": "xterm-256color"}
        scene.launch("migrate", env=env, stderr=screen.fd).ok()
        lines = shown(screen, "the schema is at version 2")
    assert lines[0] == line(scene)
    assert "" not in lines
    assert lines[-1].endswith("the schema is at version 2")
    assert not [one for one in lines if "of 2 migrations" in one or "━" in one]
    with Screen(columns=200) as screen:
        scene.launch("migrate", env=env, stderr=screen.fd).ok()
        lines = shown(screen, "up to date at version 2")
    assert [lines[0], lines[1][13:]] == [line(scene), "the schema is up to date at version 2"]
    with Screen(columns=200) as screen:
        scene.launch("run", "--", "true", env=env, stderr=screen.fd).ok()
        assert shown(screen, "")[0] == line(scene)
    with Screen(columns=200) as screen:
        scene.launch("run", "--", "true", env={**env, "AUTO_MIGRATE": "false"}, stderr=screen.fd).ok()
        assert [text[13:] for text in shown(screen, "not touched")] == [
            "AUTO_MIGRATE is false: the database was not touched"
        ]


def shown(screen: Screen, end: str) -> list[str]:
    """Return what a terminal shows, once its last line ends with `end`: what is written shows a moment later."""
    until(lambda: bool(screen.screen) and screen.screen[-1].endswith(end), 10, end)
    return screen.screen


def test_each_line_of_json_says_it_itself(scene: Scene) -> None:
    run = scene.start("migrate").ok()
    first = run.logs()[0]
    assert f"{first['database']} on {first['server']} as {first['user']}, schema {first['schema']}" == line(scene)
    assert all(text.startswith("{") for text in run.stderr.splitlines())


def test_through_a_socket_and_another_variable_without_the_password(scene: Scene) -> None:
    server = scene.database.server
    socket = scene.database.one("SELECT split_part(current_setting('unix_socket_directories'), ',', 1)")
    address = f"host={socket} port={server.port} dbname={scene.database.name} user=postgres password=Quokka"
    run = scene.start("status", MIGRATION_DATABASE_URL=address, DATABASE_URL="postgresql://u:Wombat@nowhere/other").ok()
    assert run.stdout.splitlines()[0] == f"{scene.database.name} on {socket}:{server.port} as postgres, schema public"
    assert "Quokka" not in run.stdout + run.stderr


def test_a_role_is_named_and_so_is_the_schema(scene: Scene) -> None:
    role = f"owner_{scene.database.name}"[:60]
    scene.database.execute(f"CREATE ROLE {role}; CREATE SCHEMA ours AUTHORIZATION {role}")
    run = scene.start("status", MIGRATION_ROLE=role, MIGRATION_SCHEMA="ours").ok()
    assert run.stdout.splitlines()[0] == f"{short(scene)} as postgres (role {role}), schema ours"
    scene.database.execute(f"DROP SCHEMA ours; DROP ROLE {role}")


def test_json_has_it_and_nothing_else_is_on_stdout(scene: Scene) -> None:
    for command in (("status",), ("unlock",), ("migrate", "--dry-run"), ("migrate", "--rehearse")):
        answer = json.loads(scene.start(*command, "--json").ok().stdout)
        assert answer["server"] == f"{HOST}:{scene.database.server.port}", command
        assert answer["database"] == scene.database.name


def test_without_an_answer_it_says_where_there_was_none(
    run_entrypoint: Callable[..., Run], migrations_dir: Path
) -> None:
    migrations_dir.mkdir(exist_ok=True)
    env = {"DATABASE_URL": "postgresql://u:Quokka@127.0.0.1:1/gone", "DB_CONNECT_ATTEMPTS": "1"}
    for command in (("status",), ("unlock",), ("migrate", "--dry-run"), ("migrate", "--rehearse")):
        run = run_entrypoint(*command, "--json", env=env)
        assert run.wait() == 69
        answer = json.loads(run.stdout)
        assert (answer["server"], answer["database"]) == ("127.0.0.1:1", "gone"), command
        assert answer["error"]
        assert "Quokka" not in run.stdout + run.stderr
