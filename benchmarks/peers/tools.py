"""The other tools: the format of their migrations, and their commands. Nothing here runs anything."""

from __future__ import annotations

import os
import platform
import shutil
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from benchmarks.target import Target

PATH = "/usr/local/bin:/usr/bin:/bin"

# alembic's scripts are Python. SQL longer than this is in a separate file.
LONGEST_LITERAL = 1_000_000

_ALEMBIC_INI = """\
[alembic]
script_location = %(here)s
"""

# `alembic init` writes one that does the same and also configures logging.
_ALEMBIC_ENV = """\
import os
from alembic import context
from sqlalchemy import create_engine, pool

engine = create_engine(os.environ["BENCHMARK_URL"], poolclass=pool.NullPool)
with engine.connect() as connection:
    context.configure(connection=connection, target_metadata=None)
    with context.begin_transaction():
        context.run_migrations()
"""

_ALEMBIC_SCRIPT = """\
from pathlib import Path

from alembic import op

revision = {revision!r}
down_revision = {before!r}


def upgrade():
    op.execute({sql})


def downgrade():
    pass
"""

_LIQUIBASE_CHANGELOG = """\
databaseChangeLog:
  - includeAll:
      path: changes/
      relativeToChangelogFile: true
"""


class Command(NamedTuple):
    """A program to start."""

    argv: list[str]
    env: dict[str, str]


class NotPossibleError(Exception):
    """The tool cannot do this; the message says why."""


class Peer(ABC):
    """Another migration tool."""

    name: str
    """The command, as tables show it."""
    package: str

    def __init__(self, home: Path) -> None:
        """Look for the tool in `home`, where `install` puts it."""
        self.home = home

    @property
    @abstractmethod
    def program(self) -> Path:
        """Return the file that exists if it is installed."""

    def missing(self) -> str | None:
        """Return why it cannot be run here, or None."""
        return None if self.program.exists() else f"{self.name}: not installed (make bench-peers)"

    @abstractmethod
    def write(self, folder: Path, files: Mapping[str, str]) -> None:
        """Write migrations in its own format into an empty folder; `files` maps `001_name.sql` to SQL."""

    @abstractmethod
    def command(self, folder: Path, target: Target) -> Command:
        """Return the command that applies them. Raises NotPossibleError if it cannot use this connection."""


def environment(folder: Path, **more: str) -> dict[str, str]:
    """Return a tool's environment: the minimum and `more`, nothing from the benchmark's own."""
    return {"PATH": PATH, "HOME": str(folder), "LANG": "C.UTF-8", **more}


