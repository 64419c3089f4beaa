"""Put what an up-to-date start imports into one file: python packaging/bundle.py INSTALLATION, after pip.

To find, open, read and check each of two dozen small modules takes a tenth of such a start. Where the program does not
change any more once it is installed, in the image and in the self-contained folder, one file holds them all, and
`from_bundle` imports from it (docs/decisions/0044-the-modules-of-a-start-in-one-file.md).
"""

from __future__ import annotations

import marshal
import sys
from pathlib import Path

HERE = Path(__file__).parent
NAME = Path("entrypoint") / "start.bundle"

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
# files, a probe. The same tests hold it to that.
ON_DEMAND = (
    "entrypoint.command",
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


def source_of(name: str, packages: Path) -> Path:
    """Return the file of a module below the directory that its package is in."""
    path = packages.joinpath(*name.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def write(sources: Path, packages: Path, *, optimize: int) -> Path:
    """Compile the modules in the directory `sources` into a bundle in `packages`, which is returned."""
    modules = {}
    for name in (*START, *ON_DEMAND):
        source = source_of(name, sources)
        place = str(source.relative_to(sources))
        code = compile(source.read_bytes(), str(packages / place), "exec", dont_inherit=True, optimize=optimize)
        # Bytes are read at once; what they mean, when the module is imported.
        contents = code if name in START else marshal.dumps(marshal.loads(marshal.dumps(code)))  # noqa: S302 - as below
        modules[name] = (contents, source.name == "__init__.py", place)
    loader = compile((HERE / "from_bundle.py").read_bytes(), "from_bundle.py", "exec", dont_inherit=True, optimize=2)
    bundle = packages / NAME
    # Twice, as what is written depends on who else holds the same objects: a second build has to give the same bytes.
    contents = marshal.loads(marshal.dumps((loader, modules)))  # noqa: S302 - written in the same line
    bundle.write_bytes(marshal.dumps(contents))
    return bundle


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
    bundle = write(packages, packages, optimize=0)
    script = installation / "bin" / "entrypoint"
    script.write_text(with_bundle(script.read_text(), repr(str(packages))))
    print(f"bundle: {bundle.stat().st_size / 1e6:.2f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
