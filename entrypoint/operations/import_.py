"""`import`: convert the migrations directory of another tool."""

from __future__ import annotations

import os
import re
import tempfile
from typing import NamedTuple

from entrypoint.counts import count
from entrypoint.errors import ConfigurationError
from entrypoint.errors.migration import MigrationFilesError
from entrypoint.errors.operator import UsageError
from entrypoint.migration.script.files import REPEATABLES, ROLLBACKS, is_sql, load_directory
from entrypoint.migration.script.prepare import examine_down_migration
from entrypoint.operations.check import CheckOptions as Checking
from entrypoint.operations.check import check
from entrypoint.operations.findings import Report, shown_path
from entrypoint.operations.importing import naming, tools
from entrypoint.operations.importing.folder import Folder
from entrypoint.operations.importing.values import Contents, Fault, Left, UnreadableError, Why
from entrypoint.operations.importing.writing import move, staged

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from entrypoint.operations.importing.naming import ImportPlan, TargetFile
    from entrypoint.operations.importing.tools import ImportableTool, Sign
    from entrypoint.operations.importing.values import Source
    from entrypoint.settings import Settings


# Their directories differ only in the files next to the SQL.
_ALIKE = ("prisma", "drizzle")


class ImportOptions(NamedTuple):
    """What the command line asks for."""

    tool: str
    directory: str
    into: str
    dry_run: bool = False


class Imported(NamedTuple):
    """What was imported, or would be, and what was not."""

    wishes: ImportOptions
    plan: ImportPlan
    left: tuple[Left, ...]
    report: Report
    """The findings of `check` about the result."""

    def judge(self) -> None:
        """Raise MigrationFilesError if `check` finds errors, or a migration has to be written by hand."""
        self.report.judge(strict=False)
        if missing := self.plan.unwritten:
            total = len(missing) + sum(not target.path.startswith(REPEATABLES) for target in self.plan.files)
            raise MigrationFilesError(
                f"{len(missing)} of {count(total, 'migration')} could not be imported",
                faults=(),
                remedy="Write the missing files by hand, as listed above, then run entrypoint check.",
            )


def import_directory(settings: Settings, wishes: ImportOptions) -> Imported:
    """Write the files, unless it is a dry run: all that can be imported, or nothing.

    Raises UsageError if there are no migrations of the tool, MigrationFilesError for errors in its directory and for
    files that would be overwritten, and ConfigurationError if nothing can be written.
    """
    tool = tools.BY_NAME[wishes.tool]
    _refuse_same_directory(wishes)
    _refuse_dangling(wishes.into)
    folder = _folder(wishes, tool, settings.file_limit)
    reading = _read(wishes, tool, folder, settings.file_limit)
    plan = naming.plan(reading, wishes.tool)
    _refuse_overwriting(wishes.into, [*plan.files, *plan.backs])
    parent = tempfile.gettempdir() if wishes.dry_run else _existing(wishes.into)
    with staged(parent, [*plan.files, *plan.backs], folder) as stage:
        impossible = dict(_impossible_backs(stage, wishes.into, plan.backs))
        plan = plan._replace(backs=tuple(back for back in plan.backs if back.path not in impossible))
        checked = check(settings._replace(migrations_dir=stage), Checking(lint=False, everything=True), "")
        report = _as_if_in(wishes.into, stage, checked)
        if not wishes.dry_run:
            move(stage, wishes.into, [target.path for target in (*plan.files, *plan.backs)])
    return Imported(wishes, plan, (*reading.left, *impossible.values()), report)


# --- What is there ------------------------------------------------------------------------------------------


def _refuse_same_directory(wishes: ImportOptions) -> None:
    if (
        os.path.isdir(wishes.into)
        and os.path.isdir(wishes.directory)
        and os.path.samefile(wishes.into, wishes.directory)
    ):
        raise UsageError(
            f"{wishes.directory!r} is also where the files would be written",
            remedy=f"Write them elsewhere: entrypoint import --from {wishes.tool} {wishes.directory} --into DIRECTORY. "
            f"Or move {tools.shown_tool(wishes.tool)}'s files away first.",
        )


def _refuse_dangling(into: str) -> None:
    """Raise ConfigurationError for a dangling link, because no directory can be created there."""
    path = os.path.abspath(into)
    while not os.path.lexists(path):
        path = os.path.dirname(path)
    if not os.path.exists(path):
        raise ConfigurationError(
            f"{path!r} is a symbolic link to {os.readlink(path)!r}, which does not exist; nothing was written",
            remedy="Create that directory, or name another one: --into DIRECTORY.",
        )


