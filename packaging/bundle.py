"""Bundle the modules of an up-to-date start into one file: python packaging/bundle.py INSTALLATION, after pip.

Finding, opening, reading and checking two dozen small modules takes a tenth of such a start. In the image and in the
self-contained folder, the program does not change after it is installed. There one file contains all these modules, and
`from_bundle` imports from it (docs/decisions/0044-the-modules-of-a-start-in-one-file.md). A second file has the modules
that are also needed if something is pending, with their regular expressions compiled
(docs/decisions/0056-what-a-migration-imports-in-one-file.md).
"""

from __future__ import annotations

import marshal
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
NAME = Path("entrypoint") / "start.bundle"
PENDING_NAME = Path("entrypoint") / "pending.bundle"

# tests/test_imports.py says why each of them is imported, and checks this list.
START = (
    "entrypoint",
    "entrypoint.__main__",
    "entrypoint.database",
    "entrypoint.database.address",
    "entrypoint.database.libpq",
    "entrypoint.database.quoting",
    "entrypoint.deadline",
    "entrypoint.errors",
    "entrypoint.handover",
    "entrypoint.logs",
    "entrypoint.migration",
    "entrypoint.migration.ledger",
    "entrypoint.migration.ledger.first_look",
    "entrypoint.migration.ledger.place",
    "entrypoint.migration.ledger.plan",
    "entrypoint.migration.ledger.rows",
    "entrypoint.migration.script",
    "entrypoint.migration.script.files",
    "entrypoint.records",
    "entrypoint.redaction",
    "entrypoint.settings",
    "entrypoint.signals",
    "entrypoint.startup",
)
# What such a start imports only if needed: for another driver's address, another migration tool, repeatable files or a
# probe, or if the command is `migrate`. The same tests check this list.
ON_DEMAND = (
    "entrypoint.command",
    "entrypoint.commands",
    "entrypoint.commands.migrate",
    "entrypoint.database.drivers",
    "entrypoint.database.translation",
    "entrypoint.migration.ledger.repeatables",
    "entrypoint.migration.ledger.runs",
    "entrypoint.migration.ledger.verdict",
    "entrypoint.phase",
    "entrypoint.probe",
    "entrypoint.tool",
    "entrypoint.tool.inputs",
)
# What is also imported if something is pending: these, and what they import.
PENDING = (
    "entrypoint.database.hosts",
    "entrypoint.database.pq_ctypes",
    "entrypoint.migration.apply.migrator",
    "entrypoint.migration.apply.outside",
    "entrypoint.migration.ledger.elsewhere",
    "entrypoint.migration.script.parser",
    "entrypoint.survey",
)


def source_of(name: str, packages: Path) -> Path:
    """Return the file of a module, below the directory with its top-level package."""
    path = packages.joinpath(*name.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def write(sources: Path, packages: Path, *, optimize: int) -> Path:
    """Compile the modules in the directory `sources` into both bundles in `packages`; return the first one's path.

    This imports the modules for the second bundle, so their dependencies must be installed.
    """
    pending, patterns = _imported(sources)

    def compiled(name: str, *, at_once: bool) -> tuple[object, bool, str]:
        source = source_of(name, sources)
        place = str(source.relative_to(sources))
        code = compile(source.read_bytes(), str(packages / place), "exec", dont_inherit=True, optimize=optimize)
        # Bytes are unmarshalled only when the module is imported.
        contents = code if at_once else marshal.dumps(marshal.loads(marshal.dumps(code)))  # noqa: S302 - as below
        return contents, source.name == "__init__.py", place

    loader = compile((HERE / "from_bundle.py").read_bytes(), "from_bundle.py", "exec", dont_inherit=True, optimize=2)
    modules = {name: compiled(name, at_once=name in START) for name in (*START, *ON_DEMAND)}
    rest = {name: compiled(name, at_once=False) for name in pending if name not in modules}
    for name, contents in ((NAME, (loader, modules)), (PENDING_NAME, (rest, patterns))):
        # Twice, because the output depends on other references to the same objects, and builds must be reproducible.
        again = marshal.loads(marshal.dumps(contents))  # noqa: S302 - written in the same line
        (packages / name).write_bytes(marshal.dumps(again))
    return packages / NAME


def _imported(sources: Path) -> tuple[list[str], list[object]]:
    """Return our modules that importing PENDING imports, and the regular expressions that they compile."""
    argv: list[str | Path] = [sys.executable, "-IB", HERE / "patterns.py", sources, *PENDING]
    path = [entry for entry in sys.path if entry]
    done = subprocess.run(argv, input=marshal.dumps(path), stdout=subprocess.PIPE, check=True)
    names, patterns = marshal.loads(done.stdout)  # noqa: S302 - from our own script
    return names, patterns


def with_bundle(script: str, packages: str) -> str:
    """Return one of our scripts, changed to import from the bundle in the directory `packages` (an expression)."""
    start = "from entrypoint.__main__ import main\n"
    before, after = script.split(start)
    return f"""{before}# What a start imports, in one file. `marshal.load` would ask the file for a few bytes at a time.
import marshal

packages = {packages}
with open(packages + "/{NAME}", "rb") as bundle:
    loader, modules = marshal.loads(bundle.read())
exec(loader)

{start}{after}"""


def main() -> int:
    """Bundle an installation, whose Python runs this, and change its script to use it; return the exit code."""
    installation = Path(sys.argv[1])
    (packages,) = installation.glob("lib/python3.*/site-packages")
    write(packages, packages, optimize=0)
    script = installation / "bin" / "entrypoint"
    script.write_text(with_bundle(script.read_text(), repr(str(packages))))
    sizes = ", ".join(f"{(packages / name).stat().st_size / 1e6:.2f} MB" for name in (NAME, PENDING_NAME))
    print(f"bundles: {sizes}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
