"""No password appears in any output, not even a fragment of it."""

from __future__ import annotations

import itertools
from random import Random
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest
from psycopg.conninfo import conninfo_to_dict

from demo.postgres import HOST, Server, free_port
from entrypoint import redaction, settings
from entrypoint.database import drivers
from entrypoint.database.target import target
from entrypoint.errors import ConfigurationError
from kit.databases import Database
from kit.migrations import write_migrations
from kit.processes import until
from scene import lock_key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from kit.processes import Run

    Start = Callable[..., Run]

# Nothing else contains these, whatever the machine or the directory is called.
FRAGMENTS = ("quokka", "wombat", "numbat")
# If the output showed the whole environment, as a shell's `env` would, the search would be meaningless.
APPLICATION = ("run", "--", "sh", "-c", 'echo "told: $ENTRYPOINT_ERROR"')
QUICK = {"DB_CONNECT_ATTEMPTS": "2", "DB_CONNECT_BACKOFF_MS": "10", "DB_CONNECT_TIMEOUT_MS": "1000"}


def fragments_in(text: str) -> list[str]:
    return [line for line in text.splitlines() if any(fragment in line.lower() for fragment in FRAGMENTS)]


def nothing_in(*runs: Run) -> None:
    for run in runs:
        assert run.stdout + run.stderr, "an output that says nothing gives nothing away, and proves nothing"
        assert fragments_in(run.stdout + run.stderr) == [], run.report()
        assert "Traceback" not in run.stderr


@pytest.fixture
def outputs(run_entrypoint: Start, migrations_dir: Path) -> Callable[[Mapping[str, str]], None]:
    """Return a function that starts everything that connects, and searches its outputs."""

    def check(env: Mapping[str, str], *, fails: bool = True) -> None:
        logging = {"LOG_LEVEL": "debug"}
        application = run_entrypoint(*APPLICATION, env={**QUICK, **logging, "LOG_FORMAT": "json", **env})
        status = run_entrypoint("status", "--json", env={**QUICK, **logging, "LOG_FORMAT": "text", **env})
        application.ok()
        assert (status.wait() != 0) == fails
        nothing_in(application, status)
        assert application.stdout.startswith("told: ")
        assert (application.stdout != "told: \n") == fails

    return check


# --- Addresses ------------------------------------------------------------------------------------------

# As somebody might paste a generated password into a URL.
UNESCAPED = [
    "Quokka@Wombat",
    "Quokka/Wombat",
    "Quokka:Wombat",
    "Quokka#Wombat",
    "Quokka%Wombat",
    "Quokka?Wombat",
    "Quokka&Wombat",
    "Quokka Wombat",
    "Quokka'Wombat",
    'Quokka"Wombat',
    "Quokka\N{EURO SIGN}Wombat",
]


@pytest.mark.sampled(5)
@pytest.mark.parametrize("password", UNESCAPED)
def test_unescaped_characters_in_a_url(outputs: Callable[..., None], password: str) -> None:
    outputs({"DATABASE_URL": f"postgresql://app:{password}@{HOST}:{free_port()}/shop"})


