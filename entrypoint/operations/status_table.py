"""`status` for people: a table on a terminal, or plain lines in a pipe.

File names, versions and messages come from outside. They are shown literally: nothing in them is markup, and control
characters are removed.
"""

from __future__ import annotations

from io import StringIO

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from entrypoint.counts import count
from entrypoint.migration.ledger import words
from entrypoint.migration.ledger.reading import BACKUP
from entrypoint.operations.command_status import describe
from entrypoint.operations.display import clean, duration
from entrypoint.redaction import foreign_report

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from entrypoint.operations.repeatable_status import Repetition
    from entrypoint.operations.status import Line, Status

_HEADER = ("number", "file", "state", "when", "took", "by version")
# Columns to drop, in this order, before a name is wrapped. The file name begins with the number.
_SPARE = ("took", "by version", "number", "when")
# The padding and the line of rich's box.
_BETWEEN = 3
# In a pipe, lines are never wrapped.
_ENDLESS = 1_000_000
_COLOURS = {
    "applied": "green",
    "running": "blue",
    "interrupted": "bold red",
    "pending": "yellow",
    "after": "yellow",
    "failed": "bold red",
    "changed": "magenta",
    "missing": "magenta",
    "superseded": "magenta",
    "ahead": "cyan",
}
_NO_START = "Starts refuse to use it (exit code 78). Connect as the owner, or set MIGRATION_ROLE to the owner."

_TOO_OLD = "Starts with these files are refused (exit code 78). Deploy an image that has that file."

# How to fix what the headline counts.
_FIXES = {
    "failed": "correct the file and deploy it. If the cause was outside the file: entrypoint repair --failed",
    "changed": "restore the file as it was applied. To accept it as it is: entrypoint repair --checksums",
    "missing": "restore the file. To forget its row: entrypoint repair --missing",
}
_REFUSED = "Starts refuse it (exit code 65). Rename it, or set MIGRATION_OUT_OF_ORDER=warn to run it anyway."
_ADOPT = "A start would run every file."


def as_text(status: Status, *, width: int | None, colours: bool) -> str:
    """Return the answer for a person.

    `width`: of the terminal, in columns; None for a pipe, where each migration is one line, however long.
    """
    output = StringIO()
    console = Console(
        file=output,
        force_terminal=colours,
        color_system="standard" if colours else None,
        width=width or _ENDLESS,
        markup=False,
        emoji=False,
        highlight=False,
        legacy_windows=False,
        _environ={},
    )
    listing = status.listing
    for text in _head(status):
        _print_wrapped(console, text, width)
    console.print()
    if listing.lines or not (status.command or status.chosen):
        console.print(_table(status, width))
    for line in listing.lines:
        if line.error:
            console.print()
            _print_report(console, f"{clean(line.filename)} ({_state(line, status)}):", line.error, line.filename)
    if listing.lines or not (status.command or status.chosen):
        console.print()
    if listing.repeatables:
        console.print(_repeatables(listing.repeatables, width))
        console.print()
    for one in listing.repeatables:
        if one.error:
            title = f"{one.shown} (failed at {one.failed_at}; every start tries it again):"
            _print_report(console, title, one.error, one.shown)
            console.print()
    for warning in _warnings(status):
        console.print(Text(warning), soft_wrap=width is None)
    if status.command is not None:
        for text in describe(status.command):
            console.print(Text(_clean_report(text)), soft_wrap=True)
    _print_wrapped(console, "\n".join(_lock(status)), width)
    return "".join(f"{line.rstrip()}\n" for line in output.getvalue().splitlines())


def _head(status: Status) -> Iterator[str]:
    yield status.where.line.rstrip()
    yield _headline(status)
    if status.command is not None and status.command.state == "failed":
        yield "  Fix (command): correct what its output says, which ends as shown below. The next start runs it again."
    shown = {_state(line, status) for line in status.lines}
    for state, fix in _FIXES.items():
        if state in shown and not (status.unread and state != "failed"):
            yield f"  Fix ({state}): {fix}"


def _print_wrapped(console: Console, text: str, width: int | None) -> None:
    """Print lines: on a terminal wrapped between words, and with the indentation of each kept."""
    for line in text.split("\n"):
        bare = line.lstrip(" ")
        if width is None:
            console.print(Text(line), soft_wrap=True)
        else:
            console.print(Padding(Text(bare), (0, 0, 0, len(line) - len(bare))))


def _print_report(console: Console, title: str, report: str, filename: str) -> None:
    console.print(Text(title), soft_wrap=True)
    for text in foreign_report(report, filename).splitlines():
        console.print(Text(f"  {_clean_report(text)}"), soft_wrap=True)


