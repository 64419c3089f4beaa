"""The applications in examples/, set up as in their Dockerfiles but without containers, and a spy around each tool."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from benchmarks import examples

if TYPE_CHECKING:
    from kit.databases import Database

_PATH = "/usr/local/bin:/usr/bin:/bin"


class Example:
    """A copy of an example in a `project` folder, with what it needs."""

    name: ClassVar[str]
    tool: ClassVar[str]
    """The program whose starts are counted."""
    history: ClassVar[str]
    """A query on the tool's own table for the number of applied migrations."""
    table: ClassVar[str]
    """Where the tool keeps its history."""
    says_why: ClassVar[bool] = True
    """It prints the server's message when a migration fails."""

    def __init__(self, project: Path) -> None:
        """Copy the example."""
        self.project = project
        examples.copy(self.name, project)
        self.variables, self.command = examples.image(self.name)
        self.started = project.with_name(f"{project.name}.started")
        """Has a line for each start of the tool."""
        self._spies = project.with_name(f"{project.name}.spies")
        self._equip()

    @property
    def home(self) -> Path:
        """Return where `make tools` has installed what the example needs."""
        return examples.TOOLS / "examples" / self.name

    @classmethod
    def missing(cls) -> str | None:
        """Return why it cannot be run here, or None."""
        found = examples.programs(cls.name)
        return None if found else f"what examples/{cls.name} needs is not installed (make tools; Debian's, for Rails)"

    def _equip(self) -> None:
        """Put a spy around the tool."""
        program = shutil.which(self.tool, path=os.pathsep.join(map(str, examples.programs(self.name))))
        self.spy(self._spies / self.tool, Path(program or self.tool))

    def spy(self, place: Path, program: Path) -> None:
        """Create a program that notes its start and becomes the tool."""
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(f'#!/bin/sh\necho "$$" >> {shlex.quote(str(self.started))}\nexec {program} "$@"\n')
        place.chmod(0o755)

    def starts(self) -> int:
        """Return how often the tool was started."""
        return len(self.started.read_text().splitlines()) if self.started.exists() else 0

    def env(self, url: str, **more: str) -> dict[str, str]:
        """Return a container's environment."""
        path = ":".join(map(str, [self._spies, *examples.programs(self.name), _PATH]))
        variables = {name: value for name, value in self.variables.items() if name != "PATH"}
        address = re.sub(r"^\w+(?=://)", examples.scheme(self.name), url)
        return {**variables, "PATH": path, "HOME": str(self.project), "DATABASE_URL": address, **more}

    def serving(self, port: int) -> list[str]:
        """Return the application's command line with another port, and not open to the whole world."""
        return [word.replace("8000", str(port)).replace("0.0.0.0", "127.0.0.1") for word in self.command]  # noqa: S104

    def applied(self, database: Database) -> int:
        """Return the number of applied migrations, according to the tool's own table."""
        if not database.exists(self.table):
            return 0
        return int(database.one(self.history))

    def add(self, number: int, sql: str) -> Path:
        """Write the next migration; `number` counts from 3, and `sql` has only single quotes."""
        raise NotImplementedError

    def forget(self, number: int) -> None:
        """Remove what an older image does not have besides the migration's file."""


class FastApi(Example):
    """FastAPI with alembic."""

    name = "fastapi-alembic"
    tool = "alembic"
    table = "alembic_version"
    history = "SELECT coalesce(max(version_num)::integer, 0) FROM alembic_version"

    def add(self, number: int, sql: str) -> Path:
        """Write a revision."""
        path = self.project / "alembic" / "versions" / f"{number:04d}_more.py"
        path.write_text(
            f'from alembic import op\n\nrevision = "{number:04d}"\ndown_revision = "{number - 1:04d}"\n\n\n'
            f'def upgrade() -> None:\n    op.execute("""{sql}""")\n'
        )
        return path


class Django(Example):
    """Django, which also brings migrations of its own for accounts and content types."""

    name = "django"
    tool = "python"
    table = "django_migrations"
    history = "SELECT count(*) FROM django_migrations WHERE app = 'products'"

    def add(self, number: int, sql: str) -> Path:
        """Write a migration."""
        before = {3: "0002_product_price"}.get(number, f"{number - 1:04d}_more")
        path = self.project / "products" / "migrations" / f"{number:04d}_more.py"
        path.write_text(
            "from django.db import migrations\n\n\nclass Migration(migrations.Migration):\n"
            f'    dependencies = [("products", "{before}")]\n    operations = [migrations.RunSQL("""{sql}""")]\n'
        )
        return path


