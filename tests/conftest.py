"""Fixtures: a server per worker, a database per test, and runs of the program that leave nothing behind.

`ENTRYPOINT_TEST_PG=15|16|18|19` chooses the PostgreSQL of the fixture `server`. What this machine cannot test is
skipped and listed at the end of the run; with `CI=true` it fails instead. Without `--thorough` or `CI=true`, a run of
the whole suite is short enough to do before each commit: it leaves out tests marked `thorough`, samples the cases of
tests that start processes, and gives each test one version of `any_server`.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import os
import re
import shutil
from pathlib import Path
from types import FunctionType
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

import pytest

from demo.postgres import PostgresMissingError, Server, free_port, installations, workspace
from kit import pooler
from kit.databases import EMPTY, Clerk, Database, make_template
from kit.processes import OF_THIS_CHECKOUT, Run, compile_look, entrypoint
from kit.proxy import Proxy
from kit.quick import of_a_quick_run
from kit.summary import NOT_TESTED, summarize
from kit.warm import Warm
from kit.web import TOKEN, Serving

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

# The last of these comes from a Debian suite that changes daily, so CI does not depend on it.
MOVING = 19
VERSIONS = (15, 16, 18, MOVING)


def missing(reason: str) -> NoReturn:
    """Fail in CI, where everything must be present; otherwise skip, and list it at the end of the run."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason, pytrace=False)
    pytest.skip(NOT_TESTED + reason)


def without_postgres(version: int, error: PostgresMissingError) -> NoReturn:
    """Fail if this version was asked for by name; otherwise it is missing, or skipped even in CI if it is `MOVING`."""
    if os.environ.get("ENTRYPOINT_TEST_PG") == str(version):
        pytest.fail(str(error), pytrace=False)
    if version == MOVING:
        pytest.skip(f"{NOT_TESTED}{error}; `make test-pg19` installs it")
    missing(str(error))


MEMORY = Path("/dev/shm")
ROOM = 8 << 30


