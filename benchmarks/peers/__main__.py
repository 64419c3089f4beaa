"""Install or list the tools for comparison: `python -m benchmarks.peers`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks.peers import HOME, Peers
from benchmarks.peers.install import install
from demo.postgres import PostgresMissingError, installation


def main() -> int:
    """Return 0, or 1 if something could not be installed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    parser.add_argument("action", choices=("install", "list"), help="list: show what is installed, and what is missing")
    parser.add_argument("--home", type=Path, default=HOME, help="where to install them (default: benchmarks/.peers)")
    arguments = parser.parse_args()
    problems = install(arguments.home.absolute()) if arguments.action == "install" else []
    for problem in problems:
        print(problem, file=sys.stderr)
    peers = Peers(arguments.home, _psql())
    for package, version in peers.versions().items():
        print(f"{package} {version}")
    for reason in peers.missing:
        print(f"missing: {reason}")
    return 1 if problems else 0


def _psql() -> Path | None:
    try:
        found = installation().bin / "psql"
    except PostgresMissingError:
        return None
    return found if found.exists() else None


if __name__ == "__main__":
    sys.exit(main())
