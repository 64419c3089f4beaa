"""`completion`: real shells load the scripts and complete with them."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from conftest import missing
from entrypoint.commands.completion import SHELLS
from kit.completions import FOLDER, script
from kit.processes import until
from kit.terminal import Terminal

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from kit.processes import Run

    Start = Callable[..., Run]


def shell(name: str) -> str:
    """Return the path of a shell."""
    found = shutil.which(name)
    if found is None:
        missing(f"no {name} (Debian: {name})")
    return found


def with_files(directory: Path) -> None:
    """Create a migration to complete."""
    (directory / "migrations").mkdir()
    (directory / "migrations" / "001_a.sql").touch()


@pytest.mark.text
@pytest.mark.parametrize("name", SHELLS)
def test_the_scripts_are_of_today(name: str) -> None:
    """If this fails, run `python -m tests.kit.completions`."""
    assert (FOLDER / f"entrypoint.{name}").read_text() == script(name)


@pytest.mark.parametrize("name", SHELLS)
def test_it_is_printed(run_entrypoint: Start, name: str) -> None:
    run = run_entrypoint("completion", name).ok()
    assert run.stdout == script(name)
    assert run.stderr == ""


def test_bash(tmp_path: Path) -> None:
    (tmp_path / "ask").write_text(
        """source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMP_LINE="$*"; COMP_POINT=${#COMP_LINE}
$(complete -p entrypoint | grep -o -e '-F [^ ]*' | cut -c 4-)
printf '%s\\n' "${COMPREPLY[@]}"
"""
    )

    def complete(*words: str) -> list[str]:
        argv: list[str | Path] = [
            shell("bash"),
            "--norc",
            tmp_path / "ask",
            FOLDER / "entrypoint.bash",
            "entrypoint",
            *words,
        ]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=True, cwd=tmp_path)
        assert done.stderr == ""
        return done.stdout.split()

    assert complete("sta") == ["status"]
    assert complete("status", "--j") == ["--json"]
    assert complete("check", "--format", "sa") == ["sarif"]
    assert complete("check", "--format", "=", "sa") == ["sarif"]
    assert complete("help", "en") == ["env"]
    assert complete("import", "--from", "goo") == ["goose"]
    assert complete("adopt", "--from", "=", "goo") == ["goose"]
    with_files(tmp_path)
    assert complete("check", "migrations/00") == ["migrations/001_a.sql"]
    assert complete("backup", "--dir", "mig") == ["migrations"]
    assert complete("import", "--from", "flyway", "mig") == ["migrations"]
    assert "env" in complete("run", "--", "en")
    assert "env" in complete("run", "en")
    assert complete("run", "--he") == ["--help"]
    # Anything else completes to a file, as without the script.
    assert " -o default " in (FOLDER / "entrypoint.bash").read_text()


def test_fish(tmp_path: Path) -> None:
    def complete(line: str) -> list[str]:
        argv = [shell("fish"), "--no-config", "-c", f"source {FOLDER}/entrypoint.fish; complete -C '{line}'"]
        env = {"HOME": str(tmp_path), "PATH": os.environ["PATH"]}
        done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=30, check=True, cwd=tmp_path)
        return [text.partition("\t")[0] for text in done.stdout.splitlines()]

    assert complete("entrypoint sta") == ["status"]
    assert complete("entrypoint status --j") == ["--json"]
    assert complete("entrypoint check --format sa") == ["sarif"]
    assert complete("entrypoint check --format=sa") == ["--format=sarif"]
    assert complete("entrypoint help en") == ["env"]
    assert complete("entrypoint import --from goo") == ["goose"]
    with_files(tmp_path)
    assert complete("entrypoint check migrations/00") == ["migrations/001_a.sql"]
    assert complete("entrypoint backup --dir mig") == ["migrations/"]
    assert complete("entrypoint import --from flyway mig") == ["migrations/"]
    assert "env" in complete("entrypoint run -- en")
    assert "env" in complete("entrypoint run en")
    assert complete("entrypoint run -- ls mig") == ["migrations/"]


def test_zsh(run_program: Start, tmp_path: Path) -> None:
    """The zsh completion only works on a terminal. The test completes a partial command and runs it."""
    functions = tmp_path / "functions"
    functions.mkdir()
    shutil.copy(FOLDER / "entrypoint.zsh", functions / "_entrypoint")
    (tmp_path / ".zshrc").write_text(
        f"fpath=({functions} $fpath); autoload -U compinit; compinit -u -d {tmp_path}/dump; PS1='ready> '\n"
        'entrypoint() { print -r -- "<$*>" }\n'
    )
    with Terminal() as terminal:
        env = {"HOME": str(tmp_path), "ZDOTDIR": str(tmp_path), "TERM": "dumb", "PATH": os.environ["PATH"]}
        run = run_program([shell("zsh"), "-i"], env=env, stdout=terminal.options["stdin"], **terminal.options)
        until(lambda: "ready> " in terminal.text, 20, lambda: terminal.text)

        def completes(begun: str, whole: str) -> None:
            terminal.type(f"entrypoint {begun}\t\n")
            until(lambda: whole in terminal.text, 20, lambda: terminal.text)

        completes("sta", "<status>")
        completes("status --j", "<status --json>")
        completes("check --format sa", "sarif>")
        completes("help en", "<help env>")
        completes("import --from goo", "<import --from goose>")
        with_files(tmp_path)
        completes("check migrations/00", "<check migrations/001_a.sql>")
        completes("backup --dir mig", "<backup --dir migrations>")
        completes("import --from flyway mig", "<import --from flyway migrations>")
        completes("run -- ls mig", "<run -- ls migrations>")
        completes("run -- nohu", "<run -- nohup>")
        completes("run nohu", "<run nohup>")
        terminal.type("exit\n")
        run.wait()
