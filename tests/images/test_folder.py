"""The self-contained folder: what is in it, and that it runs in images with another glibc.

See test_roots.py for others.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import socketserver
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from psycopg.conninfo import conninfo_to_dict

from benchmarks import stage
from conftest import missing
from demo.postgres import free_port
from images.kit import bases
from kit.databases import Database
from kit.migrations import write_migrations
from kit.processes import command_line, environ, open_fds
from scene import Gate
from test_imports import PYTHONS_BY_SITE, PYTHONS_UP_TO_DATE, UP_TO_DATE
from test_relay_tls import SHOW

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import ServerFactory
    from images.kit.bases import Base
    from images.kit.engine import Engine
    from kit.processes import Run

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "folder.md").read_text()
PROGRAM = "/opt/entrypoint/entrypoint"

# An ordinary application: it listens, ends on SIGTERM, and prints what it sees of its environment.
APPLICATION = """\
const server = require("http").createServer((_, answer) => answer.end(JSON.stringify(process.env)));
server.listen(process.env.PORT, "127.0.0.1", () => console.log(`ready as pid ${process.pid}`));
process.on("SIGTERM", () => process.exit(143));
"""
SECRET = "a-secret-of-ours"
MIGRATIONS = {"001_customers.sql": "CREATE TABLE customers (id integer PRIMARY KEY);\n"}


@pytest.fixture(scope="session")
def node_image(engine: Engine, folder_image: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the name of an application's image, built from the Dockerfile in docs/folder.md, without Python."""
    (dockerfile,) = re.findall(r"```dockerfile\n(FROM node.*?)```", PAGE, re.DOTALL)
    bases.provide(engine, bases.NODE)
    context = tmp_path_factory.mktemp("node")
    (context / "Dockerfile").write_text(dockerfile)
    (context / "server.js").write_text(APPLICATION)
    (context / "migrations").mkdir()
    write_migrations(context / "migrations", MIGRATIONS)
    return engine.build(context, tag="node-application")


def elf_files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and path.read_bytes().startswith(b"\x7fELF")]


def readelf(*arguments: str | Path) -> str:
    return subprocess.run(["readelf", *arguments], capture_output=True, text=True, check=True, timeout=60).stdout


# --- What it is -----------------------------------------------------------------------------------------


def test_it_needs_nothing_but_the_documented_kernel(folder: Path) -> None:
    """The folder has everything its files link to, with the glibc versions that they ask for."""
    files = elf_files(folder)
    own = {path.name: path for path in files}
    assert {"entrypoint", "pgparse.abi3.so", "ld.so", "libc.so.6"} <= own.keys()
    needed, versions = set(), set()
    for path in files:
        needed |= set(re.findall(r"\(NEEDED\).*\[(.*)\]", readelf("--dynamic", path)))
        versions |= set(re.findall(r"Name: (GLIBC_\S+)", readelf("--version-info", path)))
    assert {name for name in needed if not name.startswith("ld-linux")} <= own.keys()
    libraries = [path for path in files if path.parent.name == "glibc"]
    defined = "".join(readelf("--version-info", path).partition("Version needs")[0] for path in libraries)
    assert {"GLIBC_2.2.5" if platform.machine() == "x86_64" else "GLIBC_2.17"} <= versions
    assert versions <= set(re.findall(r"Name: (GLIBC_\S+)", defined))
    (kernel,) = re.findall(r"OS: Linux, ABI: (\d+\.\d+)", readelf("--notes", own["libc.so.6"]))
    assert re.findall(rf"Linux (\d+\.\d+) or later on {platform.machine()}", PAGE) == [kernel]


def test_no_loader_of_the_image_is_asked_for(folder: Path) -> None:
    """The kernel alone starts the program, so the folder may be anywhere."""
    assert "INTERP" not in readelf("--segments", "--wide", folder / "entrypoint")


