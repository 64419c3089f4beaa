"""Migrations of frameworks: Django and Prisma."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.peers.tools import LONGEST_LITERAL, Command, Peer, environment

if TYPE_CHECKING:
    from collections.abc import Mapping

    from benchmarks.target import Target

# Prisma's package contains its engine as WebAssembly, and this connects it. The native engine is a download.
_CONFIGURATION = Path(__file__).parents[2] / "tests" / "tools" / "files"

_DJANGO = """\
import os
import sys

import django
from django.conf import settings
from django.core.management import execute_from_command_line

settings.configure(
    INSTALLED_APPS=["shop"],
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": os.environ["PGDATABASE"],
            "HOST": os.environ["PGHOST"],
            "PORT": os.environ["PGPORT"],
            "USER": os.environ["PGUSER"],
            "PASSWORD": os.environ.get("PGPASSWORD", ""),
            "OPTIONS": {"sslmode": os.environ["PGSSLMODE"]},
        }
    },
    USE_TZ=True,
)
django.setup()
execute_from_command_line(sys.argv)
"""

_DJANGO_MIGRATION = """\
from pathlib import Path

from django.db import migrations


class Migration(migrations.Migration):
    dependencies = {dependencies!r}
    operations = [migrations.RunSQL({sql})]
"""


class Django(Peer):
    """Runs in Python, in the peers' virtual environment: a project with one application without models."""

    name = "manage.py migrate"
    package = "Django"

    @property
    def _python(self) -> Path:
        return self.home / "venv" / "bin" / "python"

    @property
    def program(self) -> Path:
        """Return the script that pip installed."""
        return self.home / "venv" / "bin" / "django-admin"

    def write(self, folder: Path, files: Mapping[str, str]) -> None:
        """Write a migration for each file, which runs its SQL."""
        (folder / "manage.py").write_text(_DJANGO)
        migrations = folder / "shop" / "migrations"
        migrations.mkdir(parents=True)
        for package in (migrations, migrations.parent):
            (package / "__init__.py").write_text("")
        before = None
        for name, sql in files.items():
            stem = name.removesuffix(".sql")
            expression = repr(sql)
            if len(sql) > LONGEST_LITERAL:
                (migrations / name).write_text(sql)
                expression = f"Path(__file__).with_name({name!r}).read_text()"
            dependencies: list[tuple[str, str]] = [("shop", before)] if before else []
            (migrations / f"{stem}.py").write_text(_DJANGO_MIGRATION.format(dependencies=dependencies, sql=expression))
            before = stem

    def command(self, folder: Path, target: Target) -> Command:
        """Run the project's script, as users do."""
        argv = [str(self._python), str(folder / "manage.py"), "migrate", "--verbosity", "0"]
        return Command(argv, environment(folder, **target.environment))


class Prisma(Peer):
    """Runs in Node.js."""

    name = "prisma migrate deploy"
    package = "prisma"

    @property
    def program(self) -> Path:
        """Return its script."""
        return self.home / "node_modules" / "prisma" / "build" / "index.js"

    def missing(self) -> str | None:
        """Also look for Node.js."""
        return super().missing() or (None if shutil.which("node") else f"{self.name}: no `node` here")

    def write(self, folder: Path, files: Mapping[str, str]) -> None:
        """Write a folder for each file."""
        migrations = folder / "prisma" / "migrations"
        migrations.mkdir(parents=True)
        shutil.copy(_CONFIGURATION / "schema.prisma", migrations.parent)
        shutil.copy(_CONFIGURATION / "prisma.config.mjs", folder)
        (folder / "node_modules").symlink_to(self.home / "node_modules")
        (migrations / "migration_lock.toml").write_text('provider = "postgresql"\n')
        for name, sql in files.items():
            number, _, rest = name.removesuffix(".sql").partition("_")
            place = migrations / f"{20240101000000 + int(number)}_{rest}"
            place.mkdir()
            (place / "migration.sql").write_text(sql)

    def command(self, folder: Path, target: Target) -> Command:
        """Return the command. It must not download its native engines or look for updates."""
        # With sslmode=require, its driver wants a certificate signed by an authority.
        url = target.url_as("postgres", **({"uselibpqcompat": "true"} if target.tls else {}))
        more = {
            "PRISMA_QUERY_ENGINE_LIBRARY": "/bin/true",
            "PRISMA_SCHEMA_ENGINE_BINARY": "/bin/true",
            "CHECKPOINT_DISABLE": "1",
            "PRISMA_HIDE_UPDATE_MESSAGE": "1",
        }
        # It looks for its configuration in the current directory.
        node = [shutil.which("node") or "node", str(self.program), "migrate", "deploy"]
        argv = ["/bin/sh", "-c", 'cd "$0" && exec "$@"', str(folder), *node]
        return Command(argv, environment(folder, DATABASE_URL=url, **more))