class Dbmate(Peer):
    """A Go binary, from npm's package for the platform, without the JavaScript wrapper."""

    name = "dbmate up"
    package = "dbmate"

    @property
    def program(self) -> Path:
        """Return the binary itself."""
        machine = {"x86_64": "x64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
        return self.home / "node_modules" / "@dbmate" / f"linux-{machine}" / "bin" / "dbmate"

    def write(self, folder: Path, files: Mapping[str, str]) -> None:
        """Put its directive at the top of each file."""
        for name, sql in files.items():
            (folder / name).write_text(f"-- migrate:up\n{sql}\n-- migrate:down\n")

    def command(self, folder: Path, target: Target) -> Command:
        """Return the command, without the dump of the schema, which is for developers."""
        argv = [str(self.program), "--migrations-dir", str(folder), "--no-dump-schema", "up"]
        return Command(argv, environment(folder, DATABASE_URL=target.url_as("postgres")))


class NodePgMigrate(Peer):
    """Runs in Node.js."""

    name = "node-pg-migrate up"
    package = "node-pg-migrate"

    @property
    def program(self) -> Path:
        """Return the script that npm links to."""
        return self.home / "node_modules" / "node-pg-migrate" / "bin" / "node-pg-migrate.js"

    def missing(self) -> str | None:
        """Also look for Node.js."""
        return super().missing() or (None if shutil.which("node") else f"{self.name}: no `node` here")

    def write(self, folder: Path, files: Mapping[str, str]) -> None:
        """Put its directive at the top of each file."""
        for name, sql in files.items():
            (folder / name).write_text(f"-- Up Migration\n{sql}\n-- Down Migration\n")

    def command(self, folder: Path, target: Target) -> Command:
        """Return the command. It must not print the SQL that it runs."""
        # With sslmode=require, its driver wants a certificate signed by an authority.
        url = target.url_as("postgres", **({"uselibpqcompat": "true"} if target.tls else {}))
        argv = [shutil.which("node") or "node", str(self.program), "up", "-m", str(folder), "--no-verbose"]
        return Command(argv, environment(folder, DATABASE_URL=url))


class Yoyo(Peer):
    """Runs in Python, in the peers' virtual environment."""

    name = "yoyo apply"
    package = "yoyo-migrations"

    @property
    def program(self) -> Path:
        """Return the script that pip installed."""
        return self.home / "venv" / "bin" / "yoyo"

    def write(self, folder: Path, files: Mapping[str, str]) -> None:
        """Write them unchanged."""
        for name, sql in files.items():
            (folder / name).write_text(sql)

    def command(self, folder: Path, target: Target) -> Command:
        """Ask nothing."""
        url = target.url_as("postgresql+psycopg")
        argv = [str(self.program), "apply", "--batch", "--no-config-file", "--database", url, str(folder)]
        return Command(argv, environment(folder))


class Alembic(Peer):
    """Runs in Python, in the same virtual environment."""

    name = "alembic upgrade head"
    package = "alembic"

    @property
    def program(self) -> Path:
        """Return the script that pip installed."""
        return self.home / "venv" / "bin" / "alembic"

    def write(self, folder: Path, files: Mapping[str, str]) -> None:
        """Write a script for each file, which executes its SQL."""
        (folder / "alembic.ini").write_text(_ALEMBIC_INI)
        (folder / "env.py").write_text(_ALEMBIC_ENV)
        versions = folder / "versions"
        versions.mkdir()
        before = None
        for name, sql in files.items():
            stem = name.removesuffix(".sql")
            expression = repr(sql)
            if len(sql) > LONGEST_LITERAL:
                (versions / name).write_text(sql)
                expression = f"Path(__file__).with_name({name!r}).read_text()"
            script = _ALEMBIC_SCRIPT.format(revision=stem, before=before, sql=expression)
            (versions / f"{stem}.py").write_text(script)
            before = stem

    def command(self, folder: Path, target: Target) -> Command:
        """Return the command."""
        argv = [str(self.program), "-c", str(folder / "alembic.ini"), "upgrade", "head"]
        return Command(argv, environment(folder, BENCHMARK_URL=target.url_as("postgresql+psycopg")))


class Sqitch(Peer):
    """Runs in Perl, and runs psql for each migration: the real one, not Debian's wrapper."""

    name = "sqitch deploy"
    package = "sqitch"

    def __init__(self, home: Path, psql: Path | None) -> None:
        """Take the psql to use."""
        super().__init__(home)
        self._psql = psql

    @property
    def program(self) -> Path:
        """Return the installation's link to Debian's sqitch."""
        return self.home / "bin" / "sqitch"

    def missing(self) -> str | None:
        """Also look for psql."""
        return super().missing() or (None if self._psql else f"{self.name}: no psql here")

    def write(self, folder: Path, files: Mapping[str, str]) -> None:
        """Write a plan, and for each file a script with its own transaction, as `sqitch add` does."""
        (folder / "sqitch.conf").write_text("[core]\n\tengine = pg\n")
        deploy = folder / "deploy"
        deploy.mkdir()
        plan = ["%syntax-version=1.0.0", "%project=benchmark", ""]
        for name, sql in files.items():
            change = name.removesuffix(".sql").partition("_")[2] + "_" + name.partition("_")[0]
            plan.append(f"{change} 2024-01-01T00:00:00Z Benchmark <benchmark@localhost> # {change}")
            (deploy / f"{change}.sql").write_text(f"BEGIN;\n\n{sql}\nCOMMIT;\n")
        (folder / "sqitch.plan").write_text("\n".join(plan) + "\n")

    def command(self, folder: Path, target: Target) -> Command:
        """Return the command, which connects with libpq's variables."""
        argv = [str(self.program), "--chdir", str(folder), "--quiet", "deploy", "--client", str(self._psql)]
        argv += ["--target", f"db:pg:{target.database}"]
        who = {"SQITCH_FULLNAME": "Benchmark", "SQITCH_EMAIL": "benchmark@localhost"}
        return Command(argv, environment(folder, **who, **target.environment))


class Liquibase(Peer):
    """Runs in Java, started without the shell script that looks for Java."""

    name = "liquibase update"
    package = "liquibase"

    @property
    def _libraries(self) -> Path:
        return self.home / "node_modules" / "liquibase" / "dist" / "liquibase"

    @property
    def program(self) -> Path:
        """Return its jar."""
        return self._libraries / "internal" / "lib" / "liquibase-core.jar"

    def missing(self) -> str | None:
        """Also look for Java."""
        return super().missing() or (None if shutil.which("java") else f"{self.name}: no `java` here")

    def write(self, folder: Path, files: Mapping[str, str]) -> None:
        """Write a changelog that includes each file as SQL, to be sent in one piece."""
        (folder / "changelog.yaml").write_text(_LIQUIBASE_CHANGELOG)
        changes = folder / "changes"
        changes.mkdir()
        for name, sql in files.items():
            stem = name.removesuffix(".sql")
            head = (
                f"--liquibase formatted sql\n--changeset benchmark:{stem} splitStatements:false stripComments:false\n"
            )
            (changes / name).write_text(head + sql)

    def command(self, folder: Path, target: Target) -> Command:
        """Return the command that starts Java with its jar."""
        if target.socket:
            raise NotPossibleError(f"{self.name}: its driver does not support Unix sockets")
        url = f"jdbc:postgresql://{target.host}:{target.port}/{target.database}?sslmode={target.sslmode}"
        java = os.fspath(shutil.which("java") or "java")
        argv = [java, "-jar", str(self.program), "--show-banner=false", f"--search-path={folder}"]
        argv += ["--changelog-file=changelog.yaml", f"--url={url}", f"--username={target.user}"]
        argv += [f"--password={target.password or 'none'}", "update"]
        return Command(argv, environment(folder, LIQUIBASE_HOME=str(self._libraries)))


class Flyway(Peer):
    """Runs in Java, with only those of its jars that PostgreSQL needs."""

    name = "flyway migrate"
    package = "flyway"

    @property
    def program(self) -> Path:
        """Return the folder of its jars."""
        return self.home / "tools" / "flyway" / "jars"

    def missing(self) -> str | None:
        """Also look for Java."""
        return super().missing() or (None if shutil.which("java") else f"{self.name}: no `java` here")

    def write(self, folder: Path, files: Mapping[str, str]) -> None:
        """Write them with the names that it expects."""
        for name, sql in files.items():
            (folder / f"V{name.replace('_', '__', 1)}").write_text(sql)

    def command(self, folder: Path, target: Target) -> Command:
        """Return the command that starts Java with the options of Flyway's own shell script."""
        if target.socket:
            raise NotPossibleError(f"{self.name}: its driver does not support Unix sockets")
        url = f"jdbc:postgresql://{target.host}:{target.port}/{target.database}?sslmode={target.sslmode}"
        java = os.fspath(shutil.which("java") or "java")
        argv = [java, "-XX:TieredStopAtLevel=1", "-cp", f"{self.program}/*", "org.flywaydb.commandline.Main", "-q"]
        argv += ["-skipCheckForUpdate", "-placeholderReplacement=false", f"-locations=filesystem:{folder}"]
        argv += [f"-url={url}", f"-user={target.user}", f"-password={target.password or 'none'}", "migrate"]
        return Command(argv, environment(folder))