def test_the_documented_size(folder: Path) -> None:
    """Each line of the table, to the tenth of a megabyte it states, give or take two."""
    table = {name: float(size) for name, size in re.findall(r"^\| `(.*)` \|.*\| (\d+\.\d) \|$", PAGE, re.MULTILINE)}
    (total,) = re.findall(r"\| \*\*total\*\* \|.*\| \*\*(\d+\.\d)\*\* \|", PAGE)
    sizes: dict[str, int] = {}
    for path in folder.rglob("*"):
        if path.is_file():
            sizes[_line_of(path.relative_to(folder), table)] = path.stat().st_size + sizes.get(
                _line_of(path.relative_to(folder), table), 0
            )
    measured = {name: round(size / 1e6, 1) for name, size in sizes.items()}
    assert measured == pytest.approx(table, abs=0.2), measured
    assert sum(sizes.values()) / 1e6 == pytest.approx(float(total), abs=0.5)
    assert sum(sizes.values()) < 45e6


def _line_of(path: Path, table: dict[str, float]) -> str:
    """Return the table's line that a file belongs to: the longest prefix of its path."""
    return max((name for name in table if str(path).startswith(name)), key=len, default="lib/")


def test_nothing_of_the_machine_that_built_it_is_inside(folder: Path) -> None:
    names = {path.name for path in folder.rglob("*")}
    assert not {"certs.pem", "zoneinfo.zip", "pip", "cx_Freeze", "pygments"} & names
    assert not list(folder.rglob("share"))
    assert not [path for path in folder.rglob("libssl*") if path.parent.name != "psycopg_binary.libs"]
    # Every file and folder can be read by any user.
    assert all(path.stat().st_mode & 0o555 in (0o444, 0o555) for path in folder.rglob("*"))


# --- In an application's image --------------------------------------------------------------------------


def test_a_node_application_in_an_image_without_python(engine: Engine, node_image: str, database: Database) -> None:
    assert engine.run("run", "--rm", "--entrypoint=sh", node_image, "-c", "command -v python3", check=False).returncode
    port = free_port()
    # Meant for other programs: none of it may mislead the folder's Python, and all of it must reach the application.
    others = {"PYTHONHOME": "/nowhere", "PYTHONPATH": "/nowhere", "LD_LIBRARY_PATH": "/app/lib", "LC_ALL": "C"}
    settings = {"DATABASE_URL": database.url, "PORT": str(port), **others}
    options = [f"--env={name}={value}" for name, value in settings.items()]
    for outcome in ("migrated", "up_to_date"):
        with engine.start(node_image, options=[*options, "--read-only", "--user=54321:54321"]) as container:
            container.until_output("ready as pid 1")
            assert container.processes() == [container.pid]
            assert command_line(container.pid) == ["node", "server.js"]
            seen = environ(container.pid)
            assert seen["ENTRYPOINT_OUTCOME"] == outcome
            assert seen["ENTRYPOINT_SCHEMA_VERSION"] == "1"
            assert others.items() <= seen.items()
            assert not [name for name in seen if name.startswith(("_PYI", "_MEI", "NUITKA", "PYTHONTZ", "SSL_CERT"))]
            assert not [path for path in open_fds(container.pid).values() if path.startswith("/opt/entrypoint")]
            seconds, code = container.stop()
            assert code == 143
            assert seconds < 2
    assert database.rows("SELECT migration_number, status FROM schema_migrations") == [(1, "completed")]


def test_docker_stop_during_a_migration(
    engine: Engine, node_image: str, database: Database, migrations_dir: Path
) -> None:
    write_migrations(migrations_dir, {"001_slow.sql": f"CREATE TABLE t (i integer);\n{Gate.PASS}\n"})
    options = [f"--env=DATABASE_URL={database.url}", f"--volume={migrations_dir}:/app/migrations:ro"]
    with Gate(database) as gate, engine.start(node_image, options=options) as container:
        gate.arrival()
        assert container.processes() == [container.pid]
        seconds, code = container.stop()
        assert code == 143
        assert seconds < 2
    assert not database.exists("t")


# --- Without an image -----------------------------------------------------------------------------------