SPECIAL = "@/:#%?& '\"=[],\\"
PAIRS = [f"Quokka{first}Wombat{second}Numbat" for first, second in itertools.product(SPECIAL, repeat=2)]
# What follows the second character may even look like what belongs there.
CUNNING = [
    "Quokka?user=Wombat",
    "Quokka?sslmode=Wombat/",
    "Quokka/Wombat?host=Numbat",
    "Quokka?host=Wombat/Numbat@",
    "@Quokka",
    "Quokka@",
    "Quokka@Wombat:5432/Numbat",
    "?Quokka@Wombat",
    "/Quokka?user=Wombat&port=Numbat",
    "#Quokka?dbname=Wombat@Numbat",
]
ADDRESSES = [
    "postgresql://app:{password}@127.0.0.1:5432/shop",
    "postgres://app:{password}@127.0.0.1/shop?sslmode=disable",
    "host=127.0.0.1 user=app password={password} dbname=shop",
    "host=127.0.0.1 user=app password='{password}' dbname=shop",
    "host=127.0.0.1 user=app password='{password} dbname=shop",
    "postgresql://127.0.0.1/shop?user=app&password={password}",
    "postgresql://127.0.0.1?user=app&password={password}",
    "app:{password}@127.0.0.1/shop",
    "mysql://app:{password}@127.0.0.1/shop",
    "postgresql+asyncpg://app:{password}@127.0.0.1/shop?ssl=require",
    "postgresql+psycopg2://app:{password}@/shop?host=127.0.0.1:5432",
    "postgresql://app:{password}@127.0.0.1/shop?schema=public&connection_limit=5",
    "jdbc:postgresql://127.0.0.1/shop?user=app&password={password}",
    "jdbc:postgresql://127.0.0.1/shop?password={password}&user=app&currentSchema=shop",
    "jdbc:postgresql:shop?user=app&password={password}",
    "jdbc:postgresql://app:{password}@127.0.0.1/shop",
    "postgis://127.0.0.1/shop?user=app&pass%77ord={password}",
    "host=127.0.0.1 user=app password={password} dbname=shop pool_max_conns=5",
    "host=127.0.0.1 user=app password='{password}' dbname=shop search_path=shop",
]


@pytest.mark.sampled(3)
@pytest.mark.parametrize("address", ADDRESSES)
def test_every_pair_of_special_characters(address: str) -> None:
    """A refusal does not repeat the address. An accepted address has the password in no other field.

    libpq and the resolver quote hosts, ports, users and databases in their errors.
    """
    leaks = []
    for password in [*PAIRS, *CUNNING]:
        configured = address.format(password=password)
        redactor = redaction.Redactor(settings.read_secrets({"DATABASE_URL": configured}))
        try:
            accepted = conninfo_to_dict(target(configured, "DATABASE_URL", "token").conninfo)
        except ConfigurationError as error:
            said = f"{error.message} {error.remedy} {error.fields}"
        else:
            said = " ".join(f"{name}={value}" for name, value in accepted.items() if name != "password")
            # What libpq took for the password is known to be one, in case anything repeats it.
            said += f" ({accepted.get('password', '')})"
        if fragments_in(redactor.text(said)):
            leaks.append(f"{configured}  gave  {redactor.text(said)}")
    assert not leaks, f"{len(leaks)} of {len(PAIRS) + len(CUNNING)}:\n" + "\n".join(leaks[:20])


PIECES = "ab@/:#%?&+ '\"=[],\\;.{}$<>\n\t\x01\N{EURO SIGN}"
AT_RANDOM = [
    "{scheme}://u:{password}@{host}/d?{query}",
    "{scheme}://{host}/d?user=u&password={password}&{query}",
    "{scheme}://{host}?password={password}&{query}",
    "jdbc:postgresql:d?password={password}&{query}",
    "host=h password={password} {query}",
]


@pytest.mark.thorough
@pytest.mark.parametrize("seed", range(6))
def test_other_drivers_addresses_at_random(seed: int) -> None:
    random = Random(seed)
    schemes = [*drivers.SCHEMES, "postgresql+psycopg", "jdbc:mysql", "x"]
    names = [*drivers.PARAMETERS, "sslmode", "host", "port", "options", "sslcert", "nope", "PASSWORD"]
    hosts = ["h", "h:1", "[::1]", "a,b", ""]
    leaks = []
    for _ in range(2000):

        def word(most: int) -> str:
            return "".join(random.choices([*PIECES, "%41", "%00", "%b0", "%zz"], k=random.randrange(most)))

        query = "&".join(f"{random.choice(names)}={random.choice([word(6), 'true', 'a', '/x'])}" for _ in range(2))
        password = f"{word(4)}Quokka{word(6)}"
        configured = random.choice(AT_RANDOM).format(
            scheme=random.choice(schemes),
            password=password,
            host=random.choice(hosts),
            query=query,
        )
        redactor = redaction.Redactor(settings.read_secrets({"DATABASE_URL": configured}))
        try:
            accepted = conninfo_to_dict(target(configured, "DATABASE_URL", "token").conninfo)
        except ConfigurationError as error:
            said = f"{error.message} {error.remedy} {error.fields}"
        else:
            said = redactor.text(" ".join(f"{name}={value}" for name, value in accepted.items() if name != "password"))
        if fragments_in(said):
            leaks.append(f"{configured!r}  gave  {said}")
    assert not leaks, "\n".join(leaks[:20])


