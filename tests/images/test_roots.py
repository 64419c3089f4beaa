"""The self-contained folder in roots without glibc: with another one, with musl, with nothing; and what it finds there.

Each application is started twice: by the program, and without it. What it prints may differ only where
docs/environment.md says so.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import socket
import stat
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from benchmarks import stage
from conftest import missing
from images.kit import bases
from kit.databases import Database
from kit.migrations import write_migrations
from kit.processes import command_line, environ
from scene import Gate
from test_addresses import FIPS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import Self

    from conftest import ServerFactory
    from images.kit.engine import Engine
    from kit.processes import Run

PROGRAMS = Path(__file__).parent / "programs"
MIGRATIONS = {"001_customers.sql": "CREATE TABLE customers (id integer PRIMARY KEY);\n"}

# For the application's loader, which may understand it. None of it may reach the program's own loader.
FOR_A_LOADER = {
    "LD_PRELOAD": "/no/such/library.so",
    "LD_LIBRARY_PATH": "/no/such/directory",
    "LD_AUDIT": "/no/such/auditor.so",
    "LD_DEBUG": "all",
    "GLIBC_TUNABLES": "glibc.malloc.check=3",
    "LC_ALL": "de_DE.UTF-8",
}

MUSL = f"/usr/lib/{platform.machine()}-linux-musl/libc.so"


class Told(NamedTuple):
    """What tests/images/programs/tell.c printed."""

    command: list[str]
    environment: list[str]
    maps: str

    @classmethod
    def of(cls, output: str) -> Self:
        command, environment, maps, end = output.split("\n---\n")
        assert end == ""
        return cls(command.split("\0"), environment.split("\0"), maps)


@pytest.fixture(scope="session")
def applications(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with the application, for musl and static."""
    compiler = shutil.which("musl-gcc")
    if compiler is None:
        missing("no musl-gcc (Debian: musl-tools), for an application without glibc")
    directory = tmp_path_factory.mktemp("applications")
    for name, options in (("musl", ()), ("static", ("-static",))):
        command = [compiler, "-O1", *options, str(PROGRAMS / "tell.c"), "-o", str(directory / name)]
        subprocess.run(command, check=True, timeout=60)
    return directory


@pytest.fixture(scope="session", params=["another", "musl", "nothing"])
def application_image(
    request: pytest.FixtureRequest, engine: Engine, folder_image: str, applications: Path
) -> tuple[str, str]:
    """Return an image with the folder and an application, built from a Dockerfile, and the kind of its root."""
    kind: str = request.param
    base = {"another": bases.OLDEST, "musl": bases.ALPINE}.get(kind)
    if base is not None:
        bases.provide(engine, base)
    context = applications.parent / f"context-{kind}"
    context.mkdir()
    shutil.copy(applications / ("musl" if kind == "musl" else "static"), context / "app")
    (context / "Dockerfile").write_text(
        f"FROM {base.name if base else 'scratch'}\n"
        f"COPY --from={folder_image} /opt/entrypoint /opt/entrypoint\n"
        "COPY app /app\n"
        'ENTRYPOINT ["/opt/entrypoint/entrypoint", "run", "--"]\n'
        'CMD ["/app", "an argument"]\n'
    )
    return engine.build(context, tag=f"pg-entrypoint-tests/in-{kind}"), kind


def test_the_application_finds_nothing_of_us(
    engine: Engine, application_image: tuple[str, str], database: Database, migrations_dir: Path
) -> None:
    """Starting with an empty database. It sees its own loader and its environment, plus what we promise."""
    image, kind = application_image
    write_migrations(migrations_dir, MIGRATIONS)
    options = [f"--volume={migrations_dir}:/migrations:ro", "--read-only", "--network=host"]
    options += ["--user=54321:54321"]  # A user that does not exist there.
    options += [f"--env={name}={value}" for name, value in {**FOR_A_LOADER, "DATABASE_URL": database.url}.items()]
    alone = Told.of(engine.run("run", "--rm", *options, "--entrypoint=/app", image, "an argument").stdout)
    for outcome in ("migrated", "up_to_date"):
        done = engine.run("run", "--rm", *options, image)
        told = Told.of(done.stdout)
        assert told.command == ["/app", "an argument", ""]
        assert told.environment[-3:] == [f"ENTRYPOINT_OUTCOME={outcome}", "ENTRYPOINT_SCHEMA_VERSION=1", ""]
        # The engine does not keep an order; see below for that.
        assert sorted(told.environment[:-3]) == sorted(alone.environment[:-1])
        assert mapped(told) == mapped(alone)
        assert mapped(told) == ({"/app", MUSL} if kind == "musl" else {"/app"})
    assert database.rows("SELECT migration_number, status FROM schema_migrations") == [(1, "completed")]