@pytest.mark.parametrize("base", [bases.OLDEST, bases.PLAIN, bases.NEWEST], ids=lambda base: base.suite)
def test_on_the_oldest_and_the_newest_glibc(
    engine: Engine, folder: Path, base: Base, database: Database, migrations_dir: Path
) -> None:
    """Everything compiled gets loaded: the first start migrates, with psycopg and the parser."""
    write_migrations(migrations_dir, MIGRATIONS)
    image = bases.provide(engine, base)
    mounts = [f"--volume={folder}:/opt/entrypoint:ro", f"--volume={migrations_dir}:/migrations:ro"]
    start = ["run", "--rm", "--network=host", "--read-only", *mounts, f"--env=DATABASE_URL={database.url}", image]
    for outcome in ("migrated", "up_to_date"):
        done = engine.run(*start, PROGRAM, "run", "--", "sh", "-c", "echo $ENTRYPOINT_OUTCOME $$")
        assert done.stdout == f"{outcome} 1\n", done.stderr
    assert "001_customers.sql" in engine.run(*start, PROGRAM, "status").stdout
    assert engine.run(*start, PROGRAM, "check").returncode == 0


def test_an_up_to_date_start_opens_no_more_than_it_must(
    folder: Path, database: Database, migrations_dir: Path, run_program: Callable[..., Run]
) -> None:
    """Neither psycopg nor the parser, and only those modules of Python that tests/test_imports.py lists."""
    if shutil.which("strace") is None:
        missing("no strace, to see what the folder's program opens")
    write_migrations(migrations_dir, MIGRATIONS)
    environment = {"DATABASE_URL": database.url}
    program = folder / "entrypoint"
    run_program([program, "migrate"], env=environment).ok()
    trace = migrations_dir.parent / "trace"
    command = ["strace", "-f", "-e", "trace=open,openat,execve", "-o", trace, program, "run", "--", "/bin/true"]
    run = run_program(command, env=environment).ok()
    assert run.outcome == "up_to_date"
    before_application = trace.read_text().partition('execve("/bin/true"')[0]
    opened = set(re.findall(rf'"{folder}/lib/([^"]*)", .*\) = \d', before_application))
    modules = {re.split(r"\.(?:pyc|cpython-|so)", path)[0].removesuffix("/__init__") for path in opened}
    modules = {name.replace("/", ".") for name in modules if not name.startswith("psycopg_binary.libs")}
    of_python = PYTHONS_UP_TO_DATE | PYTHONS_BY_SITE
    # Our own modules are in one file.
    packing = {"", "__init__entrypoint", "__main__entrypoint", "entrypoint.start.bundle"}
    modules = {name for name in modules if not name.startswith("glibc.")}
    assert "entrypoint.start.bundle" in modules
    assert not modules & UP_TO_DATE
    assert {name for name in modules if not name.startswith("libffi")} <= of_python | packing
    # Of libpq's libraries none for LDAP and Kerberos, and of glibc's none whose contents are in libc.
    libraries = {path.rpartition("/")[2] for path in opened if ".so" in path}
    assert {"libldap-on-demand.so", "libgssapi_krb5-on-demand.so"} <= libraries
    names = {re.split(r"[-.]", name)[0] for name in libraries if "on-demand" not in name}
    assert {"libpq", "libssl", "libcrypto", "libz", "libffi", "libc", "libm"} <= names
    ldap = {"libldap", "liblber", "libsasl2", "libcrypt"}
    kerberos = {"libgssapi_krb5", "libkrb5", "libk5crypto", "libkrb5support", "libcom_err", "libkeyutils", "libresolv"}
    assert not names & (ldap | kerberos | {"libpthread", "libdl", "libutil", "librt"})


class Directory(socketserver.ThreadingTCPServer):
    """An LDAP server with one entry, whose attribute `connection` has these values. Its messages are short."""

    daemon_threads = True

    def __init__(self, values: list[str]) -> None:
        super().__init__(("127.0.0.1", 0), _Conversation)
        self.values = values


class _Conversation(socketserver.BaseRequestHandler):
    server: Directory

    def handle(self) -> None:
        success = _ber(0x0A, b"\0"), _ber(0x04), _ber(0x04)
        while request := self.request.recv(4096):
            number, operation = _ber(0x02, request[4:5]), request[5]
            if operation == BIND:
                self.request.sendall(_ber(0x30, number, _ber(0x61, *success)))
            if operation == SEARCH:
                values = _ber(0x31, *(_ber(0x04, value.encode()) for value in self.server.values))
                attribute = _ber(0x30, _ber(0x04, b"connection"), values)
                entry = _ber(0x64, _ber(0x04, b"cn=shop"), _ber(0x30, attribute))
                self.request.sendall(_ber(0x30, number, entry) + _ber(0x30, number, _ber(0x65, *success)))


