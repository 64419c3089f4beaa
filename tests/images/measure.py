"""Measure the images: how large they are, what takes up each megabyte, and what a start in a container costs.

    make bench-images            # or: python -m tests.images.measure --runs 51

Needs what `make test-images` needs. Prints the tables of docs/image.md.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import tempfile
import time
import zlib
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from benchmarks.report import Section, seconds, times
from demo.postgres import Server
from images.kit import bases
from images.kit.engine import Engine, missing_programs
from kit.migrations import non_idempotent, write_migrations

if TYPE_CHECKING:
    from collections.abc import Mapping

ROOT = Path(__file__).parents[2]
HOME = "/usr/local/lib/pg-entrypoint"
IMAGE, FULL, WITH_PSQL = "pg-entrypoint:latest", "pg-entrypoint:full", "pg-entrypoint-tests/with-psql"
PSQL = f"/usr/lib/postgresql/{bases.CLIENT_OF_PYTHON}/bin/psql"

# Parts of the image, and how their paths begin: in site-packages, unless there is a leading slash.
PARTS = {
    "libpq and what it needs: OpenSSL, Kerberos, LDAP": r"psycopg_binary\.libs/",
    "psycopg": r"psycopg(_binary)?(-|/)",
    "pgparse: PostgreSQL's parser": r"pgparse",
    "rich: tables and bars on a terminal": r"rich",
    "this program": r"(pg_)?entrypoint(-|/)|/bin/",
    "tenacity, python-json-logger, typing_extensions": r"tenacity|python_?json_?logger|typing_extensions",
    "bytecode of Python's standard library": r"/stdlib/",
}


def main() -> int:
    """Return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.images.measure", description=__doc__)
    parser.add_argument("--runs", type=int, default=51, help="how often to start each program in a container")
    runs = parser.parse_args().runs
    absent = missing_programs("mmdebstrap")
    if os.geteuid() != 0 or absent:
        print(f"needs root, and on this machine: {', '.join(absent) or 'nothing else'}", file=sys.stderr)
        return 1
    print(f"load {os.getloadavg()[0]:.1f} at the start\n", flush=True)
    with Engine() as engine:
        base = bases.provide(engine, bases.PYTHON)
        engine.build(ROOT, tag=IMAGE)
        engine.build(ROOT, tag=FULL, target="full", arguments={"POSTGRES_MAJOR": bases.CLIENT_OF_PYTHON})
        print(_sizes(engine, base).table())
        print(_parts(engine, base).table(), flush=True)
        with Server() as server, tempfile.TemporaryDirectory() as folder:
            for section in _starts(engine, server, Path(folder), runs):
                print(section.table(), flush=True)
    print(f"load {os.getloadavg()[0]:.1f} at the end")
    return 0


# --- Sizes ----------------------------------------------------------------------------------------------


def _sizes(engine: Engine, base: str) -> Section:
    section = Section("Images", ("", "total", "added to the base", "added, compressed"))
    start = int(engine.inspect(base, "{{.Size}}"))
    below = len(json.loads(engine.inspect(base, "{{json .RootFS.Layers}}")))
    for name in (base, IMAGE, FULL):
        size = int(engine.inspect(name, "{{.Size}}"))
        added = "" if name == base else _mb(size - start)
        compressed = "" if name == base else _mb(_compressed(engine, name, below))
        section.rows.append((name, _mb(size), added, compressed))
    section.notes = ["Compressed: as a registry keeps and sends it (gzip, level 6)."]
    return section


def _compressed(engine: Engine, image: str, below: int) -> int:
    """Return the compressed size of the image's own layers, those above the first `below`."""
    with tempfile.TemporaryDirectory() as folder:
        engine.run("save", "--output", f"{folder}/image.tar", image)  # by its tag; otherwise it would save all of them
        engine.command("tar", "-xf", f"{folder}/image.tar", "-C", folder)
        layers = json.loads(Path(folder, "manifest.json").read_text())[0]["Layers"][below:]
        return sum(len(zlib.compress(Path(folder, layer).read_bytes(), 6)) for layer in layers)


def _parts(engine: Engine, base: str) -> Section:
    before = {member.name for member, _ in engine.files(base)}
    sizes: dict[str, list[int]] = {name: [0, 0] for name in (*PARTS, "the rest")}
    for member, data in engine.files(IMAGE):
        if member.isreg() and member.name not in before:
            kind = 1 if member.name.endswith(".pyc") else 0
            sizes[_part(f"/{member.name}")][kind] += len(data)
    section = Section(f"What {IMAGE} adds to {base}", ("", "files", "bytecode", "total"))
    for name, (files, bytecode) in sorted(sizes.items(), key=lambda item: -sum(item[1])):
        section.rows.append((name, _mb(files), _mb(bytecode), _mb(files + bytecode)))
    files, bytecode = (sum(pair[kind] for pair in sizes.values()) for kind in (0, 1))
    section.rows.append(("total", _mb(files), _mb(bytecode), _mb(files + bytecode)))
    return section


