"""Tools from the Node.js world, none of which has down migrations: Prisma, Drizzle, Supabase."""

from __future__ import annotations

import shutil
from pathlib import Path

from tools.kit import Step, Tool, as_scheme, binary, moment, only

FILES = Path(__file__).parent / "files"


class NodeTool(Tool):
    """A package with a program, in a folder of packages."""

    goes_back = False
    folder = "node"

    @property
    def modules(self) -> Path:
        """Return its packages' folder."""
        return self.home / self.folder / "node_modules"

    def equip(self, *files: str) -> None:
        """Put files and packages where the program looks for them."""
        for name in files:
            shutil.copy(FILES / name, self.project)
        link = self.project / "node_modules"
        if not link.is_symlink():
            link.symlink_to(self.modules)


class Prisma(NodeTool):
    """`prisma migrate deploy`, with its own engine as WebAssembly.

    `migrate dev`, which creates files, is interactive.
    """

    name = "prisma"
    package = "prisma"
    table = "_prisma_migrations"

    @property
    def program(self) -> Path:
        return self.modules / "prisma" / "build" / "index.js"

    @property
    def directory(self) -> Path:
        return self.project / "prisma" / "migrations"

    def _add(self, step: Step, number: int) -> str:
        self.directory.mkdir(parents=True, exist_ok=True)
        shutil.copy(FILES / "schema.prisma", self.directory.parent)
        (self.directory / "migration_lock.toml").write_text('provider = "postgresql"\n')
        version = f"{moment(number)}_{step.name}"
        (self.directory / version).mkdir()
        (self.directory / version / "migration.sql").write_text(step.up)
        return version

    def take(self, directory: Path) -> None:
        super().take(directory)
        shutil.copy(FILES / "schema.prisma", self.directory.parent)

    def path(self, version: str) -> Path:
        return self.directory / version / "migration.sql"

    def command(self, url: str, *arguments: str) -> str:
        """Run one of its commands on a database."""
        self.equip("prisma.config.mjs")
        # It would download its native engines unless it took these for them; neither is started.
        instead = {"PRISMA_QUERY_ENGINE_LIBRARY": "/bin/true", "PRISMA_SCHEMA_ENGINE_BINARY": "/bin/true"}
        quiet = {"CHECKPOINT_DISABLE": "1", "PRISMA_HIDE_UPDATE_MESSAGE": "1"}
        return self.run("node", self.program, "migrate", *arguments, DATABASE_URL=url, **instead, **quiet)

    def up(self, url: str) -> str:
        return self.command(url, "deploy")


class Drizzle(NodeTool):
    """`drizzle-kit generate --custom` and `drizzle-kit migrate`. Everything pending is one transaction."""

    name = "drizzle"
    package = "drizzle-kit"
    table = "drizzle.__drizzle_migrations"
    can_be_alone = False

    @property
    def program(self) -> Path:
        return self.modules / "drizzle-kit" / "bin.cjs"

    @property
    def directory(self) -> Path:
        return self.project / "drizzle"

    def _run(self, *arguments: str, url: str = "postgres://nowhere/none") -> str:
        self.equip("drizzle.config.ts", "schema.ts")
        return self.run("node", self.program, *arguments, DATABASE_URL=as_scheme(url, "postgres"))

    def _add(self, step: Step, number: int) -> str:
        before = set(self.directory.rglob("*.sql"))
        self._run("generate", "--custom", f"--name={step.name}")
        created = only(sorted(set(self.directory.rglob("*.sql")) - before))
        created.write_text(step.up)
        return self._version(created, number)

    def _version(self, created: Path, number: int) -> str:
        assert created.stem.startswith(f"{number - 1:04d}_"), created
        return created.stem

    def journal(self) -> str:
        """Return the list of its migrations, which is kept next to them."""
        return (self.directory / "meta" / "_journal.json").read_text()

    def up(self, url: str) -> str:
        return self._run("migrate", url=url)


class Drizzle1(Drizzle):
    """Drizzle 1.0: a folder for each migration, no journal, and names in its table."""

    folder = "node-drizzle-1"
    package = "drizzle-kit@1"
    layout = "drizzle-1"

    def upgrade(self) -> None:
        """Convert an older version's folder to its own layout."""
        self._run("up")

    def _version(self, created: Path, number: int) -> str:
        folder = created.parent
        return folder.rename(folder.with_name(f"{moment(number)}_{folder.name.partition('_')[2]}")).name


class Supabase(NodeTool):
    """`supabase migration new` and `supabase migration up`."""

    name = "supabase"
    package = "supabase"
    table = "supabase_migrations.schema_migrations"

    @property
    def program(self) -> Path:
        return binary(self.modules / "@supabase", "cli-linux-*/bin/supabase")

    @property
    def directory(self) -> Path:
        return self.project / "supabase" / "migrations"

    def _add(self, step: Step, number: int) -> str:
        before = set(self.directory.glob("*"))
        self.run(self.program, "migration", "new", step.name)
        created = only(sorted(set(self.directory.glob("*")) - before))
        created.write_text(step.up)
        created.rename(created.with_name(f"{moment(number)}_{created.name.partition('_')[2]}"))
        return moment(number)

    def command(self, url: str, *arguments: str) -> str:
        """Run one of its commands on a database."""
        return self.run(self.program, "migration", *arguments, "--db-url", as_scheme(url, "postgresql"))

    def up(self, url: str) -> str:
        return self.command(url, "up")
