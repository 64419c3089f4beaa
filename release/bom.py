"""The bill of materials, in CycloneDX: what is installed with the program in the versions that are pinned.

cyclonedx-py reads the packages of an environment. What it does not see are the libraries inside the wheels: of those,
the wheel's own list has what its builder took from a distribution, and the rest, libpq and OpenSSL among them, is told
here by name, hash and, where the library says it, version.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from typing import TYPE_CHECKING, Any

from release.problems import ReleaseError, run, uv

if TYPE_CHECKING:
    from pathlib import Path

    from release.distributions import Distributions
    from release.source import Source

SPECIFICATION = "1.6"
# The pinned requirements that a bill is made of, and what its file has in its name.
FLAVOURS = {"image": "", "full": "-full"}

# Asked in the environment: what the bundled libraries say of themselves.
_ASK = """
import ctypes, json, pathlib, sys
folder = pathlib.Path(sys.argv[1])
def ask(pattern, function, result, *arguments):
    found = getattr(ctypes.CDLL(str(next(folder.glob(pattern)))), function)
    found.restype = result
    return found(*arguments)
crypto = ask("libcrypto-*", "OpenSSL_version", ctypes.c_char_p, 0).decode()
print(json.dumps({"openssl": crypto.split()[1], "libpq": ask("libpq-*", "PQlibVersion", ctypes.c_int)}))
"""


def make(made: Distributions, source: Source, tree: Path, flavour: str, target: Path) -> Path:
    """Install the wheel with pinned requirements, write the bill of all that into `target`, and return its path."""
    python = _install(made, tree / "requirements" / f"{flavour}.txt", target / f"environment-{flavour}")
    output = target / f"pg_entrypoint-{source.version}{FLAVOURS[flavour]}.cdx.json"
    command = [sys.executable, "-m", "cyclonedx_py", "environment", python, "--pyproject", tree / "pyproject.toml"]
    # It would take seconds to validate what is not complete yet.
    command += ["--output-reproducible", "--no-validate", "--spec-version", SPECIFICATION, "--output-file", output]
    run(command, env={**os.environ, "SOURCE_DATE_EPOCH": str(source.epoch)})
    bill = json.loads(output.read_text())
    _name_the_root(bill, source)
    for folder in sorted((python.parents[1] / "lib").glob("python*/site-packages/*.libs")):
        _add_libraries(bill, folder, python)
    inside = [one["name"] for package in bill["components"] for one in package.get("components", ())]
    if not {"libpq", "libcrypto", "libssl"} <= set(inside):
        raise ReleaseError(f"the bill of materials lacks libpq or OpenSSL; libraries inside wheels: {inside}")
    text = json.dumps(bill, indent=2, sort_keys=True) + "\n"
    validate(text)
    output.write_text(text)
    return output


def _install(made: Distributions, requirements: Path, environment: Path) -> Path:
    """Return the Python of a new environment that has what the image has, and the wheel."""
    python = environment / "bin" / "python"
    uv("venv", "--python", sys.executable, environment)
    # Without dependencies: the file is complete, and leaves out on purpose what requirements/renew.py names.
    install = ("pip", "install", "--python", python, "--no-deps")
    uv(*install, "--require-hashes", "--only-binary=:all:", "--requirement", requirements)
    uv(*install, "--no-index", f"--find-links={made.wheel.parent}", "pg-entrypoint")
    return python


def _name_the_root(bill: dict[str, Any], source: Source) -> None:
    # cyclonedx-py takes the version from pyproject.toml, where it is not.
    root = bill["metadata"]["component"]
    root |= {"version": source.version, "purl": f"pkg:pypi/pg-entrypoint@{source.version}"}


def _add_libraries(bill: dict[str, Any], folder: Path, python: Path) -> None:
    """Put the libraries of `NAME.libs` below the package that brings them."""
    (info,) = folder.parent.glob(f"{folder.name.removesuffix('.libs')}-*.dist-info")
    name = info.name.partition("-")[0].replace("_", "-")
    package = next(one for one in bill["components"] if one["name"].replace("_", "-") == name)
    versions = json.loads(run([python, "-I", "-c", _ASK, folder]))
    inside = [_file(path, versions) for path in sorted(folder.iterdir())]
    for path in sorted(info.glob("sboms/*.cdx.json")):
        inside += [one for one in json.loads(path.read_text())["components"] if not one["purl"].startswith("pkg:pypi/")]
    package["components"] = inside


def _file(path: Path, versions: dict[str, Any]) -> dict[str, Any]:
    """Return a library as a component; with a CPE, which advisories go by, where the version is known."""
    found: dict[str, Any] = {"type": "library", "name": path.name.partition("-")[0], "bom-ref": path.name}
    found["hashes"] = [{"alg": "SHA-256", "content": hashlib.sha256(path.read_bytes()).hexdigest()}]
    found["properties"] = [{"name": "pg-entrypoint:file", "value": path.name}]
    if found["name"] in {"libcrypto", "libssl"}:
        found |= {
            "version": versions["openssl"],
            "cpe": f"cpe:2.3:a:openssl:openssl:{versions['openssl']}:*:*:*:*:*:*:*",
        }
    elif found["name"] == "libpq":
        version = f"{versions['libpq'] // 10000}.{versions['libpq'] % 10000}"
        found |= {"version": version, "cpe": f"cpe:2.3:a:postgresql:postgresql:{version}:*:*:*:*:*:*:*"}
    return found


def validate(text: str) -> None:
    """Hold a bill against CycloneDX's own schema. Raises ReleaseError."""
    # Only the release's environment has it.
    from cyclonedx.schema import SchemaVersion  # noqa: PLC0415
    from cyclonedx.validation.json import JsonStrictValidator  # noqa: PLC0415

    version = SchemaVersion.from_version(json.loads(text)["specVersion"])
    if error := JsonStrictValidator(version).validate_str(text):
        raise ReleaseError(f"the bill of materials is not valid CycloneDX {version.to_version()}: {error}")
