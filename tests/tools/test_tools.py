"""From ten tools to this program: the tool itself creates the migrations and the history, and we continue."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from kit.databases import Database
from tools.conftest import need
from tools.dumps import OURS, contents
from tools.everyone import TOOLS
from tools.install import version_of
from tools.marked import Dbmate, Goose
from tools.named import Flyway
from tools.steps import five

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from conftest import Servers
    from demo.postgres import Server
    from kit.processes import Run
    from tools.kit import Tool

REPLICAS = 8


def kinds(*wanted: type[Tool]) -> pytest.MarkDecorator:
    """Run a test with each of these tools, all tests of one in one process (`--dist loadgroup`)."""
    cases = [pytest.param(kind, id=kind.__name__, marks=pytest.mark.xdist_group(kind.__name__)) for kind in wanted]
    return pytest.mark.parametrize("kind", cases)


any_tool = kinds(*TOOLS)


class Prepared(NamedTuple):
    """A tool with five migrations, and two databases to copy: it applied three of them in one, and all in the other."""

    tool: Tool
    versions: list[str]
    three: Database
    five: Database


@pytest.fixture(scope="session")
def prepare(
    servers_by_version: Servers, _chosen_version: int, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[type[Tool]], Prepared]:
    """Return a function that lets a tool do its part, once for all tests of this process."""
    server = servers_by_version[_chosen_version]
    done: dict[type[Tool], Prepared] = {}

    def three_of_five(kind: type[Tool]) -> Prepared:
        tool = need(kind, tmp_path_factory.mktemp(kind.__name__))
        three, all_five = (Database(server, f"{kind.__name__}_{part}".lower()) for part in ("three", "five"))
        for database in (three, all_five):
            server.create_database(database.name)
        steps = five(alone=tool.can_be_alone)
        versions = [tool.add(step) for step in steps[:3]]
        tool.up(three.url)
        versions += [tool.add(step) for step in steps[3:]]
        tool.up(all_five.url)
        return Prepared(tool, versions, three, all_five)

    def prepare(kind: type[Tool]) -> Prepared:
        if kind not in done:
            done[kind] = three_of_five(kind)
        return done[kind]

    return prepare


class Road(NamedTuple):
    """A tool's migrations as our files, a database where it applied three of them, and one where it applied all."""

    tool: Tool
    versions: list[str]
    ours: Database
    theirs: Database
    run: Callable[..., Run]

    def start(self, *command: str, **more: str) -> Run:
        """Start the program. If the tool's table has the name of ours, the ledger has a separate schema."""
        apart = {"MIGRATION_SCHEMA": "entrypoint"} if self.tool.shares_our_name else {}
        return self.run(*command, env={"DATABASE_URL": self.ours.url, **apart, **more})

    def contents(self, database: Database) -> str:
        """Return a database's contents, except what the tool and this program keep for themselves."""
        kept = contents(database, OURS | set(self.tool.table.split(".")))
        assert "CREATE TABLE public.account" in kept, "nothing is left to compare"
        return kept

    def ledger(self) -> list[tuple[int, str]]:
        """Return the numbers and states in our ledger."""
        schema = "entrypoint" if self.tool.shares_our_name else "public"
        return self.ours.rows(f"SELECT migration_number, status FROM {schema}.schema_migrations ORDER BY 1")


@pytest.fixture
def road(
    kind: type[Tool],
    prepare: Callable[[type[Tool]], Prepared],
    server: Server,
    run_entrypoint: Callable[..., Run],
) -> Iterator[Road]:
    """Copy what the tool has done, and import its migrations."""
    tool, versions, three, all_five = prepare(kind)
    ours, theirs = Database(server, "ours"), Database(server, "theirs")
    for copy, template in ((ours, three), (theirs, all_five)):
        copy.drop()
        server.create_database(copy.name, template=template.name)
        copy.execute("CREATE SCHEMA entrypoint")
    run_entrypoint("import", "--from", tool.name, tool.directory, "--into", "migrations").ok()
    yield Road(tool, versions, ours, theirs, run_entrypoint)
    for copy in (ours, theirs):
        copy.drop()


def empty_database(database: Database) -> None:
    """Create a database again, with the schema that some tests have the ledger in."""
    database.drop()
    database.server.create_database(database.name)
    database.execute("CREATE SCHEMA entrypoint")


def test_the_documentation_says_which_versions_these_are() -> None:
    page = (Path(__file__).parents[2] / "docs" / "coming-from" / "README.md").read_text()
    assert ", ".join(f"{kind.name} {version_of(kind.package)}" for kind in TOOLS) in " ".join(page.split())


@any_tool
def test_import_makes_files_that_do_what_the_tool_does(road: Road) -> None:
    empty_database(road.ours)
    road.start("migrate").ok()
    assert [status for _, status in road.ledger()] == ["completed"] * 5
    assert road.contents(road.ours) == road.contents(road.theirs)


@any_tool
def test_adopt_and_go_on(road: Road) -> None:
    before = road.contents(road.ours)
    road.start("adopt", "--from", road.tool.name, "--yes").ok()
    assert [status for _, status in road.ledger()] == ["completed"] * 3
    assert road.contents(road.ours) == before
    road.start("migrate").ok()
    assert [status for _, status in road.ledger()] == ["completed"] * 5
    assert road.contents(road.ours) == road.contents(road.theirs)


@any_tool
def test_a_fleet_adopts_itself(road: Road) -> None:
    more = {"MIGRATION_ADOPT": road.tool.name, "MIGRATION_ON_FAILURE": "exit"}
    for replica in [road.start("run", "--", "true", **more) for _ in range(REPLICAS)]:
        replica.ok(60)
    assert [status for _, status in road.ledger()] == ["completed"] * 5
    assert road.contents(road.ours) == road.contents(road.theirs)


@kinds(Goose, Dbmate, Flyway)
def test_what_an_older_image_applied_with_the_tool_meanwhile_is_adopted_too(road: Road) -> None:
    road.start("adopt", "--from", road.tool.name, "--yes").ok()
    with road.tool.without(road.versions[4]):
        road.tool.up(road.ours.url)
    road.start("run", "--", "true", MIGRATION_ADOPT=road.tool.name, MIGRATION_ON_FAILURE="exit").ok()
    assert [status for _, status in road.ledger()] == ["completed"] * 5
    assert road.contents(road.ours) == road.contents(road.theirs)


@kinds(*(kind for kind in TOOLS if kind.goes_back))
def test_the_way_back_is_the_tools(road: Road) -> None:
    road.start("adopt", "--from", road.tool.name, "--yes").ok()
    road.start("migrate").ok()
    (before, _), (newest, _) = road.ledger()[-2:]
    road.start("rollback", "--to", str(before), "--yes").ok()
    assert newest not in dict(road.ledger())
    road.tool.down(road.theirs.url)
    assert road.contents(road.ours) == road.contents(road.theirs)
