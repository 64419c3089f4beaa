"""Put what an up-to-date start imports into one file: python packaging/bundle.py INSTALLATION, after pip.

To find, open, read and check each of two dozen small modules takes a tenth of such a start. Where the program does not
change any more once it is installed, in the image and in the self-contained folder, one file holds them all, and
`from_bundle` imports from it (docs/decisions/0044-the-modules-of-a-start-in-one-file.md). A second file has what is
imported beside where something is pending, with its regular expressions compiled
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

# tests/test_imports.py says why each of them is imported, and holds this to it.
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
# What it imports beside, if there is a use for it: an address of another driver, another migration tool, repeatable
# files, a probe; or if it is `migrate`, without the application behind it. The same tests hold it to that.
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
# What is imported beside where something is pending: these, and what they import.
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
    """Return the file of a module below the directory that its package is in."""
    path = packages.joinpath(*name.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def write(sources: Path, packages: Path, *, optimize: int) -> Path:
    """Compile the modules in the directory `sources` into a bundle in `packages`, which is returned.

    And beside it into the other one; for that they are imported, so that what they need has to be there as well.
    """
    pending, patterns = _imported(sources)

    def compiled(name: str, *, at_once: bool) -> tuple[object, bool, str]:
        source = source_of(name, sources)
        place = str(source.relative_to(sources))
        code = compile(source.read_bytes(), str(packages / place), "exec", dont_inherit=True, optimize=optimize)
        # Bytes are read at once; what they mean, when the module is imported.
        contents = code if at_once else marshal.dumps(marshal.loads(marshal.dumps(code)))  # noqa: S302 - as below
        return contents, source.name == "__init__.py", place

    loader = compile((HERE / "from_bundle.py").read_bytes(), "from_bundle.py", "exec", dont_inherit=True, optimize=2)
    modules = {name: compiled(name, at_once=name in START) for name in (*START, *ON_DEMAND)}
    rest = {name: compiled(name, at_once=False) for name in pending if name not in modules}
    for name, contents in ((NAME, (loader, modules)), (PENDING_NAME, (rest, patterns))):
        # Twice, as what is written depends on who else holds the same objects: a second build has to give the same.
        again = marshal.loads(marshal.dumps(contents))  # noqa: S302 - written in the same line
        (packages / name).write_bytes(marshal.dumps(again))
    return packages / NAME


def _imported(sources: Path) -> tuple[list[str], list[object]]:
    """Return the modules of ours that PENDING comes to, and the regular expressions that they compile."""
    argv: list[str | Path] = [sys.executable, "-IB", HERE / "patterns.py", sources, *PENDING]
    path = [entry for entry in sys.path if entry]
    done = subprocess.run(argv, input=marshal.dumps(path), stdout=subprocess.PIPE, check=True)
    names, patterns = marshal.loads(done.stdout)  # noqa: S302 - our own script's
    return names, patterns


def with_bundle(script: str, packages: str) -> str:
    """Return a script of ours that imports from the bundle, which is in `packages`, given as an expression."""
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
    """Bundle an installation, whose Python runs this, and let its script import from that; return the exit code."""
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