def servers_dir(memory: Path) -> Path | None:
    """Return where servers keep their files. In memory, if there is plenty, databases are created ten times faster."""
    with contextlib.suppress(OSError):
        room = os.statvfs(memory)
        available = re.search(r"^MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
        # If the servers' account cannot reach the programs, they are copied there too.
        executable = not room.f_flag & os.ST_NOEXEC
        if executable and available and min(room.f_bavail * room.f_frsize, int(available[1]) << 10) >= ROOM:
            return memory
    return None


def pytest_configure(config: pytest.Config) -> None:
    """Choose where this run's servers keep their files, unless ENTRYPOINT_SERVERS_DIR is set.

    The workers of a run share the result of initdb.
    """
    if "ENTRYPOINT_SERVERS_DIR" not in os.environ and (memory := servers_dir(MEMORY)):
        os.environ["ENTRYPOINT_SERVERS_DIR"] = str(memory)
    if config.getoption("numprocesses", None) and not hasattr(config, "workerinput"):
        os.environ["ENTRYPOINT_CLUSTERS_DIR"] = str(workspace().path)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--thorough`."""
    parser.addoption("--thorough", action="store_true", help="also what a quick run of the whole suite leaves out")
    parser.addoption("--warm", action="store_true", help="start the program as a quick run of the whole suite does")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Turn off garbage collection while thousands of tests are collected, and exempt them from it afterwards."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def is_quick(config: pytest.Config) -> bool:
    """Tell whether this run of the whole suite should be quick. A file that is named runs completely."""
    whole = config.args_source is pytest.Config.ArgsSource.TESTPATHS
    return whole and not config.getoption("--thorough") and os.environ.get("CI") != "true"


@pytest.hookimpl(tryfirst=True)
def pytest_pycollect_makeitem(collector: pytest.Collector, obj: object) -> list[pytest.Item] | None:
    """Create no test for a function that a quick run leaves out: each worker collects a fifth faster."""
    marks = getattr(obj, "pytestmark", ()) if isinstance(obj, FunctionType) else ()
    return [] if any(mark.name == "thorough" for mark in marks) and is_quick(collector.config) else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Reduce a run of the whole suite to a quick one, unless everything is wanted."""
    if not is_quick(config):
        return
    config.option.warm = True
    chosen = os.environ.get("ENTRYPOINT_TEST_PG")
    versions = [int(chosen)] if chosen else [version for version in VERSIONS if version in installations()]
    quick = list(of_a_quick_run(items, versions or VERSIONS))
    if len(quick) < len(items):
        kept = set(quick)
        config.hook.pytest_deselected(items=[item for item in items if item not in kept])
        items[:] = quick


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say at the end of the run what was not tested and why, and what the slowest tests are for."""
    summarize(terminalreporter)


@pytest.fixture(autouse=True)
def _tell_purpose(request: pytest.FixtureRequest) -> None:
    """Add a test's purpose to the report: its docstring's first line, or its name as a sentence."""
    doc = getattr(request.function, "__doc__", None) or request.function.__name__.removeprefix("test_").replace(
        "_", " "
    )
    request.node.user_properties.append(("purpose", doc.strip().splitlines()[0]))


# --- Servers --------------------------------------------------------------------------------------------


class Servers:
    """Servers by version, each started when first needed."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        """Keep the servers until `stack` is closed."""
        self._stack = stack
        self._servers: dict[int, Server] = {}

    def __getitem__(self, version: int) -> Server:
        """Return the server of this version, running even if an earlier test stopped or froze it."""
        if version not in self._servers:
            try:
                server = Server(version)
            except PostgresMissingError as error:
                without_postgres(version, error)
            self._servers[version] = self._stack.enter_context(server)
            make_template(server)
            _clerks[server] = self._stack.enter_context(contextlib.closing(Clerk(server)))
        server = self._servers[version]
        server.thaw()
        if not server.running:
            server.start()
        return server


@pytest.fixture(scope="session")
def servers_by_version() -> Iterator[Servers]:
    """Return the servers of all versions: `servers_by_version[18]`."""
    with contextlib.ExitStack() as stack:
        yield Servers(stack)


@pytest.fixture(scope="session")
def _chosen_version() -> int:
    return int(os.environ.get("ENTRYPOINT_TEST_PG", "16"))


@pytest.fixture
def server(servers_by_version: Servers, _chosen_version: int) -> Server:
    """Return the server that this worker's tests share."""
    return servers_by_version[_chosen_version]


@pytest.fixture(params=VERSIONS, ids=lambda version: f"pg{version}")
def any_server(request: pytest.FixtureRequest, servers_by_version: Servers) -> Server:
    """Return a shared server of each version in turn."""
    return servers_by_version[request.param]


class ServerFactory(Protocol):
    """Starts a server with its own settings, for one test."""

    def __call__(
        self,
        version: int | None = None,
        *,
        settings: Mapping[str, str | int] | None = None,
        hba: Sequence[str] = (),
        log_statement: str = "none",
    ) -> Server:
        """Take the parameters of `Server`; the version is that of `server` unless given."""


@pytest.fixture
def fresh_server(_chosen_version: int) -> Iterator[ServerFactory]:
    """Return a function that starts a server for this test alone: `fresh_server(settings={…})`."""
    with contextlib.ExitStack() as stack:

        def start(version: int | None = None, **options: Any) -> Server:
            try:
                server = Server(version or _chosen_version, **options)
            except PostgresMissingError as error:
                without_postgres(version or _chosen_version, error)
            return stack.enter_context(server)

        yield start


# --- Databases ------------------------------------------------------------------------------------------

_numbers = itertools.count(1)
_clerks: dict[Server, Clerk] = {}


@contextlib.contextmanager
def new_database(server: Server, label: str = "test", template: str = "template0") -> Iterator[Database]:
    """Clone an empty template for a while. `template0` and `EMPTY` accept no connections, which would block cloning."""
    slug = re.sub(r"\W+", "_", label.lower()).strip("_")
    database = Database(server, f"t{next(_numbers)}_{slug}"[:60])
    clerk = _clerks.get(server, server)
    clerk.create_database(database.name, template=template)
    try:
        yield database
    finally:
        server.thaw()
        if server.running:
            clerk.drop_database(database.name)


@pytest.fixture
def small_pool(server: Server) -> Iterator[int]:
    """Return the port of a pooler with two server connections, the fewest that a holder can use."""
    if pooler.executable() is None:
        missing("no pgbouncer (Debian's package pgbouncer)")
    with pooler.pooler(server, pool_size=2) as port:
        yield port


@pytest.fixture
def database(server: Server, request: pytest.FixtureRequest) -> Iterator[Database]:
    """Return an empty database for this test, on the shared server."""
    with new_database(server, request.node.name, EMPTY) as database:
        yield database


@pytest.fixture
def any_database(any_server: Server, request: pytest.FixtureRequest) -> Iterator[Database]:
    """Return an empty database for this test, on a server of each version in turn."""
    with new_database(any_server, request.node.name, EMPTY) as database:
        yield database


@pytest.fixture
def proxy(server: Server) -> Iterator[Proxy]:
    """Return a proxy to the shared server."""
    with Proxy(server.port) as proxy:
        yield proxy


# --- Programs -------------------------------------------------------------------------------------------


@pytest.fixture
def migrations_dir(tmp_path: Path) -> Path:
    """Return an empty directory `migrations`, where the program that `run_entrypoint` starts looks."""
    path = tmp_path / "migrations"
    path.mkdir()
    return path


@pytest.fixture
def run_program(tmp_path: Path) -> Iterator[Callable[..., Run]]:
    """Return a function that starts a program, `Run(argv, …)`; nothing of it survives the test."""
    with contextlib.ExitStack() as stack:

        def start(argv: Sequence[str | bytes | Path], **options: Any) -> Run:
            return stack.enter_context(Run(argv, **{"directory": tmp_path, **options}))

        yield start


@pytest.fixture(scope="session")
def _warm_program() -> Iterator[Warm]:
    with contextlib.closing(Warm()) as warm:
        yield warm


@pytest.fixture
def run_entrypoint(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Callable[..., Run]]:
    """Return a function that starts `entrypoint`: `run_entrypoint("run", "--", "true", env={…})`.

    It runs in `tmp_path`, so it finds `migrations_dir` by default. In a quick run of the whole suite it is a clone
    (`kit.warm`), unless the test is marked `cold`.
    """
    warm = request.config.getoption("--warm") and not request.node.get_closest_marker("cold")
    clones = {"warm": request.getfixturevalue("_warm_program") if warm and OF_THIS_CHECKOUT else None}
    with contextlib.ExitStack() as stack:

        def start(*args: str | Path, **options: Any) -> Run:
            return stack.enter_context(entrypoint(*args, **{"directory": tmp_path, **clones, **options}))

        yield start


@pytest.fixture
def serve(run_entrypoint: Callable[..., Run]) -> Callable[..., Serving]:
    """Return a function that starts the status service: `serve(url, STATUS_PUBLIC_BADGE="true")`.

    Its token is `kit.web.TOKEN` unless the environment says otherwise, and it is already listening.
    """

    def start(url: str, *, port: int = 0, **env: str | int) -> Serving:
        port = port or free_port()
        environment = {"DATABASE_URL": url, "STATUS_PORT": str(port), "STATUS_TOKEN": TOKEN}
        given = {name: str(value) for name, value in env.items()}
        run = run_entrypoint("serve", env={**environment, **given})
        run.until("service.listening")
        return Serving(run, port)

    return start


@pytest.fixture(scope="session")
def look(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the compiled program `look`, which prints how it was started; see `Observation`."""
    if shutil.which("cc") is None:
        missing("no C compiler `cc` for programs/look.c")
    return compile_look(tmp_path_factory.mktemp("look"))