BIND, SEARCH = 0x60, 0x63


def _ber(tag: int, *parts: bytes) -> bytes:
    """Return a value as LDAP writes it: what it is, how long it is, its contents."""
    contents = b"".join(parts)
    short = len(contents) < 128
    return bytes([tag, len(contents)] if short else [tag, 0x82, *len(contents).to_bytes(2, "big")]) + contents


def test_a_service_is_looked_up_in_an_ldap_directory(
    folder: Path, database: Database, migrations_dir: Path, tmp_path: Path, run_program: Callable[..., Run]
) -> None:
    """Libldap is loaded when libpq first calls one of its functions."""
    write_migrations(migrations_dir, MIGRATIONS)
    address = conninfo_to_dict(database.url)
    with Directory([f"{name}={value}" for name, value in address.items()]) as directory:
        threading.Thread(target=directory.serve_forever, daemon=True).start()
        services = tmp_path / "services"
        port = directory.server_address[1]
        services.write_text(f"[shop]\nldap://127.0.0.1:{port}/cn=shop?connection?base?(objectclass=*)\n")
        settings = {"DATABASE_URL": "service=shop", "PGSERVICEFILE": str(services)}
        for outcome in ("migrated", "up_to_date"):
            run = run_program([folder / "entrypoint", "run", "--", "/bin/true"], env=settings).ok()
            assert run.outcome == outcome
        directory.shutdown()


def test_kerberos_is_asked_for_credentials(
    folder: Path, database: Database, migrations_dir: Path, run_program: Callable[..., Run]
) -> None:
    """Libgssapi, too, is loaded when libpq first calls one of its functions."""
    write_migrations(migrations_dir, MIGRATIONS)
    settings = {"DATABASE_URL": database.url, "PGGSSENCMODE": "require", "KRB5CCNAME": "/nowhere"}
    run = run_program([folder / "entrypoint", "migrate"], env=settings)
    assert run.wait() == 69, run.report()
    (record,) = run.logs("database.unavailable")
    assert "GSSAPI encryption required but no credential cache" in record["message"]


def test_a_folder_that_lacks_a_library_for_kerberos(
    folder: Path, database: Database, migrations_dir: Path, tmp_path: Path, run_program: Callable[..., Run]
) -> None:
    write_migrations(migrations_dir, MIGRATIONS)
    copy = shutil.copytree(folder, tmp_path / "folder")
    (library,) = copy.glob("lib/psycopg_binary.libs/libgssapi_krb5-*.so.*")
    library.unlink()
    settings = {"DATABASE_URL": database.url, "PGGSSENCMODE": "require"}
    run = run_program([copy / "entrypoint", "migrate"], env=settings)
    assert run.wait() == 70, run.report()
    assert re.search(rf"entrypoint: cannot load {library.name}: .*\nFix: Copy the whole", run.stderr)


def test_pythons_own_variables_lead_it_nowhere(
    folder: Path, database: Database, run_program: Callable[..., Run]
) -> None:
    """Two of them name Python's path, even to a Python that ignores variables.

    It starts a child as well: the keeper.
    """
    misleading = dict.fromkeys(
        ("PYTHONEXECUTABLE", "__PYVENV_LAUNCHER__", "PYTHONHOME", "PYTHONPATH"), "/nowhere/python3"
    )
    settings = {"DATABASE_URL": database.url, "MIGRATION_COMMAND": "env", **misleading}
    run = run_program([folder / "entrypoint", "run", "--", "env"], env=settings).ok()
    assert run.outcome == "migrated"
    expected = {f"{name}={value}" for name, value in misleading.items()}
    assert expected <= {record["message"] for record in run.logs("command.output")}
    assert expected <= set(run.stdout.splitlines())


