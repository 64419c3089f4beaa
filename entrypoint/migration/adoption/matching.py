"""Find the files that another tool has already applied: by their `origin`, never by their numbers."""

from __future__ import annotations

from entrypoint.counts import count
from entrypoint.errors.migration import HistoryRefusedError, MigrationFilesError
from entrypoint.migration.adoption import checksums
from entrypoint.migration.adoption.history import list_versions
from entrypoint.migration.adoption.tools import BY_NAME
from entrypoint.migration.ledger.rows import COMPLETED
from entrypoint.migration.script import directives
from entrypoint.migration.script import files as migration_files
from entrypoint.migration.script.files import FileFault
from entrypoint.migration.script.prepare import bad_files
from entrypoint.records import NamedTuple
from entrypoint.redaction import foreign

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from entrypoint.database.answers import Row
    from entrypoint.migration.adoption.finding import ToolTable
    from entrypoint.migration.adoption.history import History
    from entrypoint.migration.ledger.rows import LedgerRow
    from entrypoint.migration.script.files import MigrationFile


# How many to list: a log line cannot hold thousands.
_MOST_TOLD = 100


class Origins(NamedTuple):
    """The files imported from one tool."""

    tool: str
    files: Mapping[str, MigrationFile]
    """By their version in that tool."""
    faulty: tuple[FileFault, ...] = ()
    """Errors in lines that may be misspelt origins."""
    by_hand: bool = False
    """Whether this is for the command `adopt`."""

    def worth_a_look(self, rows: Sequence[LedgerRow]) -> bool:
        """Return whether the tool's table can be relevant.

        Without a completed row in the ledger, every file is about to run. Later, only pending files of the tool count,
        because somebody may have continued to use it.
        """
        done = {row.number for row in rows if row.status == COMPLETED}
        return not done or any(file.number not in done for file in self.files.values())


class Adoption(NamedTuple):
    """What to record."""

    table: ToolTable
    files: tuple[MigrationFile, ...]
    """The files that are applied there and not recorded as completed here."""
    recorded: int
    """How many are applied there and already recorded here."""
    differing: tuple[MigrationFile, ...]
    """Those of `files` whose text differs from what the tool recorded."""


def origins(tool: str, files: Iterable[MigrationFile], *, by_hand: bool = False) -> Origins:
    """Return the files imported from `tool`. Raises MigrationFilesError if two have the same origin."""
    found: dict[str, MigrationFile] = {}
    faults: list[FileFault] = []
    faulty: list[FileFault] = []
    for file in files:
        try:
            text = migration_files.decode(migration_files.read_bytes(file.path))
        except OSError as error:
            faults.append(FileFault((file.name,), "unreadable", f"cannot be read: {error.strerror}"))
            continue
        except UnicodeDecodeError:
            continue  # It is refused when it is about to run.
        said, wrong = directives.read(text)
        origin = said.origin
        if origin is None:
            faulty += [FileFault((file.name,), "content", fault.message, fault.line) for fault in wrong]
        if origin is None or origin.tool != tool:
            continue
        other = found.setdefault(origin.version, file)
        if other is not file:
            what = f"both have the origin {tool} {foreign(origin.version)}; remove that line from the newer one"
            faults.append(FileFault((other.name, file.name), "origin", what))
    if faults:
        raise bad_files(faults)
    return Origins(tool, found, tuple(faulty), by_hand)


def weigh(here: Origins, table: ToolTable, theirs: Sequence[Row], ours: Sequence[LedgerRow]) -> Adoption:
    """Return what to record, from the rows of the tool's table and of our ledger.

    Raises HistoryRefusedError if the history cannot be adopted, and MigrationFilesError if an applied migration has no
    file here.
    """
    history = BY_NAME[here.tool].decide(theirs, here.files)
    if history.refusal is not None:
        raise HistoryRefusedError(
            f"{table.shown}: {foreign(history.refusal.message)}; nothing was adopted and nothing was run",
            remedy=foreign(history.refusal.remedy),
        )
    if history.unknown:
        raise _without_files(here, table, history)
    done = {row.number for row in ours if row.status == COMPLETED}
    applied = sorted(here.files[version] for version in history.applied)
    new = tuple(file for file in applied if file.number not in done)
    return Adoption(table, new, len(applied) - len(new), _differing(here, history, new))


def _without_files(here: Origins, table: ToolTable, history: History) -> MigrationFilesError:
    tool, shown = here.tool, BY_NAME[here.tool].shown
    versions = tuple(map(foreign, history.unknown))
    if here.faulty:
        what = (
            f"{shown} has applied {list_versions(versions)} ({table.shown}), and no file has it as its origin; but "
            f"{count(len(here.faulty), 'line', 'lines')} at the top of files cannot be read: {here.faulty[0]}"
        )
        remedy = f"Correct that and start again. It should look like: -- entrypoint: origin = {tool} {versions[0]}"
    elif not here.files:
        what = (
            f"{shown} has applied {list_versions(versions)} here ({table.shown}), and no file has {shown} as its origin"
        )
        remedy = (
            f"Run entrypoint import --from {tool} DIR. It writes the tool's migrations as files, each with its origin."
        )
    else:
        what = f"{shown} has applied {list_versions(versions)} ({table.shown}), and there is no file for that here"
        remedy = (
            f"Import its current directory (entrypoint import --from {tool} DIR), or write the file by hand with the "
            f'line "-- entrypoint: origin = {tool} {versions[0]}".'
        )
        if not here.by_hand:
            remedy += (
                " If the files were removed on purpose, and what was applied is recorded here, unset MIGRATION_ADOPT."
            )
    faults = tuple(map(str, here.faulty[:_MOST_TOLD])) + tuple(
        f"{version}: applied by {shown}, and no file with origin = {tool} {version}"
        for version in versions[:_MOST_TOLD]
    )
    return MigrationFilesError(f"{what}; nothing was run", faults=faults, remedy=remedy)


def _differing(here: Origins, history: History, files: Iterable[MigrationFile]) -> tuple[MigrationFile, ...]:
    versions = {file.number: version for version, file in here.files.items()}
    found = []
    for file in files:
        recorded = history.checksums.get(versions[file.number])
        if recorded is not None and checksums.differs(here.tool, migration_files.read_bytes(file.path), recorded):
            found.append(file)
    return tuple(found)
