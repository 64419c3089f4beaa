"""Other tools that are a single binary: goose, golang-migrate and tern in Go, sqlx in Rust."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.peers.tools import Command, Peer, environment

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from benchmarks.target import Target


class Goose(Peer):
    """Built without drivers for other databases."""

    name = "goose up"
    package = "goose"

    @property
    def program(self) -> Path:
        """Return the binary."""
        return self.home / "tools" / "go" / "goose"

    def write(self, folder: Path, files: Mapping[str, str]) -> None:
        """Put its markers around each file, so that it is sent in one piece."""
        for name, sql in files.items():
            (folder / name).write_text(f"-- +goose Up\n-- +goose StatementBegin\n{sql}\n-- +goose StatementEnd\n")

    def command(self, folder: Path, target: Target) -> Command:
        """Return the command."""
        argv = [str(self.program), "-dir", str(folder), "postgres", target.url_as("postgres"), "up"]
        return Command(argv, environment(folder))


class GolangMigrate(Peer):
    """Built with only PostgreSQL's driver. It sends a file as it is, without a transaction around it."""

    name = "migrate up"
    package = "golang-migrate"

    @property
    def program(self) -> Path:
        """Return the binary."""
        return self.home / "tools" / "go" / "migrate"

    def write(self, folder: Path, files: Mapping[str, str]) -> None:
        """Write them with the names that it expects."""
        for name, sql in files.items():
            (folder / f"{name.removesuffix('.sql')}.up.sql").write_text(sql)

    def command(self, folder: Path, target: Target) -> Command:
        """Return the command."""
        argv = [str(self.program), "-path", str(folder), "-database", target.url_as("postgres"), "up"]
        return Command(argv, environment(folder))


class Tern(Peer):
    """For PostgreSQL only, by pgx's author."""

    name = "tern migrate"
    package = "tern"

    @property
    def program(self) -> Path:
        """Return the binary."""
        return self.home / "go" / "tern"

    def write(self, folder: Path, files: Mapping[str, str]) -> None:
        """Write them unchanged. None contains `{{`, which it would read as a template."""
        for name, sql in files.items():
            (folder / name).write_text(sql)

    def command(self, folder: Path, target: Target) -> Command:
        """Return the command."""
        argv = [str(self.program), "migrate", "--migrations", str(folder), "--conn-string", target.url_as("postgres")]
        return Command(argv, environment(folder))


class Sqlx(Peer):
    """sqlx's command line, with only PostgreSQL's driver. Cargo takes a quarter of an hour to build it."""

    name = "sqlx migrate run"
    package = "sqlx-cli"

    @property
    def program(self) -> Path:
        """Return the binary."""
        return self.home / "cargo" / "bin" / "sqlx"

    def write(self, folder: Path, files: Mapping[str, str]) -> None:
        """Write them unchanged."""
        for name, sql in files.items():
            (folder / name).write_text(sql)

    def command(self, folder: Path, target: Target) -> Command:
        """Return the command. It must not look for an `.env` file."""
        argv = [str(self.program), "migrate", "run", "--no-dotenv", "--source", str(folder)]
        return Command([*argv, "--database-url", target.url_as("postgres")], environment(folder))