class _Node(Example):
    """A Node.js application; its tool is called by its path."""

    def _equip(self) -> None:
        modules = self.project / "node_modules"
        modules.unlink()
        modules.mkdir()
        for entry in (self.home / "node_modules").iterdir():
            if not entry.name.startswith("."):
                (modules / entry.name).symlink_to(entry)
        self.spy(modules / ".bin" / self.tool, self.home / "node_modules" / ".bin" / self.tool)


class Knex(_Node):
    """Node.js with knex."""

    name = "node-knex"
    tool = "knex"
    table = "knex_migrations"
    history = "SELECT count(*) FROM knex_migrations"

    def outside(self, number: int, sql: str) -> Path:
        """Write the next migration as one outside a transaction. Then knex's lock is not in a transaction either."""
        path = self.add(number, sql)
        path.write_text(f"{path.read_text()}exports.config = {{ transaction: false }};\n")
        return path

    def unlock(self, url: str) -> None:
        """Free the lock with knex's own command, which is not counted."""
        program = self.home / "node_modules" / ".bin" / "knex"
        subprocess.run([program, "migrate:unlock"], cwd=self.project, env=self.env(url), check=True, timeout=60)

    def add(self, number: int, sql: str) -> Path:
        """Write a migration."""
        path = self.project / "migrations" / f"202401010{number:03d}00_more.js"
        path.write_text(f"exports.up = (knex) => knex.raw(`{sql}`);\nexports.down = async () => {{}};\n")
        return path


class Drizzle(_Node):
    """Node.js with Drizzle."""

    name = "node-drizzle"
    tool = "drizzle-kit"
    table = "drizzle.__drizzle_migrations"
    history = "SELECT count(*) FROM drizzle.__drizzle_migrations"
    says_why = False

    def add(self, number: int, sql: str) -> Path:
        """Write a migration, and its line in the journal."""
        tag = f"{number - 1:04d}_more"
        path = self.project / "drizzle" / f"{tag}.sql"
        path.write_text(sql)
        journal = self.project / "drizzle" / "meta" / "_journal.json"
        content = json.loads(journal.read_text())
        when = content["entries"][-1]["when"] + 1000
        content["entries"].append({"idx": number - 1, "version": "7", "when": when, "tag": tag, "breakpoints": True})
        journal.write_text(json.dumps(content, indent=2))
        return path

    def forget(self, number: int) -> None:
        """Remove the line from the journal."""
        journal = self.project / "drizzle" / "meta" / "_journal.json"
        content = json.loads(journal.read_text())
        content["entries"] = content["entries"][: number - 1]
        journal.write_text(json.dumps(content, indent=2))


class Goose(Example):
    """A Go application with goose, started by a shell."""

    name = "goose"
    tool = "goose"
    table = "goose_db_version"
    history = "SELECT count(*) FROM goose_db_version WHERE version_id > 0"

    def add(self, number: int, sql: str) -> Path:
        """Write a migration."""
        path = self.project / "db" / "migrations" / f"{number:05d}_more.sql"
        path.write_text(f"-- +goose Up\n-- +goose StatementBegin\n{sql}\n-- +goose StatementEnd\n")
        return path


class Rails(Example):
    """Ruby on Rails, in Debian's version."""

    name = "rails"
    tool = "rails"
    table = "schema_migrations"
    history = "SELECT count(*) FROM schema_migrations"

    def _equip(self) -> None:
        program = self.project / "bin" / "rails"
        program.rename(program.with_name("rails-itself"))
        self.spy(program, program.with_name("rails-itself"))

    def add(self, number: int, sql: str) -> Path:
        """Write a migration."""
        path = self.project / "db" / "migrate" / f"202401010{number:03d}00_more{number}.rb"
        path.write_text(
            f"class More{number} < ActiveRecord::Migration[6.1]\n  def up\n    execute <<~SQL\n      {sql}\n    SQL\n"
            "  end\nend\n"
        )
        return path


EXAMPLES: tuple[type[Example], ...] = (FastApi, Django, Knex, Drizzle, Goose, Rails)


PAGE = Path(__file__).parents[2] / "docs" / "coming-from" / "programs.md"
_ROW = re.compile(r"^\| ([^|]+) \| `([^|]+)` \| `([^|]+)` \| `([^|]+)` \| ([^|]+) \|$", re.MULTILINE)


class Line(NamedTuple):
    """A line of that page's table."""

    tool: str
    command: str
    inputs: str
    history: str
    lock: str


def lines() -> dict[str, Line]:
    """Return the table, by tool."""
    return {row[0]: Line(*row) for row in _ROW.findall(PAGE.read_text())}
