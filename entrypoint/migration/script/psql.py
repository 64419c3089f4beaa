r"""psql's backslash commands: where each ends, and which of them a file can do without.

A dump begins with `\restrict`, and many scripts with `\set ON_ERROR_STOP on`. Such a command does not change what is
sent to the server, so it is left out. Any other is refused: it would change that, or nothing here can carry it out.

A command ends where psql ends it (`src/bin/psql/psqlscanslash.l`): at the end of the line, or where a backslash begins
the next command. Two backslashes return to SQL. A command contains no comments, and its quotes close on its line.
"""

from __future__ import annotations

import re

from entrypoint.records import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_NAME = re.compile(r"[^ \t\n\r\f\v\\]*+")
# As much of a name as messages show: to psql, all of `\c'postgres://…'` is a name.
_SHOWN = re.compile(r"(?:[A-Za-z_]++[+]?|[^ \t\n\r\f\v]|(?!))?+")
# `(?!)`: see scanner.py.
_QUOTED = r"""'(?:[^'\\\n\r]++|\\[^\n\r]|''|(?!))*+'|"[^"\n\r]*+\""""
_ARGUMENTS = re.compile(rf"""(?:[^\n\r\\'"`]++|{_QUOTED}|(?!))*+""")
_ARGUMENT = re.compile(rf"""(?:[^ \t\f\v\n\r\\'"`]++|{_QUOTED}|(?!))++""")
# An argument that psql takes literally: no quotes inside, and no variables.
_PLAIN = re.compile(r"""'([^'\\]*+)'|([^'":]++)""")
_LINE = re.compile(r"[^\n\r]*+")

# As psql reads a boolean (ParseVariableBool in src/bin/psql/variables.c). `\set` without a value means `on`.
_ON = ("", "1", "on", *("true"[:length] for length in range(1, 5)), *("yes"[:length] for length in range(1, 4)))
_OFF = ("0", "of", "off", "n", "no", *("false"[:length] for length in range(1, 6)))
# PostgreSQL's names for UTF-8, without the characters that it ignores.
_UTF8 = ("utf8", "unicode")
# Variables that only affect what psql prints, with their allowed values.
_FOR_PRINTING = {
    "VERBOSITY": ("default", "verbose", "terse", "sqlstate"),
    "SHOW_CONTEXT": ("never", "errors", "always"),
    "ECHO": ("none", "errors", "queries", "all"),
    "QUIET": (*_ON, *_OFF),
}
# Without these, psql continues after an error, or waits for a COMMIT.
_MEANINGFUL = ("ON_ERROR_STOP", "AUTOCOMMIT")

_KEY = "it stops psql from running commands that dumped data may contain, and nothing runs them here"
_PRINTS = "it prints text; to write to the log, use RAISE NOTICE"
_OUTPUT = "it controls how psql shows results"
_WHATEVER_FOLLOWS = {
    "restrict": _KEY,
    "unrestrict": _KEY,
    "echo": _PRINTS,
    "qecho": _PRINTS,
    "warn": _PRINTS,
    "timing": _OUTPUT,
    "pset": _OUTPUT,
}

_REMOVE = "remove it"
_STOPS = "remove it: a migration ends at its first error"
_REMEDIES = {
    **dict.fromkeys(("i", "ir", "include", "include_relative"), "paste the other file's contents here"),
    **dict.fromkeys(
        ("c", "connect"),
        "remove it: a migration stays in the database and session it starts in. If pg_dump wrote the file, write it "
        "again without --create (-C)",
    ),
    "copy": "use INSERT, or COPY FROM a file on the server",
    "gexec": "use a DO block with EXECUTE",
    "set": "write the value where it is used",
    "encoding": "remove it, and save the file as UTF-8",
    ";": "write a plain semicolon",
}


class PsqlCommand(NamedTuple):
    """A backslash command, and whether it is left out or refused."""

    start: int
    end: int
    line: int
    name: str
    remedy: str
    """What to do about it; empty if the file can do without it."""
    why: str
    """Why the file can do without it."""
    variable: str = ""
    r"""The variable that `\set` sets, if the file can do without the command."""

    @property
    def sends(self) -> bool:
        """Whether it sends the statement before it."""
        return self.name.startswith(("g", "crosstabview", "watch"))

    @property
    def shown(self) -> str:
        """The command for messages, without its arguments, which may contain a password."""
        return f"\\{self.name} {self.variable}".rstrip()