def test_too_many_open_files_are_not_an_incomplete_folder(folder: Path, run_program: Callable[..., Run]) -> None:
    run = run_program(["bash", "-c", 'ulimit -n 3 && exec "$0" version', folder / "entrypoint"])
    assert run.wait() == 70, run.report()
    assert "__init__entrypoint.pyc: too many files are open\nFix: Raise the limit on open files" in run.stderr


def test_what_is_not_in_it_is_not_advised_to_be_installed_there(
    folder: Path, database: Database, migrations_dir: Path, run_program: Callable[..., Run]
) -> None:
    """An image with the folder probably has no Python, and the folder takes no packages."""
    write_migrations(migrations_dir, MIGRATIONS)
    for command, advice in (
        (("serve",), "--target full"),
        (("check", "--lint"), "squawk into a directory of the PATH"),
    ):
        run = run_program([folder / "entrypoint", *command], env={"DATABASE_URL": database.url, "PATH": "/nowhere"})
        assert run.wait() == 78, run.report()
        (record,) = run.logs("configuration.invalid")
        assert advice in record["remedy"]
        assert "elf-contained folder" in record["remedy"]


@pytest.mark.parametrize("issued", [False, True], ids=["its own password", "a password by a command"])
def test_another_tool_reaches_a_server_with_tls(
    folder: Path, fresh_server: ServerFactory, run_program: Callable[..., Run], tmp_path: Path, *, issued: bool
) -> None:
    """Over the relay, which encrypts with libpq's OpenSSL. If there is a command, only the relay has the password."""
    certificate = stage._certificate()
    if certificate is None:
        missing("no openssl, to make a certificate")
    authority, key = certificate
    hba = ("hostssl all tool all scram-sha-256", "hostnossl all tool all reject")
    settings = {"ssl": "on", "ssl_cert_file": str(authority), "ssl_key_file": str(key)}
    server = fresh_server(15, settings=settings, hba=hba)
    owner = Database(server, "postgres")
    owner.execute(f"CREATE ROLE tool LOGIN PASSWORD '{SECRET}'")
    owner.execute("GRANT CREATE ON DATABASE postgres TO tool")
    tool = tmp_path / "tool.py"
    # The log masks the password, so let the tool compare it.
    tool.write_text(f"{SHOW}\nprint(os.environ['PGPASSWORD'] == {SECRET!r})\n")
    environ = {"MIGRATION_SCHEMA": "entrypoint", "MIGRATION_COMMAND": f"{sys.executable} {tool}"}
    password = f":{SECRET}"
    if issued:
        password = ""
        environ["DATABASE_PASSWORD_COMMAND"] = f"echo {SECRET}"
    for mode in ("prefer", "require", f"verify-full&sslrootcert={authority}"):
        environ["DATABASE_URL"] = f"postgresql://tool{password}@localhost:{server.port}/postgres?sslmode={mode}"
        run = run_program([folder / "entrypoint", "migrate"], env=environ).ok()
        shown, kept = [record["message"] for record in run.logs("command.output")][-2:]
        assert shown == "shown|True|None|tool"
        assert kept == str(not issued)
        assert not run.logs("command.direct")
        assert SECRET not in run.stdout + run.stderr


# The tests of the suite that start the program and observe it from outside, where the packing could matter: what the
# application inherits, signals, children, tables, the parser.
SUITE = ("handover", "signals", "cli", "status", "backup", "applying", "check")

NOT_FOR_THE_FOLDER = (
    # It uses a PYTHON… variable to say which letters a terminal has, and the folder's Python ignores those.
    "tests/test_status.py::test_the_terminals_locale_may_lack_letters",
    # It uses LD_PRELOAD, which the folder's program leaves to the application.
    "tests/test_handover.py::test_a_signal_between_the_last_look_and_exec_is_not_lost",
)


@pytest.mark.parametrize("name", SUITE)
def test_the_suite_with_the_folders_program(folder: Path, name: str) -> None:
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        *(f"--deselect={test}" for test in NOT_FOR_THE_FOLDER),
        f"tests/test_{name}.py",
    ]
    # The linter is looked up in the PATH, since the folder does not have it.
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "ENTRYPOINT_TEST_PROGRAM": str(folder / "entrypoint")}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=1100, check=False)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert re.search(r"\d+ passed", done.stdout)
