"""A primary that takes no writes: the error tells what causes that, and once its remedy is typed, the run succeeds."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import psycopg
import pytest

from conftest import missing
from kit.databases import Database
from kit.pooler import executable, pooler
from kit.processes import until
from scene import Gate, Scene, only_error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from conftest import ServerFactory
    from kit.processes import Run

SETTING = "default_transaction_read_only"
ON = f"SET {SETTING} = on"
OFF = f"SET {SETTING} = off"


def type_in(url: str, *statements: str) -> None:
    """Type statements one by one, in a session that may be just as read-only as ours."""
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in (OFF, *statements):
            connection.execute(statement)


class Shop(NamedTuple):
    """A login that may migrate, a role that it may take, and a file to apply."""

    scene: Scene
    login: str
    role: str

    @property
    def url(self) -> str:
        return self.scene.database.server.url(self.scene.database.name, user=self.login)

    def written(self, text: str) -> str:
        """Return `text` with this test's own names filled in, as PostgreSQL writes them."""
        return text.format(login=f'"{self.login}"', database=self.scene.database.name, role=self.role)

    def refused(self, *command: str, **env: str) -> str:
        """Run, be refused, and return the remedy."""
        run = self.scene.start(*(command or ("migrate",)), url=self.url, **env)
        assert run.wait() == 69, run.report()
        error = only_error(run)
        assert error["event"] == "database.read_only"
        return str(error["remedy"])


@pytest.fixture
def shop(any_database: Database, migrations_dir: Path, run_entrypoint: Callable[..., Run]) -> Iterator[Shop]:
    name = any_database.name[:50]
    login, role = f"Shop {name}", f"owner_{name}"
    any_database.execute(f"""
        CREATE ROLE {role}; CREATE ROLE "{login}" LOGIN; GRANT {role} TO "{login}";
        ALTER DATABASE {any_database.name} OWNER TO {role}; GRANT ALL ON SCHEMA public TO {role}""")
    scene = Scene(any_database, migrations_dir, run_entrypoint)
    scene.write({"001_a.sql": "CREATE TABLE a ();"})
    try:
        yield Shop(scene, login, role)
    finally:
        type_in(
            any_database.url,
            f"ALTER DATABASE {any_database.name} OWNER TO CURRENT_USER",
            f'DROP OWNED BY {role}, "{login}" CASCADE; DROP ROLE {role}, "{login}"',
        )


RESETS = {
    "role": ["ALTER ROLE {login}"],
    "role in database": ["ALTER ROLE {login} IN DATABASE {database}"],
    "database": ["ALTER DATABASE {database}"],
    "one under the other": ["ALTER ROLE {login} IN DATABASE {database}", "ALTER DATABASE {database}"],
}


@pytest.mark.sampled(3)
@pytest.mark.case("D7")
@pytest.mark.parametrize("whose", RESETS.values(), ids=RESETS.keys())
def test_what_is_set_for_a_login_or_a_database(shop: Shop, whose: list[str]) -> None:
    alter = [shop.written(statement) for statement in whose]
    # Has no effect on a session that logs in as the login and then takes this role.
    shop.scene.database.execute(f"ALTER ROLE {shop.role} {ON}")
    for statement in reversed(alter):
        type_in(shop.scene.database.url, f"{statement} {ON}")
    remedy = shop.refused(MIGRATION_ROLE=shop.role)
    resets = [f"{statement} RESET {SETTING}" for statement in alter]
    assert f": {'; '.join(resets)}. " in remedy
    assert remedy.count("RESET") == len(alter)
    assert OFF in remedy
    assert "target_session_attrs" not in remedy
    type_in(shop.url if len(alter) == 1 else shop.scene.database.url, *resets)
    shop.scene.migrated(url=shop.url, MIGRATION_ROLE=shop.role)


@pytest.mark.thorough
@pytest.mark.case("D7")
def test_a_weaker_setting_that_a_stronger_one_hides_is_not_named(shop: Shop) -> None:
    database, name = shop.scene.database, shop.scene.database.name
    database.execute(shop.written(f"ALTER ROLE {{login}} {ON}; ALTER ROLE {{login}} IN DATABASE {{database}} {OFF}"))
    shop.scene.migrated(url=shop.url)
    database.execute(f"ALTER DATABASE {name} {ON}")
    shop.scene.write({"002_b.sql": "CREATE TABLE b ();"})
    shop.scene.migrated(url=shop.url)