def _folder(wishes: ImportOptions, tool: ImportableTool, limit: int) -> Folder:
    """Return the directory, at least two levels deep, so that another tool's directory is recognized."""
    try:
        return Folder(wishes.directory, tool.depth and max(tool.depth, 2), limit)
    except OSError as error:
        raise UsageError(
            f"{wishes.directory!r} cannot be read: {error.strerror}",
            remedy=f"entrypoint import --from {wishes.tool} DIR, where DIR is the directory of its migrations.",
        ) from error


class _Recording:
    """A source that collects unreadable files, so that all are reported together."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self.paths = source.paths
        self.folders = source.folders
        self.unreadable: dict[str, str] = {}

    def content(self, path: str) -> bytes:
        try:
            return self._source.content(path)
        except UnreadableError as error:
            self.unreadable[path] = str(error.args[1])
            return b""


def _read(wishes: ImportOptions, tool: ImportableTool, folder: Folder, limit: int) -> Contents:
    """Return what the tool sees there. Raises for errors that have to be corrected first."""
    source = _Recording(folder)
    reading = tool.read(source)
    used = _used(reading)
    strangers = {path: sign for path, sign in _signs(folder, used) if wishes.tool not in sign.tools}
    if wishes.tool not in _ALIKE and used - set(strangers):
        # Another tool may keep its own files next to these: Drizzle writes files that Supabase or sqlx applies.
        strangers = {path: sign for path, sign in strangers.items() if is_sql(path.rpartition("/")[2])}
    if strangers:
        _refuse_strangers(wishes, strangers, used)
    if reading.empty:
        raise _nothing(wishes, tool, limit)
    faults = [Fault((path,), f"cannot be read: {why}") for path, why in sorted(source.unreadable.items())]
    faults += [fault for fault in reading.faults if not set(fault.sources) & set(source.unreadable)]
    faults += _unspeakable(reading)
    faults += _not_utf8(folder, sorted(used - set(source.unreadable)))
    if faults:
        raise MigrationFilesError(
            f"{count(len(faults), 'error')} in {wishes.directory!r}; nothing was written: {faults[0]}",
            faults=tuple(str(fault) for fault in faults),
            remedy="Correct these files and import again.",
        )
    return reading


def _used(reading: Contents) -> set[str]:
    """Return the files from which something is imported."""
    parts = [part for one in reading.migrations for part in (one.forward, one.back)]
    parts += [one.forward for one in reading.repeatables]
    return {part.path for part in parts if part is not None}


def _signs(folder: Folder, used: set[str]) -> Iterator[tuple[str, Sign]]:
    """Yield the files whose tool can be recognized: by their marks, or else by their names."""
    for path in folder.paths:
        sign = None
        if is_sql(path.rpartition("/")[2]) and (path in used or "/" not in path):
            try:
                sign = tools.sign_in_text(folder.content(path).decode("utf-8", "replace"))
            except UnreadableError:
                sign = None
        if sign := sign or tools.sign_in_name(path):
            yield path, sign


def _refuse_strangers(wishes: ImportOptions, strangers: Mapping[str, Sign], used: set[str]) -> None:
    """Raise MigrationFilesError for files of another tool."""
    faults = tuple(
        str(Fault((path,), f"is {_whose(sign)}, recognized by {sign.what}", sign.line))
        for path, sign in strangers.items()
    )
    ours = tools.shown_tool(wishes.tool)
    others = sorted({tool for sign in strangers.values() for tool in sign.tools} & set(tools.BY_NAME))
    if used - set(strangers):
        message = f"{wishes.directory!r} has files of another tool besides those of {ours}"
        remedy = "Move the other tool's files into their own directory, and import each directory separately."
    else:
        message = f"{wishes.directory!r} has files of another tool, and none of {ours}"
        commands = " or ".join(f"entrypoint import --from {tool} {wishes.directory}" for tool in others)
        remedy = f"{commands}." if commands else "`import` does not support that tool; see docs/commands/import.md."
    raise MigrationFilesError(f"{message}; nothing was written: {faults[0]}", faults=faults, remedy=remedy)


def _whose(sign: Sign) -> str:
    return f"a file of {' or '.join(tools.shown_tool(tool) for tool in sorted(sign.tools))}"


def _nothing(wishes: ImportOptions, tool: ImportableTool, limit: int) -> UsageError:
    """Return the error for a directory without migrations, which may be the parent of the right one."""
    names = [*tool.usual, *sorted(entry.name for entry in os.scandir(wishes.directory) if entry.is_dir())]
    below = next((path for name in names if _has_some(path := os.path.join(wishes.directory, name), tool, limit)), None)
    if below is not None:
        remedy = f"Did you mean the directory below? entrypoint import --from {wishes.tool} {below}"
    else:
        remedy = "Name the directory that contains them; docs/commands/import.md shows what they look like."
    return UsageError(f"{wishes.directory!r} has no migrations of {tools.shown_tool(wishes.tool)}", remedy=remedy)


def _has_some(path: str, tool: ImportableTool, limit: int) -> bool:
    try:
        return bool(tool.read(_Recording(Folder(path, tool.depth, limit))).migrations)
    except OSError:
        return False


def _unspeakable(reading: Contents) -> Iterator[Fault]:
    """Yield an error for each version that cannot be written in a comment line."""
    versions = [(one.source, one.version) for one in reading.migrations]
    versions += [(one.source, one.version) for one in reading.repeatables]
    for source, version in versions:
        if not version.isprintable() or version != version.strip() or not version:
            yield Fault((source,), "its name has characters that a comment line cannot hold; rename it first")


def _not_utf8(folder: Folder, used: Iterable[str]) -> Iterator[Fault]:
    for path in used:
        content = folder.content(path)
        try:
            content.decode()
        except UnicodeDecodeError as error:
            message = f"is not UTF-8: byte 0x{content[error.start]:02x} at offset {error.start}; save it as UTF-8"
            yield Fault((path,), message, content.count(b"\n", 0, error.start) + 1)


# --- Where it goes ------------------------------------------------------------------------------------------


def _refuse_overwriting(into: str, targets: Sequence[TargetFile]) -> None:
    """Raise MigrationFilesError if a file already exists, or another one with its number."""
    faults = [
        f"{os.path.join(into, target.path)}: exists already"
        for target in targets
        if os.path.lexists(os.path.join(into, target.path))
    ]
    new = {int(target.path.partition("_")[0]): target.path for target in targets if target.path[0].isdigit()}
    written = {target.path for target in targets}
    for below in ("", ROLLBACKS):
        for name in filter(is_sql, _listed(os.path.join(into, below))):
            digits = re.match("[0-9]*", name)[0]  # type: ignore[index]  # it matches the empty string, too
            target = new.get(int(digits)) if digits else None
            if target is not None and os.path.join(below, name) not in written:
                faults.append(f"{os.path.join(into, below, name)}: has the number that {target} would have")
    if faults:
        raise MigrationFilesError(
            f"{into!r} has files that clash with the new ones; nothing was written: {faults[0]}",
            faults=tuple(faults),
            remedy="Import into an empty or new directory: --into DIRECTORY.",
        )


def _listed(directory: str) -> list[str]:
    try:
        return sorted(os.listdir(directory))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ConfigurationError(
            f"{directory!r} cannot be read: {error.strerror}", remedy="Give a directory."
        ) from error


def _existing(directory: str) -> str:
    """Return the nearest existing directory, at or above this one."""
    path = os.path.abspath(directory)
    while not os.path.isdir(path):
        path = os.path.dirname(path)
    return path


def _impossible_backs(stage: str, into: str, backs: Sequence[TargetFile]) -> Iterator[tuple[str, Left]]:
    """Remove the down migrations that cannot be one transaction, as they must be here, and yield why."""
    if not backs:
        return
    sources = {target.path: target.part.path for target in backs}
    for file in load_directory(os.path.join(stage, ROLLBACKS)).files:
        _, faults = examine_down_migration(file)
        if any(fault.rule == "rollback" for fault in faults):
            path = f"{ROLLBACKS}/{file.name}"
            os.unlink(file.path)
            what = faults[0].message.partition(" cannot run")[0]
            reason = f"its down migration has {what}, which cannot run in a transaction; files in rollback/ always do"
            remedy = f"To be able to roll back, write {os.path.join(into, path)} without it."
            yield path, Left(sources[path], Why(reason, remedy))


def _as_if_in(into: str, stage: str, report: Report) -> Report:
    """Return the report with the final paths of the files instead of the temporary ones."""
    current = os.getcwd()
    before, after = shown_path(stage, current), shown_path(into, current)
    findings = tuple(
        finding._replace(file=None if finding.file is None else finding.file.replace(before, after, 1))
        for finding in report.findings
    )
    return Report(findings, report.subject.replace(stage, into))
