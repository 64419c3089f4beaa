"""Comments that silence a warning for a statement or a file. They are squawk's, and apply to this program's rules, too.

`-- squawk-ignore RULE, … -- why` applies to the statement below it, around it, or before it on the same line.
`-- squawk-ignore-file RULE` applies to the whole file, wherever it is. Both may also be written as `/* … */`. A comment
without a rule applies to every rule. Pure functions over a file's text.
"""

from __future__ import annotations

import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from entrypoint.migration.script.scanner import Statement

# A second `--` ends the names; the reason follows it.
_IGNORE = re.compile(r"(?:--[ \t]*|/\*\s*)squawk-ignore(-file)?(?![\w-])[ \t]*:?((?:(?!--)[\w\-, \t])*)")
# Stands for all rules: a comment without a rule has this name.
EVERY = ""


def statements_with_ignored(text: str, statements: Sequence[Statement]) -> Iterator[tuple[Statement, frozenset[str]]]:
    """Yield each statement with the rules that are silenced for it; `EVERY` stands for all."""
    everywhere = ignored_in_file(text)
    before = 0
    for statement in statements:
        yield statement, everywhere | _named(text, before, _end_of_line(text, statement.end), of_file=False)
        before = statement.end


def ignored_in_file(text: str) -> frozenset[str]:
    """Return the rules that are silenced for a whole file; `EVERY` stands for all."""
    return _named(text, 0, len(text), of_file=True)


def ignored_at(
    text: str, statements: Sequence[Statement], line: int | None, column: int | None = None
) -> frozenset[str]:
    """Return the rules that are silenced for the statement at a place, or for the file if `line` is None.

    `line`, `column`: counted from 1. The place may be in something that is not among the `statements`, such as a
    COMMIT. A warning about the whole file can be silenced by either form of comment, if it names the rule.
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
