"""The table of tools in docs/coming-from/programs.md: every line that can be tried here, verbatim."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlencode, urlsplit

import pytest

from conftest import missing
from tools import HOME
from tools.examples import lines

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from kit.databases import Database
    from kit.processes import Run

_FILES = Path(__file__).parent / "files"
_PROGRAMS = HOME / "node-programs" / "node_modules"
_CREATE = "CREATE TABLE widgets (id integer)"


class Project(NamedTuple):
    """What a tool needs besides the line: files, the folders of its programs, and its Node.js packages."""

    files: Mapping[str, str]
    programs: tuple[Path, ...] = ()
    modules: Path | None = None
    env: Mapping[str, str] = {}


_SEQUELIZE = f"module.exports = {{ up: (queries) => queries.sequelize.query('{_CREATE}'), down: () => {{}} }};\n"
_TYPEORM = f"""\
exports.Widgets20240101000100 = class {{
  name = "Widgets20240101000100";
  up(runner) {{ return runner.query("{_CREATE}"); }}
  down() {{}}
}};
"""
_SOURCE = """\
const { DataSource } = require("typeorm");
module.exports.source = new DataSource({
  type: "postgres", url: process.env.DATABASE_URL, migrations: ["dist/migrations/*.js"],
});
"""
_CHANGELOG = """\
<?xml version="1.0" encoding="UTF-8"?>
<databaseChangeLog xmlns="http://www.liquibase.org/xml/ns/dbchangelog"
    xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"
    xsi:schemaLocation="http://www.liquibase.org/xml/ns/dbchangelog
        http://www.liquibase.org/xml/ns/dbchangelog/dbchangelog-latest.xsd">
  <changeSet id="1" author="test"><sqlFile path="changes/1.sql"/></changeSet>
</databaseChangeLog>
"""
_PRISMA = {
    "prisma.config.mjs": (_FILES / "prisma.config.mjs").read_text(),
    "prisma/schema.prisma": (_FILES / "schema.prisma").read_text(),
    "prisma/migrations/migration_lock.toml": 'provider = "postgresql"\n',
    "prisma/migrations/20240101000100_widgets/migration.sql": _CREATE,
}
# It would download its native engines unless it took these for them; neither is started.
_PRISMA_ENV = {
    "MIGRATION_SCHEMA": "entrypoint",
    "PRISMA_QUERY_ENGINE_LIBRARY": "/bin/true",
    "PRISMA_SCHEMA_ENGINE_BINARY": "/bin/true",
    "CHECKPOINT_DISABLE": "1",
    "PRISMA_HIDE_UPDATE_MESSAGE": "1",
}

PROJECTS: dict[str, Project] = {
    "Sequelize": Project({"migrations/1-widgets.js": _SEQUELIZE}, modules=_PROGRAMS),
    "TypeORM": Project({"dist/migrations/1-widgets.js": _TYPEORM, "data-source.js": _SOURCE}, modules=_PROGRAMS),
    "node-pg-migrate": Project({"migrations/1_widgets.sql": f"-- Up Migration\n{_CREATE};\n"}, modules=_PROGRAMS),
    "Liquibase": Project(
        {"changelog.xml": _CHANGELOG, "changes/1.sql": _CREATE},
        programs=(_PROGRAMS / "liquibase" / "dist" / "liquibase",),
        env={"LIQUIBASE_COMMAND_CHANGELOG_FILE": "changelog.xml", "LIQUIBASE_SHOW_BANNER": "false"},
    ),
    "Prisma": Project(_PRISMA, modules=HOME / "node" / "node_modules", env=_PRISMA_ENV),
    "dbmate": Project(
        {"db/migrations/1_widgets.sql": f"-- migrate:up\n{_CREATE};\n\n-- migrate:down\n"},
        programs=(HOME / "node" / "node_modules" / ".bin",),
    ),
    "golang-migrate": Project({"db/migrations/1_widgets.up.sql": _CREATE}, programs=(HOME / "go",)),
}


def address(tool: str, database: Database) -> str:
    """Return the address in the form that the tool wants."""
    url = urlsplit(database.url)
    if tool == "Liquibase":
        query = urlencode({"user": url.username, "password": "none"})
        return f"jdbc:postgresql://{url.hostname}:{url.port}{url.path}?{query}"
    return f"{database.url}?sslmode=disable"


@pytest.mark.parametrize("tool", [pytest.param(name, marks=pytest.mark.xdist_group("programs")) for name in PROJECTS])
def test_the_line_of(tool: str, database: Database, tmp_path: Path, run_entrypoint: Callable[..., Run]) -> None:
    """The first start runs the tool, which records what it did where the page says. The second start runs nothing."""
    project, line = PROJECTS[tool], lines()[tool]
    here = [*project.programs, *([project.modules] if project.modules else [])]
    if absent := [path for path in here if not path.is_dir()]:
        missing(f"{tool} is not installed (make tools): no {absent[0]}")
    for name, text in project.files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    if project.modules:
        (tmp_path / "node_modules").symlink_to(project.modules)
    folders = [*map(str, project.programs), str(Path(shutil.which("node") or "/usr/bin/node").parent)]
    env = {
        **project.env,
        "PATH": os.pathsep.join([*folders, "/usr/local/bin:/usr/bin:/bin"]),
        "HOME": str(tmp_path),
        "DATABASE_URL": address(tool, database),
        "MIGRATION_COMMAND": line.command,
        "MIGRATION_COMMAND_INPUTS": line.inputs,
    }
    first = run_entrypoint("migrate", env=env).ok(60)
    assert database.exists("widgets"), first.report()
    history = ".".join(f'"{part}"' for part in line.history.split("."))
    assert database.one(f"SELECT count(*) FROM {history}") >= 1
    assert "command.started" in first.events()

    again = run_entrypoint("migrate", env=env).ok(60)
    assert "command.started" not in again.events(), again.report()
    run_entrypoint("status", "--exit-code", env=env).ok()
