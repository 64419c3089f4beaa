"""Comments that silence a warning for a statement or a file. They are squawk's, and hold for this program's rules, too.

`-- squawk-ignore RULE, … -- why` above a statement, within it, or behind it on its last line is about that statement,
and `-- squawk-ignore-file RULE` anywhere in a file about all of it; `/* … */` does as well. Without a rule, either is
about every rule. Pure functions over a file's text.
"""

from __future__ import annotations

import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from entrypoint.migration.script.scanner import Statement

# The names end where a second `--` begins: what follows is the reason.
_IGNORE = re.compile(r"(?:--[ \t]*|/\*\s*)squawk-ignore(-file)?(?![\w-])[ \t]*:?((?:(?!--)[\w\-, \t])*)")
# What a comment without a rule names.
EVERY = ""


def statements_with_ignored(text: str, statements: Sequence[Statement]) -> Iterator[tuple[Statement, frozenset[str]]]:
    """Yield each statement with the rules from which it is excepted; `EVERY` stands for all."""
    everywhere = ignored_in_file(text)
    before = 0
    for statement in statements:
        yield statement, everywhere | _named(text, before, _end_of_line(text, statement.end), of_file=False)
        before = statement.end


def ignored_in_file(text: str) -> frozenset[str]:
    """Return the rules from which a whole file is excepted; `EVERY` stands for all."""
    return _named(text, 0, len(text), of_file=True)


def ignored_at(
    text: str, statements: Sequence[Statement], line: int | None, column: int | None = None
) -> frozenset[str]:
    """Return the rules from which the statement at a place is excepted, or where there is no `line`, the file.

    `line`, `column`: counted from 1. The place may be in what is left out of the `statements`, such as a COMMIT. A
    comment that names the rule of a warning about the whole file may have either form.
    """
    everywhere = ignored_in_file(text)
    if line is None:
        return everywhere | (_named(text, 0, len(text), of_file=False) - {EVERY})
    begin = sum(len(one) + 1 for one in text.split("\n")[: line - 1])
    end = _end_of_line(text, begin)
    written = text[begin:end]
    place = begin + (len(written) - len(written.lstrip()) if column is None else column - 1)
    before = 0
    for statement in statements:
        if place < statement.start:
            break
        if place < statement.end:
            end = _end_of_line(text, statement.end)
            break
        before = statement.end
    return everywhere | _named(text, before, end, of_file=False)


def _end_of_line(text: str, place: int) -> int:
    return text.find("\n", place) % (len(text) + 1)


def _named(text: str, start: int, end: int, *, of_file: bool) -> frozenset[str]:
    return frozenset(
        rule.strip()
        for found in _IGNORE.finditer(text, start, end)
        if bool(found[1]) == of_file
        for rule in found[2].split(",")
    )
