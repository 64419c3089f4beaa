"""Make the scripts that `entrypoint completion` prints, by shtab: `python -m tests.kit.completions`."""

from __future__ import annotations

from pathlib import Path

import shtab

from entrypoint import cli
from entrypoint.commands.completion import SHELLS

FOLDER = Path(cli.__file__).parent / "commands" / "completions"


def script(shell: str) -> str:
    """Return the script for a shell."""
    return shtab.complete(cli.parser(), shell)


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for shell in SHELLS:
        (FOLDER / f"entrypoint.{shell}").write_text(script(shell))
