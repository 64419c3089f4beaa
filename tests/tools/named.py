"""Tools that recognize migrations by the names of files and folders: golang-migrate, Flyway, sqlx, diesel."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from tools.kit import Step, Tool, ToolError, as_scheme, moment, only

if TYPE_CHECKING:
    from pathlib import Path


class GolangMigrate(Tool):
    """`migrate create` and `migrate up`."""

    name = "golang-migrate"
    package = "golang-migrate/migrate"
    table = "schema_migrations"
    shares_our_name = True

    @property
    def program(self) -> Path:
        return self.home / "go" / "migrate"

    def _add(self, step: Step, number: int) -> str:
        self.run(self.program, "create", "-ext", "sql", "-dir", self.directory, "-seq", step.name)
        created = f"{number:06d}_{step.name}"
        (self.directory / f"{created}.up.sql").write_text(step.up)
        (self.directory / f"{created}.down.sql").write_text(step.down)
        return str(number)

    def command(self, url: str, *arguments: str) -> str:
        """Run one of its commands on a database."""
        return self.run(self.program, "-path", self.directory, "-database", as_scheme(url, "postgres"), *arguments)

    def up(self, url: str) -> str:
        return self.command(url, "up")

    def down(self, url: str) -> str:
        return self.command(url, "down", "1")


class Flyway(Tool):
    """`flyway migrate`. Its free edition has no command that creates a file or undoes a migration."""

    name = "flyway"
    package = "flyway-core"
    table = "flyway_schema_history"
    goes_back = False

    # A version's parts are compared as numbers, so 10 comes after 2.1.
    VERSIONS = ("1", "2", "2.1", "10", "10.0.1")

    @property
    def program(self) -> Path:
        return self.home / "flyway" / "jars"

    def _add(self, step: Step, number: int) -> str:
        self.directory.mkdir(exist_ok=True)
        version = self.VERSIONS[number - 1]
        (self.directory / f"V{version.replace('.', '_')}__{step.name}.sql").write_text(step.up)
        return version

    def _is(self, path: Path, version: str) -> bool:
        return path.name.partition("__")[0] == f"V{version.replace('.', '_')}"

    def command(self, url: str, *arguments: str) -> str:
        """Run one of its commands on a database."""
        at = urlsplit(url)
        address = f"jdbc:postgresql://{at.hostname}:{at.port}{at.path}"
        said = self.run(
            "java",
            "-XX:TieredStopAtLevel=1",
            "-cp",
            f"{self.program}/*",
            "org.flywaydb.commandline.Main",
            "-skipCheckForUpdate",
            # With its lock in a transaction, CREATE INDEX CONCURRENTLY would wait for that, and Flyway for the index.
            "-postgresql.transactional.lock=false",
            f"-url={address}",
            f"-user={at.username}",
            f"-locations=filesystem:{self.directory}",
            *arguments,
        )
        # It exits with 0 even so.
        if "ERROR: " in said:
            raise ToolError(said)
        return said

    def up(self, url: str) -> str:
        return self.command(url, "migrate")


class Sqlx(Tool):
    """`sqlx migrate add -r` and `sqlx migrate run`."""

    name = "sqlx"
    quick = False
    package = "sqlx-cli"
    table = "_sqlx_migrations"

    @property
    def program(self) -> Path:
        return self.home / "cargo" / "bin" / "sqlx"

    def _add(self, step: Step, number: int) -> str:
        before = set(self.directory.glob("*"))
        self.run(self.program, "migrate", "add", "-r", "--timestamp", "--source", self.directory, step.name)
        created = sorted(set(self.directory.glob("*")) - before)
        assert len(created) == 2, created
        mark = "-- no-transaction\n" if step.alone else ""
        for path in created:
            path.write_text(mark + (step.up if path.name.endswith(".up.sql") else step.down))
            path.rename(path.with_name(f"{moment(number)}_{path.name.partition('_')[2]}"))
        return moment(number)

    def command(self, url: str, *arguments: str) -> str:
        """Run one of its commands on a database."""
        return self.run(self.program, "migrate", *arguments, "--source", self.directory, DATABASE_URL=url)

    def up(self, url: str) -> str:
        return self.command(url, "run")

    def down(self, url: str) -> str:
        return self.command(url, "revert")


class Diesel(Tool):
    """`diesel migration generate` and `diesel migration run`."""

    name = "diesel"
    quick = False
    package = "diesel_cli"
    table = "__diesel_schema_migrations"

    @property
    def program(self) -> Path:
        return self.home / "cargo" / "bin" / "diesel"

    def _run(self, url: str, *arguments: str) -> str:
        self.directory.mkdir(exist_ok=True)
        # It finds the project by these two, and writes a schema.rs unless the file does not mention one.
        (self.project / "Cargo.toml").touch()
        (self.project / "diesel.toml").touch()
        return self.run(self.program, "migration", "--migration-dir", self.directory, *arguments, DATABASE_URL=url)

    def _add(self, step: Step, number: int) -> str:
        # It also keeps a lock there, .diesel_lock.
        before = set(self.directory.glob("2*"))
        self._run("postgres://nowhere/none", "generate", step.name)
        created = only(sorted(set(self.directory.glob("2*")) - before))
        version = f"2024-01-01-00{number:02d}00-0000"
        created = created.rename(created.with_name(f"{version}_{step.name}"))
        (created / "up.sql").write_text(step.up)
        (created / "down.sql").write_text(step.down)
        if step.alone:
            (created / "metadata.toml").write_text("run_in_transaction = false\n")
        return version.replace("-", "")

    def up(self, url: str) -> str:
        return self._run(url, "run")

    def down(self, url: str) -> str:
        return self._run(url, "revert")