def _warnings(status: Status) -> Iterator[str]:
    if status.untrusted:
        yield f"Warning: {clean(status.untrusted)}. {_NO_START}"
    if status.refused:
        yield f"Warning: {clean(status.refused)}. {_REFUSED}"
    if status.unadopted:
        yield f"Note: {clean(status.unadopted)}. {_ADOPT}"
    if status.below_floor:
        yield f"Warning: {clean(status.below_floor)}. {_TOO_OLD}"


def _headline(status: Status) -> str:
    command = status.command
    if status.unread:
        failed = count(status.count("failed"), "migration has", "migrations have")
        wrong = f" {failed} failed." if status.count("failed") else ""
        return f"At version {status.current}; the migration files have errors, so this is only what is recorded.{wrong}"
    if command is not None and command.pending and not status.pending:
        at = f"At version {status.current}; the" if status.applied else "The"
        state = {"failed": "has failed", "running": "is running"}.get(command.state, "is pending")
        return f"{at} migration command {state}{_and_counts(status, 'failed')}{_that_differ(status)}."
    if command is not None and not status.applied and not status.pending:
        return "Up to date."
    differs = _that_differ(status)
    headline = {
        "up_to_date": f"Up to date at version {status.current}{differs}.",
        "pending": f"At version {status.current}; {_what_is_pending(status)}{differs}.",
        "error": f"At version {status.current}; {_what_is_wrong(status)}.",
    }[status.name]
    # If nothing is pending, these are files that run after the rollout.
    half_way = [line for line in status.lines if line.state == "running" or _runs_after(line, status)]
    if half_way and status.name == "up_to_date":
        headline += f" {' and '.join(f'{clean(line.filename)} {_half_way(line, status)}' for line in half_way)}."
    outstanding = status.outstanding - sum(_runs_after(line, status) for line in status.lines)
    if outstanding:
        since = (
            f" (everything before it has been applied since {status.outstanding_since})"
            if status.outstanding_since
            else ""
        )
        these = count(outstanding, "migration waits", "migrations wait")
        headline += f" {these} for the rollout to end{since}: entrypoint migrate --phase after."
    return headline


def _runs_after(line: Line, status: Status) -> bool:
    """Return whether this file was to run after the rollout, and is running now, from its beginning."""
    return line.state == "after" and status.is_running(line)


def _what_is_pending(status: Status) -> str:
    repeatables = count(sum(one.state == "pending" for one in status.repeatables), "repeatable file")
    if not status.pending:
        return f"{repeatables} pending"
    return f"{count(status.pending, 'migration')} pending, up to {status.latest}"


def _what_is_wrong(status: Status) -> str:
    counts = _and_counts(status, "failed", "running", "interrupted", "pending")
    if status.count("failed"):
        return counts.removeprefix("; ") + _that_differ(status)
    wrong = "these files are too old" if status.below_floor else "a repeatable file has failed"
    return wrong + counts + _that_differ(status)


def _that_differ(status: Status) -> str:
    """Return how many applied files have changed or are missing, to be appended to a clause."""
    return _and_counts(status, "changed", "missing").replace("; ", "; applied files: ")


def _and_counts(status: Status, *states: str) -> str:
    """Return how many lines of the table have each state, to be appended to a clause: `; 1 failed, 2 pending`."""
    shown = [_state(line, status) for line in status.lines]
    counts = [f"{shown.count(state)} {state}" for state in states if state in shown]
    return f"; {', '.join(counts)}" if counts else ""


def _state(line: Line, status: Status) -> str:
    """Return the state shown in the table: a pending or unfinished migration may be running now."""
    if status.is_running(line):
        return "running"
    elsewhere = status.lock is not None and status.lock.migration is not None and status.guarded is True
    # On a standby there is no way to see whether a process is still running it.
    gone = status.guarded is False or elsewhere
    return "interrupted" if line.state == "running" and gone else line.state


def _half_way(line: Line, status: Status) -> str:
    if status.is_running(line):
        return "is running"
    return "was interrupted" if _state(line, status) == "interrupted" else "is running, or was interrupted"


def _table(status: Status, width: int | None) -> Table:
    table = Table(box=None if width is None else box.SIMPLE_HEAD, pad_edge=False, padding=(0, 2, 0, 0), show_edge=False)
    lines = status.listing.lines
    rows = [_cells(line, _state(line, status)) for line in lines]
    shown = _HEADER if width is None else _that_fit(rows, width)
    for name in shown:
        # If there is still no room, wrap the cells. Nothing is cut off.
        table.add_column(name, overflow="fold", no_wrap=width is None)
    for row in rows:
        cells = [
            Text(cell, _COLOURS.get(cell, "") if name == "state" else "")
            for name, cell in zip(_HEADER, row, strict=True)
            if name in shown
        ]
        table.add_row(*cells)
    return table