def _part(path: str) -> str:
    if not path.startswith(f"{HOME}/"):
        path = "/stdlib/" if path.endswith(".pyc") else path
    elif "/site-packages/" in path:
        path = path.partition("/site-packages/")[2]
    return next((name for name, pattern in PARTS.items() if re.match(pattern, path)), "the rest")


def _mb(size: int) -> str:
    return f"{size / 1e6:.1f} MB"


# --- Starts ---------------------------------------------------------------------------------------------


def _starts(engine: Engine, server: Server, folder: Path, runs: int) -> list[Section]:
    """Measure starts with nothing to do, inside a container and as whole containers."""
    (folder / "Dockerfile").write_text(
        f"FROM {IMAGE}\nUSER 0\n"
        "RUN apt-get update && apt-get install --yes --no-install-recommends "
        f"postgresql-client-{bases.CLIENT_OF_PYTHON}\nUSER 65532\n"
    )
    engine.build(folder, tag=WITH_PSQL)
    migrations = write_migrations(folder / "migrations", non_idempotent(30))
    migrations.chmod(0o755)
    folder.chmod(0o755)
    server.create_database("shop")
    environment = {"DATABASE_URL": server.url("shop", sslmode="disable"), "AUTO_MIGRATE": "true"}
    more = ["--network=host", "--read-only", f"--volume={migrations}:/app/migrations:ro"]
    more += [f"--env={name}={value}" for name, value in environment.items()]
    engine.run("run", "--rm", *more, "--entrypoint=entrypoint", WITH_PSQL, "migrate")
    return [_inside(engine, more, server, runs), _whole(engine, more, server, max(5, runs // 3))]


def _inside(engine: Engine, more: list[str], server: Server, runs: int) -> Section:
    """Start programs in a running container, so without the engine's own time for a container."""
    url = server.url("shop", sslmode="disable")
    ours = "entrypoint run -- true"
    commands = {
        ours: ["entrypoint", "run", "--", "true"],
        "AUTO_MIGRATE=false entrypoint run -- true": ["AUTO_MIGRATE=false", "entrypoint", "run", "--", "true"],
        "psql -X -c 'select 1'": [PSQL, "-X", "-c", "select 1", url],
        "python3 -I -c pass": ["python3", "-I", "-c", "pass"],
        "true": ["true"],
    }
    script = f"--volume={Path(__file__).with_name('turns.py')}:/turns.py:ro"
    done = engine.run(
        *("run", "--rm", *more, script, "--entrypoint=python3", WITH_PSQL, "/turns.py", str(runs)),
        json.dumps(commands),
        timeout=1200,
    )
    taken = json.loads(done.stdout)
    section = Section(
        f"An up-to-date start inside a container: 30 applied files, TCP without TLS; medians of {runs} runs in turns",
        ("", "wall", f"{ours} is", "CPU", "fastest"),
    )
    walls = {name: median(wall for wall, _ in samples) for name, samples in taken.items()}
    for name, samples in sorted(taken.items(), key=lambda item: -walls[item[0]]):
        cpu = median(cpu for _, cpu in samples)
        fastest = min(wall for wall, _ in samples)
        ratio = times(walls[ours] / walls[name])
        section.rows.append((name, seconds(walls[name]), ratio, seconds(cpu), seconds(fastest)))
    return section


def _whole(engine: Engine, more: list[str], server: Server, runs: int) -> Section:
    """Start whole containers, in turns, to see what we add to `docker run` of the application alone."""
    psql = ["--entrypoint", PSQL, WITH_PSQL, "-X", "-c", "select 1", server.url("shop", sslmode="disable")]
    commands: Mapping[str, list[str]] = {
        "the application alone": ["--entrypoint=true", WITH_PSQL],
        "entrypoint run, then the application": [WITH_PSQL, "true"],
        "psql -X -c 'select 1'": psql,
    }
    taken: dict[str, list[float]] = {name: [] for name in commands}
    for turn in range(runs + 1):
        for name, command in commands.items():
            began = time.monotonic()
            engine.run("run", "--rm", *more, *command)
            if turn:
                taken[name].append(time.monotonic() - began)
    alone = taken["the application alone"]
    section = Section(
        f"Whole containers, from `docker run` to its end; medians of {runs} runs in turns", ("", "wall", "added")
    )
    for name, samples in taken.items():
        added = median(one - other for one, other in zip(samples, alone, strict=True))
        section.rows.append((name, seconds(median(samples)), "" if samples is alone else seconds(added)))
    return section


if __name__ == "__main__":
    sys.exit(main())
