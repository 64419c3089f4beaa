"""Install the tools at fixed versions into .tools/, each with the ordinary client of its registry.

    python -m tests.tools.install           all of them
    python -m tests.tools.install --quick   those that take seconds, as CI does

What is already there in the right version stays. If something could not be installed, says what and exits with 1.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
import venv
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tools import HOME

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

RECORD = "installed.json"
"""The installed versions, by what was requested from the registry."""

# Leave out the drivers of other databases, which take minutes to compile.
_GOOSE_WITHOUT = "clickhouse libsql mssql mysql sqlite3 vertica ydb duckdb spanner starrocks"
GO = {
    "github.com/pressly/goose/v3/cmd/goose@v3.30.0": " ".join(f"no_{name}" for name in _GOOSE_WITHOUT.split()),
    "github.com/golang-migrate/migrate/v4/cmd/migrate@v4.20.1": "postgres",
    "github.com/rubenv/sql-migrate/sql-migrate@v1.8.1": "",
}

# Prisma's package contains its engine as WebAssembly, which reaches the server through the adapter; the native engine
# would be a separate download. Drizzle 1.0 keeps a different history than 0.x, and they cannot share a folder.
NPM = {
    "node": (
        "dbmate@2.36.0",
        "drizzle-kit@0.31.11",
        "drizzle-orm@0.45.4",
        "prisma@6.19.3",
        "@prisma/adapter-pg@6.19.3",
        "pg@8.23.1",
        "supabase@2.117.0",
    ),
    "node-programs": (
        "liquibase@4.28.1",
        "node-pg-migrate@9.0.0",
        "pg@8.23.1",
        "sequelize-cli@6.6.5",
        "sequelize@6.37.8",
        "typeorm@1.1.1",
    ),
    "node-drizzle-1": ("drizzle-kit@1.0.0-rc.5", "drizzle-orm@1.0.0-rc.5", "pg@8.23.1"),
}

# Flyway's own command line, with those of its hundreds of jars that PostgreSQL needs.
MAVEN = {
    "org.flywaydb:flyway-commandline": "11.20.3",
    "org.flywaydb:flyway-core": "11.20.3",
    "org.flywaydb:flyway-database-postgresql": "11.20.3",
    "org.postgresql:postgresql": "42.7.8",
    "com.fasterxml.jackson.core:jackson-databind": "2.19.1",
    "com.fasterxml.jackson.dataformat:jackson-dataformat-toml": "2.19.1",
}

# These take minutes each.
CARGO = {
    "sqlx-cli@0.9.0": ("--no-default-features", "--features", "postgres,rustls"),
    "diesel_cli@2.3.14": ("--no-default-features", "--features", "postgres"),
}


# The applications in examples/, with what each pins in its own file.
EXAMPLES = Path(__file__).parents[2] / "examples"
PINNED = {
    "fastapi-alembic": "requirements.txt",
    "django": "requirements.txt",
    "node-knex": "package.json",
    "node-drizzle": "package.json",
    "goose": "go.sum",
}

# goose 2.1.0 also adds a row for each down migration, and its tables are still in use.
GOOSE_2 = Path(__file__).parent / "files" / "goose2"


class InstallationError(Exception):
    """A tool could not be installed; the message says which and why."""


class Part(NamedTuple):
    """Something to install: its folder, what to install, and how.

    It is skipped if the record says it is already there.
    """

    folder: str
    wanted: str
    install: Callable[[Path], None]


def parts(*, quick: bool) -> list[list[Part]]:
    """Return what to install: the lists in parallel, the parts of a list one after the other."""
    go = [Part("go", f"{package} [{tags}]", _go(package, tags)) for package, tags in GO.items()]
    go.append(Part("goose2", "goose2@2.1.0", _goose2))
    npm = [Part(folder, " ".join(packages), _npm(packages)) for folder, packages in NPM.items()]
    maven = [Part("flyway", " ".join(":".join(pair) for pair in MAVEN.items()), _maven)]
    examples = [Part(f"examples/{name}", *_example(name)) for name in PINNED]
    cargo = [Part("cargo", f"{package} {' '.join(flags)}", _cargo(package, flags)) for package, flags in CARGO.items()]
    return [go, npm + maven, examples] if quick else [go, npm + maven, examples, cargo]


def install(home: Path, *, quick: bool = False, only: str | None = None) -> list[str]:
    """Install into `home` what is missing, or `only` one of its folders; return what failed, and why."""
    home.mkdir(parents=True, exist_ok=True)
    record = home / RECORD
    there = set(json.loads(record.read_text())) if record.exists() else set()
    problems: list[str] = []

    def work(series: list[Part]) -> list[str]:
        done = []
        for part in series:
            started = time.monotonic()
            try:
                if only not in (None, part.folder):
                    continue
                if part.wanted not in there:
                    _twice(part.install, home / part.folder)
                    print(f"{time.monotonic() - started:5.1f} s  {part.wanted}", flush=True)
                done.append(part.wanted)
            except InstallationError as error:
                problems.append(str(error))
        return done

    series = parts(quick=quick)
    with ThreadPoolExecutor(len(series)) as pool:
        installed = [wanted for done in pool.map(work, series) for wanted in done]
    record.write_text(json.dumps(sorted(there | set(installed)), indent=1) + "\n")
    return problems


def _twice(install: Callable[[Path], None], folder: Path) -> None:
    """Install; try again once if that fails, since a registry may have a bad moment."""
    try:
        install(folder)
    except InstallationError:
        install(folder)


def _go(package: str, tags: str) -> Callable[[Path], None]:
    def run(folder: Path) -> None:
        # Without C, or sql-migrate would compile SQLite.
        environment = {**os.environ, "GOBIN": str(folder), "GOTOOLCHAIN": "local", "CGO_ENABLED": "0"}
        _run([_client("go", package), "install", "-tags", tags, package], environment)

    return run


def _goose2(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    _run([_client("go", "goose 2"), "build", "-C", GOOSE_2, "-o", folder / "goose2", "."])


def _npm(packages: Sequence[str]) -> Callable[[Path], None]:
    def run(folder: Path) -> None:
        npm = _client("npm", ", ".join(packages))
        # Do not run the packages' own scripts: Prisma's would download what is not on the registry.
        _run([npm, "install", "--prefix", folder, "--ignore-scripts", "--no-audit", "--no-fund", "--exact", *packages])

    return run


def _maven(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    project = folder / "pom.xml"
    project.write_text(_pom(MAVEN))
    jars = folder / "jars"
    maven = _client("mvn", "Flyway")
    _run([maven, "-q", "-B", "-f", project, "dependency:copy-dependencies", f"-DoutputDirectory={jars}"])


def _pom(packages: Mapping[str, str]) -> str:
    def dependency(package: str, version: str) -> str:
        group, artifact = package.split(":")
        all_databases = "<exclusions><exclusion><groupId>*</groupId><artifactId>*</artifactId></exclusion></exclusions>"
        return (
            f"<dependency><groupId>{group}</groupId><artifactId>{artifact}</artifactId><version>{version}</version>"
            f"{all_databases if artifact == 'flyway-commandline' else ''}</dependency>"
        )

    return (
        "<project><modelVersion>4.0.0</modelVersion><groupId>tools</groupId><artifactId>flyway</artifactId>"
        "<version>1</version><dependencies>"
        + "\n".join(dependency(*pair) for pair in packages.items())
        + "</dependencies></project>\n"
    )


def _cargo(package: str, flags: Sequence[str]) -> Callable[[Path], None]:
    def run(folder: Path) -> None:
        _run([_client("cargo", package), "install", "--quiet", "--locked", "--root", folder, *flags, package])

    return run


def _example(name: str) -> tuple[str, Callable[[Path], None]]:
    """Return what an example needs, with the checksum of the file that pins it, and how to install it."""
    pinned = EXAMPLES / name / PINNED[name]
    wanted = f"examples/{name} {hashlib.sha256(pinned.read_bytes()).hexdigest()}"
    if pinned.suffix == ".json":
        packages = json.loads(pinned.read_text())["dependencies"]
        return wanted, _npm([f"{package}@{version}" for package, version in packages.items()])
    if pinned.suffix == ".txt":
        return wanted, _pip(pinned)
    return wanted, _shop(pinned.parent)


def _pip(requirements: Path) -> Callable[[Path], None]:
    def run(folder: Path) -> None:
        # Leave out pip and setuptools, which would add a file to every start of Python.
        venv.EnvBuilder(symlinks=True, with_pip=False, clear=True).create(folder)
        pip: list[str | Path] = [sys.executable, "-m", "pip", "--python", folder / "bin" / "python", "install"]
        options = ("--quiet", "--disable-pip-version-check", "--require-hashes", "--requirement")
        _run([*pip, *options, requirements])

    return run


def _shop(source: Path) -> Callable[[Path], None]:
    def run(folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        environment = {**os.environ, "GOTOOLCHAIN": "local", "CGO_ENABLED": "0"}
        _run([_client("go", "examples/goose"), "build", "-C", source, "-o", folder / "shop", "."], environment)

    return run


def _client(name: str, wanted: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise InstallationError(f"no `{name}` here, so without {wanted}")
    return found


def _run(argv: Sequence[str | Path], env: Mapping[str, str] | None = None) -> None:
    done = subprocess.run(argv, env=env, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        command = " ".join(map(str, argv))
        raise InstallationError(f"{command} ended with {done.returncode}:\n{(done.stdout + done.stderr)[-2000:]}")


def version_of(package: str) -> str:
    """Return the version of something by a part of its name here: `drizzle-kit@1` for one of two."""
    maven = [f"{name}@{version}" for name, version in MAVEN.items()]
    names = [*GO, "goose2@2.1.0", *(name for names in NPM.values() for name in names), *maven, *CARGO]
    return next(name.rpartition("@")[2].removeprefix("v") for name in names if package in name)


def main() -> int:
    """Return 0, or 1 if something could not be installed."""
    parser = argparse.ArgumentParser(prog="python -m tests.tools.install", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="without those that take minutes")
    parser.add_argument("--home", type=Path, default=HOME, help="where to (default: .tools)")
    parser.add_argument("--only", metavar="FOLDER", help="only what goes into this folder, such as flyway")
    wanted = parser.parse_args()
    problems = install(wanted.home, quick=wanted.quick, only=wanted.only)
    for problem in problems:
        print(f"NOT INSTALLED: {problem}", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
