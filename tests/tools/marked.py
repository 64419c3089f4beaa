"""Tools that mark sections in their files: goose, dbmate and sql-migrate."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tools.kit import Step, Tool, as_scheme, binary, moment, only

if TYPE_CHECKING:
    from pathlib import Path


class Goose(Tool):
    """`goose create` and `goose up`."""

    name = "goose"
    package = "pressly/goose/v3"
    table = "goose_db_version"

    @property
    def program(self) -> Path:
        return self.home / "go" / "goose"

    def _add(self, step: Step, number: int) -> str:
        self.directory.mkdir(exist_ok=True)
        before = set(self.directory.glob("*"))
        self.run(self.program, "-dir", self.directory, "create", step.name, "sql")
        created = only(sorted(set(self.directory.glob("*")) - before))
        created.write_text(self.text(step))
        created.rename(created.with_name(f"{moment(number)}_{created.name.partition('_')[2]}"))
        return moment(number)

    def text(self, step: Step) -> str:
        first, last = ("-- +goose StatementBegin\n", "-- +goose StatementEnd\n") if step.one else ("", "")
        alone = "-- +goose NO TRANSACTION\n" if step.alone else ""
        return f"{alone}-- +goose Up\n{first}{step.up}{last}\n-- +goose Down\n{step.down}"

    def command(self, url: str, *arguments: str, table: str = "goose_db_version") -> str:
        """Run one of its commands on a database."""
        return self.run(self.program, "-dir", self.directory, "-table", table, "postgres", url, *arguments)

    def up(self, url: str, *options: str) -> str:
        return self.command(url, "up", *options)

    def down(self, url: str) -> str:
        return self.command(url, "down")


class Goose2(Goose):
    """goose 2.1.0, with the same files, through its library: its command would bring the drivers of other databases."""

    package = "goose2"

    @property
    def program(self) -> Path:
        return self.home / "goose2" / "goose2"

    def _add(self, step: Step, number: int) -> str:
        self.directory.mkdir(exist_ok=True)
        (self.directory / f"{moment(number)}_{step.name}.sql").write_text(self.text(step))
        return moment(number)

    def command(self, url: str, *arguments: str, table: str = "goose_db_version") -> str:
        assert table == self.table, "this version has one name for it"
        return self.run(self.program, self.directory, as_scheme(url, "postgres"), *arguments)


class Dbmate(Tool):
    """`dbmate new` and `dbmate migrate`; the binary itself, without its JavaScript wrapper."""

    name = "dbmate"
    package = "dbmate"
    table = "schema_migrations"
    shares_our_name = True

    @property
    def program(self) -> Path:
        return binary(self.home / "node" / "node_modules" / "@dbmate", "linux-*/bin/dbmate")

    def command(self, url: str, *arguments: str, table: str = "schema_migrations") -> str:
        """Run one of its commands on a database."""
        options = ("--migrations-dir", str(self.directory), "--migrations-table", table, "--no-dump-schema")
        return self.run(self.program, "--url", as_scheme(url, "postgres"), *options, *arguments)

    def _add(self, step: Step, number: int) -> str:
        before = set(self.directory.glob("*"))
        self.command("postgres://nowhere/none", "new", step.name)
        created = only(sorted(set(self.directory.glob("*")) - before))
        option = " transaction:false" if step.alone else ""
        created.write_text(f"-- migrate:up{option}\n{step.up}\n-- migrate:down{option}\n{step.down}")
        created.rename(created.with_name(f"{moment(number)}_{created.name.partition('_')[2]}"))
        return moment(number)

    def up(self, url: str) -> str:
        return self.command(url, "migrate")

    def down(self, url: str) -> str:
        return self.command(url, "rollback")


class SqlMigrate(Tool):
    """`sql-migrate new` and `sql-migrate up`."""

    name = "sql-migrate"
    package = "rubenv/sql-migrate"
    table = "gorp_migrations"

    _CONFIGURATION = "development:\n  dialect: postgres\n  datasource: ${DATABASE_URL}\n  dir: migrations\n"

    @property
    def program(self) -> Path:
        return self.home / "go" / "sql-migrate"

    def _run(self, command: str, *arguments: str, url: str = "postgres://nowhere/none") -> str:
        (self.project / "dbconfig.yml").write_text(self._CONFIGURATION)
        return self.run(self.program, command, *arguments, DATABASE_URL=as_scheme(url, "postgres"))

    def _add(self, step: Step, number: int) -> str:
        self.directory.mkdir(exist_ok=True)
        before = set(self.directory.glob("*"))
        self._run("new", step.name)
        created = only(sorted(set(self.directory.glob("*")) - before))
        option = " notransaction" if step.alone else ""
        first, last = ("-- +migrate StatementBegin\n", "-- +migrate StatementEnd\n") if step.one else ("", "")
        created.write_text(f"-- +migrate Up{option}\n{first}{step.up}{last}\n-- +migrate Down{option}\n{step.down}")
        created = created.rename(created.with_name(f"{moment(number)}-{created.name.partition('-')[2]}"))
        return created.name

    def up(self, url: str) -> str:
        return self._run("up", url=url)

    def down(self, url: str) -> str:
        return self._run("down", url=url)