@pytest.mark.case("D7")
def test_what_the_address_itself_sets(shop: Shop) -> None:
    options = f"options=-c{SETTING}%3Don"
    run = shop.scene.migrate(url=f"{shop.url}?{options}")
    assert run.code == 69, run.report()
    remedy = only_error(run)["remedy"]
    assert "Remove it from `options` in the address" in remedy
    assert "ALTER" not in remedy
    run = shop.scene.migrate(url=shop.url, PGOPTIONS=f"-c {SETTING}=yes")
    assert "or from PGOPTIONS" in only_error(run)["remedy"]
    # Without the options, the login's setting would count.
    shop.scene.database.execute(shop.written(f"ALTER ROLE {{login}} {ON}"))
    remedy = only_error(shop.scene.migrate(url=f"{shop.url}?{options}"))["remedy"]
    assert remedy.index("`options`") < remedy.index(shop.written(f"ALTER ROLE {{login}} RESET {SETTING}"))


@pytest.mark.case("D7")
@pytest.mark.parametrize("command", ["baseline 1 --yes", "migrate --rehearse"])
def test_other_commands_tell_it_too(shop: Shop, command: str) -> None:
    shop.scene.database.execute(shop.written(f"ALTER ROLE {{login}} {ON}"))
    assert shop.written(f"ALTER ROLE {{login}} RESET {SETTING}") in shop.refused(*command.split())


@pytest.mark.case("D7")
def test_what_the_server_is_configured_with(
    fresh_server: ServerFactory, migrations_dir: Path, run_entrypoint: Callable[..., Run]
) -> None:
    database = Database(fresh_server(), "postgres")
    scene = Scene(database, migrations_dir, run_entrypoint)
    scene.write({"001_a.sql": "CREATE TABLE a ();"})
    database.execute("CREATE ROLE shop LOGIN; GRANT ALL ON SCHEMA public TO shop")

    def reconfigure(*statements: str) -> None:
        for statement in (*statements, "SELECT pg_reload_conf()"):
            database.execute(statement)

    def is_on() -> bool:
        return bool(database.one(f"SHOW {SETTING}") == "on")

    def remedy(user: str) -> str:
        return str(only_error(scene.migrate(url=database.server.url("postgres", user=user)))["remedy"])

    database.execute(f"ALTER ROLE ALL {ON}")
    assert f"As a superuser: ALTER ROLE ALL RESET {SETTING}. " in remedy("shop")
    type_in(database.url, f"ALTER ROLE ALL RESET {SETTING}")

    reconfigure(f"ALTER SYSTEM {ON}")
    assert is_on()
    assert f"As a superuser: ALTER SYSTEM RESET {SETTING}; SELECT pg_reload_conf()" in remedy("postgres")
    # Ordinary users cannot see which file it is in.
    (told,) = re.findall(r"(ALTER SYSTEM [^;]*);", remedy("shop"))
    reconfigure(told)
    assert not is_on()

    reconfigure(f"ALTER SYSTEM RESET {SETTING}")
    configuration = Path(str(database.one("SHOW config_file")))
    configuration.write_text(f"{configuration.read_text()}\n{SETTING} = on\n")
    reconfigure()
    assert is_on()
    assert f"is on in {configuration}, line " in remedy("postgres")


# --- In the middle of a start ---------------------------------------------------------------------------


@pytest.mark.thorough
@pytest.mark.case("D7")
def test_a_setting_that_comes_into_effect_between_two_files(
    fresh_server: ServerFactory, migrations_dir: Path, run_entrypoint: Callable[..., Run]
) -> None:
    database = Database(fresh_server(), "postgres")
    scene = Scene(database, migrations_dir, run_entrypoint)
    scene.write({"001_a.sql": Gate.PASS, "002_b.sql": "CREATE TABLE b ();"})
    with Gate(database) as gate:
        run = scene.start("migrate")
        gate.arrival()
        database.execute(f"ALTER SYSTEM {ON}")
        database.execute("SELECT pg_reload_conf()")
        until(lambda: database.one(f"SHOW {SETTING}") == "on", 10, "the new configuration")
        gate.open()
        assert run.wait() == 69, run.report()
    error = only_error(run)
    assert error["event"] == "database.read_only"
    assert error["sqlstate"] == "25006"
    assert error["message"].startswith("002_b.sql: cannot execute")
    assert f"ALTER SYSTEM RESET {SETTING}" in error["remedy"]
    assert scene.ledger() == [(1, "completed")]