def read(text: str, start: int, line: int, *, first: bool) -> PsqlCommand:
    """Return the command whose backslash is at `start`.

    `line`: the line of `start`. `first`: whether no SQL comes before it.
    """
    named = _end(_NAME, text, start + 1)
    name, shown = text[start + 1 : named], text[start + 1 : _end(_SHOWN, text, start + 1)]
    if shown in (";", ":"):  # not commands: an escaped semicolon or colon, which psql passes on
        return PsqlCommand(start, start + 2, line, shown, _REMEDIES.get(shown, _REMOVE), "")
    end = _end(_ARGUMENTS, text, named)
    values = [_plain(argument) for argument in _ARGUMENT.findall(text, named, end)]
    if why := _why_not_needed(name, values, first=first):
        back = text.startswith("\\\\", end)
        remedy = _trouble_behind(text[end : end + 1], text[end + 2 : end + 3] if back else "")
        end += 2 if back else 0
    else:
        remedy = _remedy(name, values)
    if remedy:
        return PsqlCommand(start, _end(_LINE, text, start), line, shown, remedy, "")
    variable = next(iter(values), None) if name == "set" else None
    return PsqlCommand(start, end, line, shown, "", why, variable or "")


def blank(text: str, commands: Iterable[PsqlCommand]) -> str:
    """Return `text` with the commands replaced by spaces, so that offsets and lines stay the same."""
    parts: list[str] = []
    done = 0
    for command in commands:
        parts += text[done : command.start], " " * (command.end - command.start)
        done = command.end
    return "".join((*parts, text[done:]))


def _trouble_behind(stop: str, glued: str) -> str:
    """Return what to do about a harmless command that ends in the wrong way; empty if it ends well.

    `stop`: the character that ends its arguments. `glued`: the character after two backslashes, if there are any.
    """
    if stop == "`":
        return "remove it: psql would run the text in backquotes as a shell command"
    if stop in ("'", '"'):
        return f"close its quote on the same line, with {stop}, or remove it"
    return "put it on a separate line" if glued.strip() else ""


def _why_not_needed(name: str, values: Sequence[str | None], *, first: bool) -> str:
    """Return why the file can do without a command; empty if it cannot."""
    why = _WHATEVER_FOLLOWS.get(name, "")
    match name, *values:
        case "set", "ON_ERROR_STOP", *value if _joined(value) in _ON:
            why = "a migration ends at its first error anyway"
        case "unset", *names if not {None, *_MEANINGFUL} & {*names}:
            why = "psql variables do not exist here"
        case "encoding", str(encoding), *_ if re.sub("[^a-z0-9]", "", encoding.lower()) in _UTF8:
            why = "a migration is UTF-8 anyway"
        case (("encoding" | "x" | "set"),):
            why = _OUTPUT
        case "x", str(value), *_ if value.rstrip(";").lower() in (*_ON, *_OFF, "auto"):
            why = _OUTPUT
        case "set", str(variable), *value if _joined(value) in _FOR_PRINTING.get(variable, ()):
            why = _OUTPUT
        case (("c" | "connect"), *places) if first and {*places} <= {"-"}:
            why = "it connects to where the migration already runs"
    return why


def _remedy(name: str, values: Sequence[str | None]) -> str:
    """Return what to do about a command that the file cannot do without."""
    match name, *values:
        case ("set", "ON_ERROR_STOP", *_):
            return _STOPS
        case ("unset", *names) if "ON_ERROR_STOP" in names:
            return _STOPS
    return _REMEDIES.get(name, _REMOVE)


def _joined(values: Sequence[str | None]) -> str | None:
    r"""Return the value that `\set` puts together from several; None if only psql could tell."""
    return None if None in values else "".join(filter(None, values)).lower()


def _plain(argument: str) -> str | None:
    """Return the value of an argument; None if only psql could tell."""
    found = _PLAIN.fullmatch(argument)
    return (found[1] or found[2] or "") if found else None


def _end(pattern: re.Pattern[str], text: str, pos: int) -> int:
    found = pattern.match(text, pos)
    return found.end() if found else pos