@pytest.mark.sampled(7)
@pytest.mark.parametrize(
    "address",
    [
        "postgresql://app:{quoted}@{host}:{port}/shop",
        "postgresql://{host}:{port}/shop?user=app&password={quoted}",
        "postgresql://app:{quoted}@no-such-host.invalid/shop",
        "host={host} port={port} user=app password='Quokka Wombat' dbname=shop",
        "host={host} port={port} user=app password=Quokka\\ Wombat dbname=shop",
        "host={host} port={port} user=app password = 'Quo\\'kka' dbname=shop",
        "host={host} port={port} user=app password=Quokka Wombat dbname=shop",
        "host={host} port={port} user=app password='Quokka Wombat dbname=shop",
        "host={host} port={port} user=app password='Quokka'Wombat dbname=shop",
        "postgresql://app:{quoted}@{host}:no-port/shop",
        "postgresql://app:{quoted}@{host}/shop?no_such_option=1",
        "postgresql://app:{quoted}@[::1/shop",
    ],
)
def test_addresses_of_every_spelling(outputs: Callable[..., None], address: str) -> None:
    configured = address.format(quoted=quote("Quokka@Wombat", safe=""), host=HOST, port=free_port())
    outputs({"DATABASE_URL": configured})


def test_an_address_in_a_file(outputs: Callable[..., None], tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text(f"postgresql://app:Quokka@{HOST}:{free_port()}/shop\n")
    outputs({"DATABASE_URL_FILE": str(secret)})
    outputs({"MIGRATION_DATABASE_URL_FILE": str(secret), "DATABASE_URL": "postgresql://app@127.0.0.1/x"})
    secret.write_text(f"postgresql://app:Quokka@{HOST}/shop\nWombat\n")
    outputs({"DATABASE_URL_FILE": str(secret)})


def test_the_address_where_the_name_of_a_file_belongs(outputs: Callable[..., None]) -> None:
    outputs({"DATABASE_URL_FILE": f"postgresql://app:Quokka@{HOST}:{free_port()}/shop"})


def test_the_address_on_the_command_line(run_entrypoint: Start) -> None:
    address = f"postgresql://app:Quokka@{HOST}/shop"
    for arguments in (("migrate", address), ("status", f"--url={address}"), ("migrate", "--to", address), (address,)):
        run = run_entrypoint(*arguments)
        assert run.wait() == 64
        nothing_in(run)


def test_a_password_on_the_command_line(run_entrypoint: Start, migrations_dir: Path) -> None:
    """Wherever it was put by mistake, and in whatever form. No file gets a name made from it, either."""
    address = f"postgresql://app:Quokka@{HOST}/shop"
    for arguments, code in (
        (("adopt", "--from", address), 64),
        (("import", "--from", address, "."), 64),
        (("backup", "--dir", address), 70),
        (("new", address), 64),
        (("new", f"app:Quokka@{HOST}/shop"), 64),
        (("new", f"host={HOST} password=Quokka"), 64),
        (("status", f"app:Quokka@{HOST}/shop"), 64),
        (("status", "STATUS_TOKEN=Quokka"), 64),
        (("status", "PGPASSWORD=Quokka"), 64),
        (("status", "-pQuokka"), 64),
        (("status", "--pass:Quokka"), 64),
    ):
        run = run_entrypoint(*arguments, env={"DATABASE_URL": f"postgresql://{HOST}:{free_port()}/shop"})
        assert run.wait() == code, run.report()
        nothing_in(run)
    assert list(migrations_dir.iterdir()) == []


@pytest.mark.thorough
def test_both_addresses_are_kept_secret(outputs: Callable[..., None]) -> None:
    port = free_port()
    outputs(
        {
            "DATABASE_URL": f"postgresql://app:Quokka@{HOST}:{port}/shop",
            "MIGRATION_DATABASE_URL": f"postgresql://owner:Wombat@{HOST}:{port}/shop",
        }
    )


# --- Logins ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def strict_server() -> Iterator[Server]:
    """Yield a server that requires the password of the role `app`."""
    with Server(hba=["host all app 127.0.0.1/32 scram-sha-256"]) as server:
        with server.connect() as connection:
            connection.execute("CREATE ROLE app LOGIN CREATEROLE PASSWORD 'Quokka-Wombat'")
            connection.execute("GRANT CREATE ON SCHEMA public TO app")
        yield server


def test_a_wrong_password(outputs: Callable[..., None], strict_server: Server) -> None:
    url = strict_server.url(user="app", password="Numbat")
    outputs({"DATABASE_URL": url})
    outputs({"PGHOST": HOST, "PGPORT": str(strict_server.port), "PGUSER": "app", "PGPASSWORD": "Numbat"})


def test_a_right_password(
    outputs: Callable[..., None], strict_server: Server, run_entrypoint: Start, migrations_dir: Path
) -> None:
    """Neither in the log nor in what the server shows about our sessions."""
    url = strict_server.url(user="app", password="Quokka-Wombat")
    outputs({"DATABASE_URL": url}, fails=False)

    database = Database(strict_server, "postgres")
    write_migrations(migrations_dir, {"001_thing.sql": "CREATE TABLE thing ();"})
    with database.connect() as holder:
        holder.execute(f"SELECT pg_advisory_lock({lock_key()})")
        run = run_entrypoint("migrate", env={"DATABASE_URL": url, "LOG_LEVEL": "debug"})
        run.until("lock.waiting")
        shown = "SELECT a::text FROM pg_stat_activity a WHERE usename = 'app'"
        sessions = until(lambda: database.rows(shown), 5, "our session")
    run.ok()
    nothing_in(run)
    assert "entrypoint:" in str(sessions)
    assert fragments_in(str(sessions)) == []
    assert fragments_in(str(database.rows("SELECT s::text FROM schema_migrations s"))) == []


def test_an_option_that_the_server_refuses(outputs: Callable[..., None], strict_server: Server) -> None:
    url = strict_server.url(user="app", password="Quokka-Wombat", options="-c no_such_setting=1")
    outputs({"DATABASE_URL": url})


# --- Passwords in migrations ----------------------------------------------------------------------------

LONG = "SELECT 'a long line', " * 6
IN_SQL = {
    "plain": "ALTER ROLE no_such_role PASSWORD 'Quokka''Wombat';",
    "encrypted": "ALTER ROLE no_such_role WITH ENCRYPTED PASSWORD 'Quokka Wombat' VALID UNTIL 'never';",
    "lower": "create role pg_reserved login password 'Quokka';",
    "escape": "ALTER ROLE no_such_role PASSWORD E'Quokka\\'Wombat';",
    "unicode": "ALTER ROLE no_such_role PASSWORD U&'Quokka!0057ombat' UESCAPE '!';",
    "dollar": "ALTER ROLE no_such_role PASSWORD $$Quokka$$;",
    "tagged-dollar": "ALTER ROLE no_such_role PASSWORD $x$Quokka'Wombat$x$;",
    "next-line": "ALTER ROLE no_such_role PASSWORD\n    'Quokka' NONSENSE;",
    "two-lines-later": "ALTER ROLE no_such_role PASSWORD -- a comment\n\n    'Quokka' NONSENSE;",
    "comment": "ALTER ROLE no_such_role PASSWORD /* for now */ 'Quokka' NONSENSE;",
    "equals": "ALTER ROLE no_such_role PASSWORD = 'Quokka';",
    "unquoted": "ALTER ROLE no_such_role PASSWORD Quokka;",
    "double-quoted": 'ALTER ROLE no_such_role PASSWORD "Quokka";',
    "unterminated": "ALTER ROLE no_such_role PASSWORD 'Quokka;\nSELECT 1;",
    "long-line": f"{LONG} 1; ALTER ROLE no_such_role PASSWORD '{'x' * 80}Quokka{'x' * 60}Wombat' NONSENSE;",
    "do-block": "DO $$ BEGIN EXECUTE 'ALTER ROLE no_such_role PASSWORD ''Quokka'''; END $$;",
    "do-block-with-format": "DO $$ BEGIN EXECUTE format('ALTER ROLE %I PASSWORD %L', 'no_such', 'Quokka'); END $$;",
    "do-block-nonsense": "DO $$ BEGIN EXECUTE 'ALTER ROLE no_such_role PASSWORD ''Quokka'' NONSENSE'; END $$;",
    "do-block-inline": "DO $$ BEGIN ALTER ROLE no_such_role PASSWORD 'Quokka'; END $$;",
    "user-mapping": "CREATE USER MAPPING FOR public SERVER no_such OPTIONS (user 'x', password 'Quokka');",
    "subscription": "CREATE SUBSCRIPTION s CONNECTION 'host=h user=u password=Quokka' PUBLICATION p nonsense;",
    "subscription-file": "CREATE SUBSCRIPTION s CONNECTION 'host=h sslpassword=Quokka' PUBLICATION p nonsense;",
    "conninfo-with-blanks": "SELECT 'host=h password = Quokka'::int;",
    "conninfo-with-quotes": "SELECT 'host=h password = ''Quokka Wombat'' '::int;",
    "conninfo-in-a-notice": "DO $$ BEGIN RAISE NOTICE 'host=h password = Quokka'; PERFORM 1 / 0; END $$;",
    "url-in-pieces": "SELECT ('postgresql://u:' || 'Quokka' || '@h/d')::int;",
    "url-with-a-line-end": "SELECT E'postgresql://u:Quokka\\n@h/d'::int;",
    "json": 'SELECT \'{"password": "Quokka"}\'::int;',
    "yaml": "SELECT 'password: Quokka'::int;",
    "setting": "SELECT set_config('app.password', 'Quokka', false)::int;",
    "subscription-url": "CREATE SUBSCRIPTION s CONNECTION 'postgresql://u:Quokka@h/d' PUBLICATION p nonsense;",
}


@pytest.mark.sampled(19)
@pytest.mark.parametrize("name", IN_SQL)
def test_a_password_in_a_migration_that_fails(
    run_entrypoint: Start, database: Database, migrations_dir: Path, name: str
) -> None:
    write_migrations(migrations_dir, {"001_role.sql": IN_SQL[name]})
    run = run_entrypoint(*APPLICATION, env={"DATABASE_URL": database.url, "LOG_LEVEL": "debug"}).ok()
    assert "001_role.sql" in run.stdout, run.report()
    leaks = fragments_in(run.stdout + run.stderr)
    if database.exists("schema_migrations"):  # unless it was refused before anything ran
        leaks += fragments_in(database.one("SELECT error_message FROM schema_migrations"))
    assert leaks == []


@pytest.mark.thorough
@pytest.mark.parametrize("style", ["json", "text"])
def test_a_password_in_a_migration_that_failed_before(
    run_entrypoint: Start, database: Database, migrations_dir: Path, style: str
) -> None:
    write_migrations(migrations_dir, {"001_role.sql": IN_SQL["plain"]})
    environment = {"DATABASE_URL": database.url, "LOG_LEVEL": "debug", "LOG_FORMAT": style}
    for command in (APPLICATION, APPLICATION, ("migrate",), ("migrate", "--dry-run")):
        run = run_entrypoint(*command, env=environment)
        run.wait()
        nothing_in(run)
    for command in (("status",), ("status", "--json")):
        run = run_entrypoint(*command, env=environment).ok()
        assert "no_such_role" in run.stdout
        nothing_in(run)


def test_the_configured_password_in_a_migration(
    run_entrypoint: Start, strict_server: Server, database: Database, migrations_dir: Path
) -> None:
    """It is known, so it is found wherever it turns up: here in a notice, an error and the error's detail."""
    write_migrations(
        migrations_dir,
        {
            "001_talkative.sql": "DO $$ BEGIN RAISE NOTICE 'Quokka-Wombat'; RAISE EXCEPTION 'with Quokka-Wombat' "
            "USING DETAIL = 'Quokka-Wombat', HINT = 'or: Quokka-Wombat'; END $$;"
        },
    )
    url = database.url.replace("postgres@", "postgres:Quokka-Wombat@")
    run = run_entrypoint(*APPLICATION, env={"DATABASE_URL": url, "LOG_LEVEL": "debug"}).ok()
    nothing_in(run)
    assert "***" in run.stdout
    assert fragments_in(database.one("SELECT error_message FROM schema_migrations")) == []


@pytest.mark.parametrize("where", ["the service", "a password file of the service's"])
def test_a_password_that_only_libpq_finds(
    run_entrypoint: Start, database: Database, migrations_dir: Path, tmp_path: Path, where: str
) -> None:
    """In the system's service file, or in a password file that a service names: we know what libpq used."""
    write_migrations(migrations_dir, {"001_talkative.sql": "DO $$ BEGIN RAISE NOTICE 'Quokka-Wombat'; END $$;"})
    passfile = tmp_path / "passfile"
    passfile.write_text("*:*:*:*:Quokka-Wombat\n")
    passfile.chmod(0o600)
    found = "password=Quokka-Wombat" if where == "the service" else f"passfile={passfile}"
    server = database.server
    service = f"[shop]\nhost={HOST}\nport={server.port}\ndbname={database.name}\nuser=postgres\n{found}\n"
    (tmp_path / "pg_service.conf").write_text(service)
    run = run_entrypoint("migrate", env={"PGSYSCONFDIR": str(tmp_path), "PGSERVICE": "shop"}).ok()
    nothing_in(run)
    assert "NOTICE: ***" in run.stderr


def test_a_password_in_bad_files(run_entrypoint: Start, migrations_dir: Path) -> None:
    """What `check` and a refused start quote from a file."""
    write_migrations(
        migrations_dir,
        {
            "001_role.sql": "ALTER ROLE x PASSWORD 'Quokka' NONSENSE;",
            "002_commit.sql": "ALTER ROLE x PASSWORD 'Quokka'; COMMIT; ALTER ROLE x PASSWORD 'Wombat';",
        },
    )
    run = run_entrypoint("check")
    assert run.wait() == 65
    nothing_in(run)


@pytest.mark.thorough
def test_a_password_that_is_an_ordinary_word_does_not_spoil_the_log(
    run_entrypoint: Start, strict_server: Server, migrations_dir: Path
) -> None:
    """`cause` is from a fixed list: programs read it, and masking it would even give the password away."""
    url = strict_server.url(user="app", password="wrong")
    run = run_entrypoint(*APPLICATION, env={**QUICK, "DATABASE_URL": url}).ok()
    (record,) = run.logs("database.unavailable")
    assert record["cause"] == "wrong_password"
    assert record["message"].startswith("Database connection failed after 2 attempts: ")