@pytest.mark.case("D7")
def test_a_statement_of_our_own_that_is_refused(shop: Shop) -> None:
    """We do not check beforehand whether the server takes writes, since there may be nothing to write."""
    database = shop.scene.database
    shop.scene.migrated(url=shop.url)
    database.execute("UPDATE migration_lock SET locked_at = now(), locked_by = 'somebody', process_id = 1")
    database.execute(shop.written(f"ALTER ROLE {{login}} {ON}"))
    remedy = shop.refused("unlock", "--force", "--yes")
    assert shop.written(f": ALTER ROLE {{login}} RESET {SETTING}. ") in remedy


@pytest.mark.case("D7")
def test_a_primary_that_becomes_a_standby(
    fresh_server: ServerFactory, migrations_dir: Path, run_entrypoint: Callable[..., Run]
) -> None:
    server = fresh_server()
    scene = Scene(Database(server, "postgres"), migrations_dir, run_entrypoint)
    scene.write({"001_a.sql": "SELECT 1;", "002_b.sql": Gate.PASS})
    with Gate(scene.database) as gate:
        run = scene.start("migrate", DB_CONNECT_ATTEMPTS=20)
        gate.arrival()
        server.stop()
        server.start(standby=True)
        assert run.wait() == 69, run.report()
    error = only_error(run)
    assert error["event"] == "database.read_only"
    assert "Run migrations on the primary" in error["remedy"]
    assert SETTING not in error["remedy"]


OWN_DOING = {
    "its transaction": "SET transaction_read_only = on;\nCREATE TABLE b ();",
    "the session, outside": f"-- entrypoint: no-transaction\n{ON};\nCREATE INDEX CONCURRENTLY i ON a ((1));",
    "the row's transaction": "SELECT set_config('transaction_read_only', 'on', true);",
}


@pytest.mark.case("D7")
@pytest.mark.parametrize("text", OWN_DOING.values(), ids=OWN_DOING.keys())
def test_a_file_that_makes_itself_read_only_fails_like_any_other(shop: Shop, text: str) -> None:
    shop.scene.write({"002_b.sql": text})
    run = shop.scene.migrate(url=shop.url)
    assert run.code == 70, run.report()
    error = only_error(run)
    assert error["sqlstate"] == "25006"
    assert error["message"].startswith("002_b.sql")
    assert "The server accepts writes" in error["remedy"]
    assert "primary" not in error["remedy"]
    assert shop.scene.ledger() == [(1, "completed"), (2, "failed")]


# --- Through a pooler -----------------------------------------------------------------------------------


@pytest.mark.thorough
@pytest.mark.case("D7")
def test_what_a_poolers_session_has_kept(
    database: Database, migrations_dir: Path, run_entrypoint: Callable[..., Run]
) -> None:
    if executable() is None:
        missing("no pgbouncer (Debian's package pgbouncer)")
    scene = Scene(database, migrations_dir, run_entrypoint)
    scene.write({"001_a.sql": "CREATE TABLE a ();"})
    database.execute(f"ALTER DATABASE {database.name} {ON}")
    with pooler(database.server, pool_size=2) as port:
        url = database.url_at(port)
        with psycopg.connect(url, autocommit=True, prepare_threshold=None) as before:
            before.execute("SELECT 1")
        type_in(database.url, f"ALTER DATABASE {database.name} RESET {SETTING}")
        run = scene.migrate(url=url)
        assert run.code == 69, run.report()
        remedy = only_error(run)["remedy"]
        assert f"was on for the database {database.name} when this session began" in remedy
        assert "RECONNECT" in remedy
    with pooler(database.server, pool_size=2) as port:
        url = database.url_at(port)
        with psycopg.connect(url, autocommit=True, prepare_threshold=None) as before:
            before.execute(ON)
        run = scene.migrate(url=url)
        assert run.code == 69, run.report()
        assert "another client of the pooler" in only_error(run)["remedy"]
    scene.migrated()