def mapped(told: Told) -> set[str]:
    """Return the files in an application's memory."""
    return {line.split()[-1] for line in told.maps.splitlines() if "/" in line}


# --- In a root directory that we create -----------------------------------------------------------------


class Root:
    """A root directory with the folder, an application and migrations in it, and nothing else."""

    def __init__(self, place: Path, folder: Path, application: Path, at: str = "opt/entrypoint") -> None:
        self.place = place
        self.program = f"/{at}/entrypoint"
        shutil.copytree(folder, place / at, symlinks=True)
        shutil.copy(application, place / "app")
        for directory in ("proc", "etc", "tmp", "migrations"):
            (place / directory).mkdir()
        write_migrations(place / "migrations", MIGRATIONS)

    def write(self, path: str, text: str | bytes) -> None:
        file = self.place / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(text if isinstance(text, bytes) else text.encode())

    def run(
        self, *command: str, env: Mapping[str, str] | None = None, proc: bool = True, user: int = 0
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in it, with this environment and no other."""
        into = ["unshare", "--mount-proc", f"--root={self.place}"] if proc else ["chroot", str(self.place)]
        if user:
            into[1:1] = [f"--setgid={user}", f"--setuid={user}"] if proc else [f"--userspec={user}:{user}"]
        return subprocess.run(
            [shutil.which(into[0]) or into[0], *into[1:], *command],
            env=env or {},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )


@pytest.fixture
def root(folder: Path, applications: Path, tmp_path: Path) -> Iterator[Root]:
    """Return a root with a static application: FROM scratch."""
    place = tmp_path / "root"
    yield Root(place, folder, applications / "static")
    shutil.rmtree(place)


def test_its_environment_to_the_byte(root: Root, database: Database) -> None:
    environment = {"Z": "1", **FOR_A_LOADER, "A": "", "DATABASE_URL": database.url, "B": "\u00fc = \n"}
    alone = Told.of(root.run("/app", env=environment).stdout)
    assert [f"{name}={value}" for name, value in environment.items()] == alone.environment[:-1]
    for outcome in ("migrated", "up_to_date"):
        done = root.run(root.program, "run", "--", "/app", env=environment)
        told = Told.of(done.stdout)
        ours = [f"ENTRYPOINT_OUTCOME={outcome}", "ENTRYPOINT_SCHEMA_VERSION=1", ""]
        assert told.environment == alone.environment[:-1] + ours
        assert mapped(told) == {"/app"}


@pytest.mark.parametrize("proc", [True, False], ids=["with /proc", "without /proc"])
def test_the_folder_may_be_anywhere(
    folder: Path, applications: Path, tmp_path: Path, database: Database, *, proc: bool
) -> None:
    """It is found by its path, which may be relative, by a link, and by a name in the PATH."""
    root = Root(tmp_path / "root", folder, applications / "static", at="some where/\u00fcber/all")
    (root.place / "bin").mkdir()
    (root.place / "bin" / "migrator").symlink_to("../linked")
    (root.place / "linked").symlink_to("some where/\u00fcber/all/entrypoint")
    environment = {"DATABASE_URL": database.url, "PATH": "/bin"}
    assert root.run(root.program, "migrate", env=environment, proc=proc).returncode == 0
    # There is no env(1) to look in the PATH; we do that for an application.
    through_the_path = [root.program, "run", "--", "migrator"]
    for name in ([root.program], ["/linked"], ["/bin/migrator"], ["./linked"], ["." + root.program], through_the_path):
        # Relative paths begin at the root directory, where they are started.
        done = root.run(*name, "version", env=environment, proc=proc)
        assert (done.returncode, done.stdout) == (0, "1\n"), (name, done)
    shutil.rmtree(root.place)


# What start.c looks for itself.
NEEDED = (
    *("lib/glibc/ld.so", "lib/glibc/libc.so.6", "lib/glibc/libm.so.6"),
    *("lib/__init__entrypoint.pyc", "lib/entrypoint/start.bundle"),
)


@pytest.mark.parametrize("path", NEEDED)
def test_a_folder_that_lacks_a_file(root: Root, path: str) -> None:
    (root.place / "opt/entrypoint" / path).unlink()
    done = root.run(root.program, "version")
    assert done.returncode == 70
    expected = f"cannot load /opt/entrypoint/{path}: No such file or directory\nFix: Copy the whole"
    assert expected in done.stderr


@pytest.mark.parametrize("length", [0, 100, 5000, 100_000])
def test_a_folder_whose_loader_is_damaged(root: Root, length: int) -> None:
    os.truncate(root.place / "opt/entrypoint/lib/glibc/ld.so", length)
    done = root.run(root.program, "version")
    assert done.returncode == 70
    assert "cannot load /opt/entrypoint/lib/glibc/ld.so: it is damaged\nFix: Copy the whole" in done.stderr


@pytest.mark.parametrize("path", [*NEEDED, "lib"])
def test_a_folder_that_its_user_may_not_read(root: Root, path: str) -> None:
    """As with COPY --chmod=600: the advice is about modes, not about copying it again."""
    (root.place / "opt/entrypoint" / path).chmod(0o600)
    done = root.run(root.program, "version", user=54321)
    assert done.returncode == 70
    expected = r"entrypoint: cannot load /opt/entrypoint/lib/\S+: Permission denied\nFix: Make the whole folder"
    assert re.match(expected, done.stderr)


AWKWARD = {
    "c:d": "a colon (:)",
    "c;d": "a semicolon (;)",
    "$ORIGIN": "a $",
    "a/b$LIB/c": "a $",
    "${PLATFORM}x": "a $",
    # These stand for themselves.
    "$HOME": "",
    "$LIBS": "",
    "a$": "",
    "${LIB": "",
    "%s '\"\\n": "",
}


@pytest.mark.parametrize("at", AWKWARD)
def test_a_path_that_the_loader_would_take_for_something_else(
    folder: Path, applications: Path, tmp_path: Path, database: Database, at: str
) -> None:
    root = Root(tmp_path / "root", folder, applications / "static", at=at)
    for proc in (True, False):
        done = root.run(root.program, "version", env={"DATABASE_URL": database.url}, proc=proc)
        if AWKWARD[at]:
            assert done.returncode == 70
            assert f"cannot start from /{at}: there is {AWKWARD[at]} in its path" in done.stderr
            assert "\nFix: Move the pg-entrypoint folder elsewhere" in done.stderr
        else:
            assert (done.returncode, done.stdout) == (0, "0\n"), done
    shutil.rmtree(root.place)


@pytest.mark.parametrize("by", ["set-group-ID", "capabilities of the file"])
@pytest.mark.parametrize("proc", [True, False], ids=["with /proc", "without /proc"])
def test_in_secure_execution(root: Root, database: Database, by: str, *, proc: bool) -> None:
    """AT_SECURE: the program has privileges that its caller does not have. SELinux and AppArmor can set it as well."""
    program = root.place / "opt/entrypoint/entrypoint"
    if by == "set-group-ID":
        os.chown(program, 0, 4712)
        program.chmod(0o2755)
    else:
        setcap = shutil.which("setcap", path=f"{os.environ['PATH']}:/usr/sbin")
        if setcap is None:
            missing("no setcap (Debian: libcap2-bin)")
        subprocess.run([setcap, "cap_net_bind_service+ep", program], check=True, timeout=60)
    environment = {"Z": "1", **FOR_A_LOADER, "DATABASE_URL": database.url}
    for outcome in ("migrated", "up_to_date"):
        done = root.run(root.program, "run", "--", "/app", env=environment, user=4711, proc=proc)
        assert done.returncode == 0, done
        ours = [f"ENTRYPOINT_OUTCOME={outcome}", "ENTRYPOINT_SCHEMA_VERSION=1", ""]
        expected = [f"{name}={value}" for name, value in environment.items()] + ours
        # If the application may not read /proc/self/environ, it cannot tell.
        assert Told.of(done.stdout).environment == (expected if proc and by != "set-group-ID" else [""])
    assert database.rows("SELECT migration_number, status FROM schema_migrations") == [(1, "completed")]


def test_whatever_it_is_called(folder: Path, database: Database, tmp_path: Path) -> None:
    """Python finds its modules by its first argument, which anybody may choose."""
    program = str(folder / "entrypoint")

    def version(*command: str, cwd: Path | None = None) -> str:
        environment = {"DATABASE_URL": database.url, "MIGRATIONS_DIR": str(tmp_path)}
        done = subprocess.run(
            command, env=environment, cwd=cwd, capture_output=True, text=True, timeout=60, check=False
        )
        return done.stdout if done.returncode == 0 else f"{done.returncode}: {done.stderr}"

    for called in ("", "node", "-", "/usr/bin/python3", "no/such/path", "../gone"):
        assert version("bash", "-c", 'exec -a "$0" "$@"', called, program, "version") == "0\n", called
    # As fexecve(3) starts it: by a descriptor.
    by_descriptor = "import os, sys; os.execve(os.open(sys.argv[1], os.O_RDONLY), ['it', 'version'], os.environ)"
    assert version(sys.executable, "-c", by_descriptor, program) == "0\n"
    # By the name of a link, without a PATH to look it up in.
    (tmp_path / "migrator").symlink_to(program)
    assert version("bash", "-c", 'unset PATH; exec -a migrator "$0" version', str(tmp_path / "migrator")) == "0\n"
    # By a relative path, from a working directory that no longer exists.
    gone = tmp_path / "gone"
    gone.mkdir()
    from_nowhere = "import os, sys; os.rmdir(os.getcwd()); os.execv(sys.argv[1], [sys.argv[1], 'version'])"
    relative = os.path.relpath(program, gone.resolve())
    assert version(sys.executable, "-c", from_nowhere, relative, cwd=gone) == "0\n"


def test_what_ps_shows_is_what_it_was_called(
    folder: Path, database: Database, migrations_dir: Path, run_program: Callable[..., Run]
) -> None:
    write_migrations(migrations_dir, {"001_slow.sql": f"{Gate.PASS}\n"})
    with Gate(database) as gate:
        command = ["bash", "-c", 'exec -a migrator "$0" migrate', folder / "entrypoint"]
        run = run_program(command, env={"DATABASE_URL": database.url})
        gate.arrival()
        assert command_line(run.pid) == ["migrator", "migrate"]
        gate.open()
        run.ok()


def test_the_process_is_the_program_itself(
    folder: Path, database: Database, migrations_dir: Path, run_program: Callable[..., Run]
) -> None:
    """For ps, for /proc, and for whoever ends it by name while a migration runs. None of its libraries is ours."""
    write_migrations(migrations_dir, {"001_slow.sql": f"{Gate.PASS}\n"})
    program = folder / "entrypoint"
    environment = {"DATABASE_URL": database.url, "LD_LIBRARY_PATH": "/usr/lib", "LD_PRELOAD": "/no/such/library.so"}
    with Gate(database) as gate:
        run = run_program([program, "migrate"], env=environment)
        gate.arrival()
        process = Path("/proc", str(run.pid))
        assert command_line(run.pid) == [str(program), "migrate"]
        assert (process / "comm").read_text() == "entrypoint\n"
        assert (process / "exe").readlink() == program
        assert environ(run.pid).items() >= environment.items()
        files = {line.split(None, 5)[5] for line in (process / "maps").read_text().splitlines() if "/" in line}
        assert {path for path in files if not path.startswith(f"{folder}/")} == set()
        assert str(folder / "lib/glibc/libc.so.6") in files
        gate.open()
        run.ok()


# --- Names ----------------------------------------------------------------------------------------------


class NameServer:
    """A name server for one name, on a separate loopback address; a context manager."""

    def __init__(self, name: str, address: str) -> None:
        self.at = f"127.53.{os.getpid() % 250 + 1}.{os.getpid() // 250 % 250 + 1}"
        self.asked: set[str] = set()
        self._name, self._answer = name, socket.inet_aton(address)
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind((self.at, 53))
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        # Ends a waiting recvfrom.
        self._socket.sendto(b"", (self.at, 53))
        self._thread.join()
        self._socket.close()

    def _serve(self) -> None:
        while True:
            question, client = self._socket.recvfrom(512)
            if not question:
                return
            self._socket.sendto(self._answer_to(question), client)

    def _answer_to(self, question: bytes) -> bytes:
        """Return an answer according to RFC 1035: one address, none of that kind, or that there is no such name."""
        end = question.index(b"\0", 12)
        labels, at = [], 12
        while at < end:
            labels.append(question[at + 1 : at + 1 + question[at]].decode())
            at += question[at] + 1
        name, asked = ".".join(labels), question[12 : end + 5]
        kind = int.from_bytes(question[end + 1 : end + 3], "big")
        self.asked.add(name)
        found = name == self._name and kind == 1
        flags = b"\x85\x80" if name == self._name else b"\x85\x83"
        head = question[:2] + flags + b"\0\1" + (b"\0\1" if found else b"\0\0") + b"\0\0\0\0"
        return head + asked + (b"\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4" + self._answer if found else b"")


NSSWITCH = {
    "none": None,
    "as Debian has it": "hosts: files dns\n",
    # Of modules that no image has, and that glibc would have to load from the image.
    "as desktops have it": "hosts: mymachines files mdns4_minimal [NOTFOUND=return] resolve [!UNAVAIL=return] dns\n",
}


@pytest.mark.parametrize("nsswitch", NSSWITCH)
def test_names_by_a_file_and_by_a_name_server(root: Root, database: Database, nsswitch: str) -> None:
    if (text := NSSWITCH[nsswitch]) is not None:
        root.write("etc/nsswitch.conf", text)
    root.write("etc/hosts", "127.0.0.1 localhost db.by-file.test\n")
    with NameServer("db.by-server.test", "127.0.0.1") as server:
        root.write("etc/resolv.conf", f"nameserver {server.at}\nsearch by-server.test\n")
        for name in ("localhost", "db.by-file.test", "db.by-server.test", "db"):
            done = root.run(root.program, "version", env={"DATABASE_URL": at_host(database, name)})
            assert (done.returncode, done.stdout) == (0, "0\n"), (name, done)
        assert server.asked == {"db.by-server.test"}
        unknown = {"DATABASE_URL": at_host(database, "nobody.test"), "DB_CONNECT_ATTEMPTS": "1"}
        done = root.run(root.program, "version", env=unknown)
        assert done.returncode == 69
        assert "unknown_host" in done.stderr


def test_names_where_there_is_no_configuration_at_all(root: Root, database: Database) -> None:
    """Addresses need none. A name is unknown, and the program says so."""
    done = root.run(root.program, "version", env={"DATABASE_URL": database.url})
    assert (done.returncode, done.stdout) == (0, "0\n"), done
    unknown = {"DATABASE_URL": at_host(database, "nobody.test"), "DB_CONNECT_ATTEMPTS": "1"}
    done = root.run(root.program, "version", env=unknown)
    assert done.returncode == 69
    assert "unknown_host" in done.stderr


def at_host(database: Database, host: str) -> str:
    """Return the database's URL under another of the machine's names."""
    assert "@127.0.0.1:" in database.url
    return database.url.replace("@127.0.0.1:", f"@{host}:")


# --- Certificates ---------------------------------------------------------------------------------------

# Where systems keep the certificates that they trust; the first is both Debian's and Alpine's.
CERTIFICATES = (
    "etc/ssl/certs/ca-certificates.crt",
    "etc/pki/tls/certs/ca-bundle.crt",
    "etc/ssl/ca-bundle.pem",
    "etc/ssl/cert.pem",
)


def test_certificates_are_the_images_own(root: Root, fresh_server: ServerFactory) -> None:
    """As in docs/folder.md: from a file, from wherever the system has them, or else a message that says so."""
    certificate = stage._certificate()
    if certificate is None:
        missing("no openssl, to make a certificate")
    authority, key = certificate
    server = fresh_server(15, settings={"ssl": "on", "ssl_cert_file": str(authority), "ssl_key_file": str(key)})
    address = f"postgresql://postgres@localhost:{server.port}/postgres?hostaddr=127.0.0.1"

    def connect(rest: str, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        env = {"DATABASE_URL": f"{address}&{rest}", "DB_CONNECT_ATTEMPTS": "1", **environment}
        return root.run(root.program, *command, env=env)

    def version(rest: str, **environment: str) -> str:
        done = connect(rest, "version", **environment)
        return done.stdout.strip() if done.returncode == 0 else f"{done.returncode}: {done.stderr}"

    pem = authority.read_bytes()
    root.write("tmp/ca.crt", pem)
    assert version("sslmode=verify-full&sslrootcert=/tmp/ca.crt") == "0"
    assert version("sslrootcert=system", SSL_CERT_FILE="/tmp/ca.crt") == "0"
    # A variable counts, whatever the system has.
    for place in CERTIFICATES:
        root.write(place, pem)
        assert version("sslmode=verify-full&sslrootcert=system") == "0"
        assert version("", PGSSLROOTCERT="system") == "0"
        refused = version("sslrootcert=system", SSL_CERT_FILE="/no/such/file")
        assert refused.startswith("69: ")
        assert "SSL_CERT_FILE" in refused
        # The server's name is not the one in the certificate.
        assert version(f"sslrootcert=system&host=127.0.0.1&port={server.port}").startswith("69: ")
        (root.place / place).unlink()
    assert version("sslrootcert=system").startswith("69: ")
    # From the first start on, the application gets the environment it was started with, and nothing about certificates.
    root.write(CERTIFICATES[-1], pem)
    for outcome in ("migrated", "up_to_date"):
        done = connect("sslrootcert=system", "run", "--", "/app")
        told = Told.of(done.stdout)
        assert told.environment[0] == f"DATABASE_URL={address}&sslrootcert=system"
        assert told.environment[2] == f"ENTRYPOINT_OUTCOME={outcome}"
        assert "SSL" not in " ".join(told.environment)


def test_an_openssl_conf_of_the_images_is_for_the_application(root: Root, fresh_server: ServerFactory) -> None:
    """As in FIPS images: the folder's OpenSSL could not do what it says, and there would be no TLS."""
    certificate = stage._certificate()
    if certificate is None:
        missing("no openssl, to make a certificate")
    authority, key = certificate
    settings = {"ssl": "on", "ssl_cert_file": str(authority), "ssl_key_file": str(key)}
    server = fresh_server(15, settings=settings, hba=["hostnossl all shop all reject"])
    owner = Database(server, "postgres")
    owner.execute("CREATE ROLE shop LOGIN")
    owner.execute("GRANT CREATE ON SCHEMA public TO shop")
    root.write("etc/fips.cnf", FIPS)
    for rest, outcome in (("", "migrated"), ("&sslmode=require", "up_to_date")):
        address = f"postgresql://shop@127.0.0.1:{server.port}/postgres?connect_timeout=10{rest}"
        environment = {"DATABASE_URL": address, "OPENSSL_CONF": "/etc/fips.cnf"}
        done = root.run(root.program, "run", "--", "/app", env=environment)
        found = Told.of(done.stdout).environment
        assert f"ENTRYPOINT_OUTCOME={outcome}" in found, done
        assert "OPENSSL_CONF=/etc/fips.cnf" in found


# --- Children -------------------------------------------------------------------------------------------


def test_another_tool_runs_with_the_images_own_loader(
    engine: Engine, folder: Path, applications: Path, database: Database, tmp_path: Path
) -> None:
    """MIGRATION_COMMAND in a root with musl: the tool sees what is meant for it, and nothing of ours."""
    image = bases.provide(engine, bases.ALPINE)
    out = tmp_path / "out"
    out.mkdir(mode=0o777)
    out.chmod(0o777)
    mounts = [f"--volume={folder}:/elsewhere:ro", f"--volume={applications}:/apps:ro", f"--volume={out}:/out"]
    settings = {"DATABASE_URL": database.url, "MIGRATION_COMMAND": "sh -c '/apps/musl >/out/told'", "LD_PRELOAD": ""}
    options = [*mounts, *(f"--env={name}={value}" for name, value in settings.items()), "--network=host"]
    engine.run("run", "--rm", *options, image, "/elsewhere/entrypoint", "migrate")
    told = Told.of((out / "told").read_text())
    assert mapped(told) == {"/apps/musl", MUSL}
    assert "LD_PRELOAD=" in told.environment
    assert not [entry for entry in told.environment if "elsewhere" in entry or entry.startswith("LD_LIBRARY_PATH")]


def test_another_tool_where_there_is_no_dev_null(root: Root, database: Database) -> None:
    """The tool needs it as its input. The message names it, and not the tool."""
    command = {"DATABASE_URL": database.url, "MIGRATION_COMMAND": "/app"}
    done = root.run(root.program, "migrate", env=command)
    assert done.returncode == 70
    assert "/app could not be started: /dev/null: No such file or directory" in done.stderr
    assert "Give the container a /dev with /dev/null in it" in done.stderr
    assert "by hand" not in done.stderr
    (root.place / "dev").mkdir()
    os.mknod(root.place / "dev" / "null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    done = root.run(root.program, "migrate", env=command)
    assert done.returncode == 0, done
