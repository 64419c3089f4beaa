"""Generates the scripts that `entrypoint completion` prints, with shtab: `python -m tests.kit.completions`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import shtab

from entrypoint import cli
from entrypoint.commands.completion import SHELLS
from entrypoint.commands.help_ import TOPICS
from entrypoint.records import TOOLS

if TYPE_CHECKING:
    import argparse

FOLDER = Path(cli.__file__).parent / "commands" / "completions"

# shtab cannot express this: after `run` comes another command with its own completion; and a value may follow `=`.
_BASH = """
_entrypoint() {
  local first=2
  [[ ${COMP_WORDS[2]} == -- ]] && first=3
  if [[ ${COMP_WORDS[1]} == run && COMP_CWORD -ge first && ! ( COMP_CWORD -eq 2 && ${COMP_WORDS[2]} == -* ) ]]; then
    if declare -F _command_offset >/dev/null; then
      _command_offset $first
    elif (( COMP_CWORD == first )); then
      COMPREPLY=($(compgen -c -- "${COMP_WORDS[COMP_CWORD]}"))
    else
      COMPREPLY=()
    fi
    return
  fi
  local -a words=()
  local index at=0
  for index in "${!COMP_WORDS[@]}"; do
    if [[ ${COMP_WORDS[index]} != = ]]; then
      words+=("${COMP_WORDS[index]}")
    elif (( index == COMP_CWORD )); then
      words+=("")
    fi
    (( index == COMP_CWORD )) && at=$(( ${#words[@]} - 1 ))
  done
  local -a COMP_WORDS=("${words[@]}")
  local COMP_CWORD=$at
  _shtab_entrypoint
}

complete -o bashdefault -o default -F _entrypoint entrypoint
"""
_ZSH = """run)
          if (( CURRENT == 2 )) && [[ $PREFIX == -* ]]; then
            _arguments -C -s $_shtab_entrypoint_run_options
          else
            shift words
            (( CURRENT -= 1 ))
            if [[ $words[1] == -- ]]; then
              shift words
              (( CURRENT -= 1 ))
            fi
            _normal
          fi
          ;;"""
_FISH = """
complete -c entrypoint -n '_shtab_entrypoint_using run' -xa '(__fish_complete_subcommand --fcs-skip=2)'
"""


def script(shell: str) -> str:
    """Return the script for a shell."""
    top, parsers = cli.made()
    for name, parser in parsers.items():
        parser.description = cli.COMMANDS[name].SUMMARY
        for action in parser._actions:
            _tell(name, action)
    text = shtab.complete(top, shell)
    if shell == "bash":
        return _replaced(text, "\ncomplete -o bashdefault -F _shtab_entrypoint entrypoint", _BASH)
    if shell == "zsh":
        return _replaced(text, "run) _arguments -C -s $_shtab_entrypoint_run_options ;;", _ZSH)
    return text.rstrip("\n") + "\n" + _FISH


def _tell(command: str, action: argparse.Action) -> None:
    """Tell shtab an argument's values if the parser itself does not."""
    if action.metavar == "DIR":
        action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]  # shtab's own
    elif action.metavar == "FILE":
        action.complete = shtab.FILE  # type: ignore[attr-defined]
    elif action.metavar == "TOOL":
        action.choices = TOOLS
    elif command == "help" and action.dest == "topic":
        action.choices = (*cli.COMMANDS, *TOPICS)


def _replaced(text: str, old: str, new: str) -> str:
    assert text.count(old) == 1, f"shtab writes something else than {old!r}"
    return text.replace(old, new)


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for shell in SHELLS:
        (FOLDER / f"entrypoint.{shell}").write_text(script(shell))