def _that_fit(rows: Sequence[Sequence[str]], width: int) -> tuple[str, ...]:
    """Return the columns for a terminal of this width: all, or fewer if necessary. Pure."""
    columns = dict(zip(_HEADER, zip(_HEADER, *rows, strict=True), strict=True))
    wide = {name: max(map(cell_len, cells)) for name, cells in columns.items()}
    shown = [name for name in _HEADER if name != "by version" or any(cell.strip("-") for cell in columns[name][1:])]
    # Columns that are empty in every row go first.
    for name in sorted(_SPARE, key=lambda name: any(cell.strip("-") for cell in columns[name][1:])):
        if sum(wide[one] + _BETWEEN for one in shown) - _BETWEEN <= width:
            break
        if name in shown:
            shown.remove(name)
    return tuple(shown)


def _repeatables(repeatables: Sequence[Repetition], width: int | None) -> Table:
    table = Table(box=None if width is None else box.SIMPLE_HEAD, pad_edge=False, padding=(0, 2, 0, 0), show_edge=False)
    for name in ("repeatable", "state", "when", "by version"):
        table.add_column(name, overflow="fold", no_wrap=width is None)
    for one in repeatables:
        cells = [
            Text(cell)
            for cell in (clean(one.name), one.state, one.applied_at or "-", clean(one.application_version or ""))
        ]
        cells[1].stylize(_COLOURS.get(one.state, ""))
        table.add_row(*cells)
    return table


def _cells(line: Line, state: str) -> list[str]:
    """Return the cells of a migration. An empty one before a filled one is a dash, so that columns can be counted."""
    cells = [
        f"{line.number:03d}",
        clean(line.filename),
        state,
        line.applied_at or "",
        "" if line.milliseconds is None or line.state == "failed" else duration(line.milliseconds),
        clean(line.application_version or ""),
    ]
    last = max(index for index, cell in enumerate(cells) if cell)
    return [cell or ("-" if index < last else "") for index, cell in enumerate(cells)]


def _clean_report(text: str) -> str:
    """Return one line of a report. Keeps the indentation, because a caret points at the line above."""
    indentation = text[: len(text) - len(text.lstrip(" "))]
    return indentation + " ".join(clean(word) for word in text[len(indentation) :].split(" "))


def _lock(status: Status) -> Iterator[str]:
    """Describe the lock, and say how to let its holder continue if another session blocks it."""
    yield _describe(status)
    if status.guarded and (frees := words.let_through(status.lock)):
        yield f"  Fix (lock): {frees}"


def _describe(status: Status) -> str:
    """Describe the lock in one sentence: who holds it, since when, what it is doing, and who else blocks it."""
    lock, guarded = status.lock, status.guarded
    strangers = _strangers(status)
    if lock is None or not lock.held:
        if strangers and not guarded:
            return f"Lock: held by no migration, but {strangers}."
        if status.blocked is not None:
            return f"Lock: held by no migration, but {clean(status.blocked)} (see entrypoint unlock)."
        return "Lock: just taken; its holder is not known yet." if guarded else "Lock: free."
    parts = [f"Lock: held by {clean(words.name_of_holder(lock))}"]
    if lock.since:
        how_long = words.lasting(lock.seconds, duration(max(0.0, lock.seconds or 0.0) * 1000))
        parts.append(f"since {lock.since} ({how_long})")
    if lock.migration == BACKUP:
        parts.append("taking a backup before migrating")
    elif lock.migration:
        parts.append(f"at {clean(lock.migration)}")
    if at := words.doing_now(lock):
        parts.append(clean(at))
    text = ", ".join(parts)
    if lock.legacy:
        text = f"{text}; a replica of the earlier migration system"
    elif guarded is None:
        text = f"{text}; a standby cannot see whether that process is alive"
    elif not guarded:
        if strangers:
            return f"{text}; that process is gone, but {strangers}."
        text = f"{text}; that process is gone, and the next start takes over"
    return f"{text}; {strangers}." if strangers else f"{text}."


def _strangers(status: Status) -> str:
    if not status.strangers:
        return ""
    named = " and ".join(clean(one.words) for one in status.strangers)
    end = "it lets go" if len(status.strangers) == 1 else "they let go"
    return f"{named} has its key, and nobody can migrate until {end} (see entrypoint unlock)"
