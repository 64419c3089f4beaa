"""Read and check the pending files, before the lock is taken and before anything runs."""

from __future__ import annotations

import os

from entrypoint.counts import count
from entrypoint.errors.migration import MigrationFilesError
from entrypoint.migration.script import files as migration_files
from entrypoint.migration.script.files import FileFault, MigrationFile
from entrypoint.migration.script.rollout import rollouts
from entrypoint.migration.script.statements import advise
from entrypoint.migration.script.text import NotUtf8Error, statements_near
from entrypoint.records import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from entrypoint.migration.script.files import Directory
    from entrypoint.migration.script.statements import Advice
    from entrypoint.migration.script.text import Text


# In texts with more characters, the first words of each statement decide instead of the parser: its tree takes up to
# 240 bytes per character (measured), and a waiting replica should use less than 60 MB.
_PARSE_LIMIT = 100_000
# Texts are kept in memory up to this many characters, for all files together; each statement counts as `_STATEMENT`
# characters. The rest is read again when it is applied, so that a waiting replica needs no memory for it.
_IN_MEMORY = 1_000_000
_STATEMENT = 400
_CORRECT = "Correct the files. `entrypoint check` lists all errors without a database."


# The line in a file from `entrypoint new` that identifies it as long as it contains no SQL.
UNTOUCHED = "-- Write the SQL below this line. As long as there is none, this file is refused."
TEMPLATE = "template"


class Prepared(NamedTuple):
    """A migration that can run: its file, its text, and the advice on how to run it."""

    file: MigrationFile
    source: Text
    advice: Advice

    @property
    def text(self) -> str:
        """The whole text, in memory."""
        return str(self.source)

    @property
    def empty(self) -> bool:
        """Whether it contains no statement."""
        return not self.advice.statements

    def in_short(self) -> Prepared:
        """Return the same migration without its text in memory, to be read again when needed, if that is possible."""
        from entrypoint.migration.script.streamed import in_short

        if isinstance(self.source, str) and (found := in_short(self.file, self.source, self.advice)) is not None:
            return self._replace(source=found.text, advice=found.advice)
        return self

    def as_units(self, why: str) -> Prepared:
        """Return the same migration, to run unit by unit; its advice has faults if that is not possible."""
        escapes = self.advice.readings[0].escapes
        return self._replace(advice=advise(self.text, parse_limit=_PARSE_LIMIT, escapes=escapes, units=why))

    def statement_at(self, offset: int) -> str:
        """Return the statement that contains the character at `offset`; the whole text if no statement does.

        For a large file, it is not the whole text but the part around `offset`.
        """
        source, statements = self.source, self.advice.statements
        for statement in statements_near(statements, offset):
            if statement.start <= offset <= statement.end:
                return source[statement.start : statement.end]
        return source if isinstance(source, str) else source.around(offset)


def prepare(
    pending: Iterable[MigrationFile],
    *,
    escapes: bool,
    among: Sequence[MigrationFile] = (),
    in_doubt_only: bool = False,
) -> dict[int, Prepared]:
    """Return the migrations by number. Raises MigrationFilesError with every fault of every file.

    `escapes`: whether the server reads strings with escapes (`Session.escapes`). `among`: all files, to check that the
    files that the pending ones name exist. `in_doubt_only`: as for `advise`.
    """
    prepared: dict[int, Prepared] = {}
    faults: list[FileFault] = []
    room = _IN_MEMORY
    for file in pending:
        one, found = examine(file, escapes=escapes, in_doubt_only=in_doubt_only, whole=False)
        faults += found
        if one is not None:
            room -= len(one.source) + _STATEMENT * len(one.advice.statements)
            prepared[file.number] = one if room > 0 else one.in_short()
    if among:
        faults += faults_between(prepared.values(), among)
    if faults:
        raise bad_files(faults)
    return prepared


def faults_between(migrations: Iterable[Prepared], among: Sequence[MigrationFile]) -> list[FileFault]:
    """Return what is wrong with these migrations' references to other files; `among` is all files."""
    faults: list[FileFault] = []
    names = {file.name for file in among}
    for migration in migrations:
        file, rollout = migration.file, migration.advice.directives.rollout
        if rollout.floor is not None and rollout.floor not in names:
            replaced = {name for other in rollouts(among).values() for name in other.replaces}
            if rollout.floor not in replaced:
                message = f"its floor names {rollout.floor}, which does not exist: this image itself could not start"
                faults.append(FileFault((file.name,), "floor", message))
        faults += [
            FileFault((file.name,), "replaces", f"replaces {name}, but that file still exists: remove one of them")
            for name in rollout.replaces
            if name in names
        ]
    return faults


def load_files(path: str, limit: int, *, repeating: bool) -> Directory:
    """Read the names and checksums of the migration files. Raises MigrationFilesError if a name is bad."""
    directory = migration_files.load_directory(path, limit, repeating=repeating)
    if directory.faults:
        refuse_bad_names(directory)
    return directory


def refuse_bad_names(directory: Directory) -> None:
    """Raise MigrationFilesError if a name is bad; it also lists the faults inside the other files."""
    if directory.faults:
        raise bad_files([*directory.faults, *(fault for file in directory.files for fault in examine(file)[1])])


def bad_files(faults: Sequence[FileFault], remedy: str = _CORRECT) -> MigrationFilesError:
    """Return the error for bad files. Its message has the first of the `faults`, its list has all."""
    return MigrationFilesError(
        f"{count(len(faults), 'error')} in the migration files; nothing was run: {faults[0]}",
        faults=tuple(str(fault) for fault in faults),
        remedy=remedy,
    )


def examine_down_migration(file: MigrationFile, *, escapes: bool = False) -> tuple[Prepared | None, list[FileFault]]:
    """Return a down migration, and everything that is wrong with it: it must be one transaction."""
    reverse, faults = examine(file, escapes=escapes)
    if reverse is not None and not faults and (names := reverse.advice.directives.refresh):
        message = (
            f"refresh = {names[0]} only applies to migrations: a rollback does not make any start apply a repeatable "
            f"file. Recreate the object in this file, or afterwards with entrypoint migrate --repeatable {names[0]}"
        )
        return reverse, [FileFault((file.name,), "rollback", message)]
    if reverse is None or faults or reverse.advice.transactional:
        return reverse, faults
    names, advice = (file.name,), reverse.advice
    if advice.batched:
        message = "a down migration is one transaction, and this one runs in batches; remove the directive"
        return reverse, [FileFault(names, "rollback", message)]
    if advice.units:
        message = f"a down migration is one transaction, and this one cannot be: {advice.units}"
        return reverse, [FileFault(names, "rollback", message)]
    if not advice.outside:
        message = "a down migration is one transaction; remove the directive no-transaction"
        return reverse, [FileFault(names, "rollback", message)]
    return reverse, [
        FileFault(
            names,
            "rollback",
            f"{outside.what} cannot run inside a transaction, {not_in_a_down_migration(file.number)}",
            advice.statements[outside.statement].line,
        )
        for outside in advice.outside
    ]


def not_in_a_down_migration(number: int, table: str = "") -> str:
    """Return, as the end of a sentence, what to do about a statement that cannot run in a transaction.

    `table`: the migration history with its schema, as SQL, if that is known.
    """
    return (
        "and a down migration is one, so that its row is removed with it; leave out the statement, or its "
        f"CONCURRENTLY, or run the file with psql and then {forget(number, table)}"
    )


def forget(number: int, table: str = "") -> str:
    """Return how to remove a row by hand; without the table, not as SQL, which could change another history."""
    if table:
        return f"DELETE FROM {table} WHERE migration_number = {number}"
    return f"delete the row with migration_number = {number} from your schema_migrations"


def prepare_repeatables(directory: Directory, *, escapes: bool) -> tuple[Prepared, ...]:
    """Return all files in repeatable/, in the order in which they run. Raises MigrationFilesError with every fault."""
    prepared, faults = examine_repeatables(directory, escapes=escapes)
    if faults:
        raise bad_files(faults)
    return prepared


def refuse_unknown_refresh(migrations: Iterable[Prepared], directory: Directory) -> None:
    """Raise MigrationFilesError if a migration's `refresh` names a repeatable file that does not exist."""
    if faults := [fault for one in migrations for fault in unknown_refresh(one, directory)]:
        raise bad_files(faults)


def refreshed_by(migrations: Iterable[Prepared]) -> set[str]:
    """Return the names of the repeatable files whose objects these migrations drop."""
    return {name for one in migrations for name in one.advice.directives.refresh}


def unknown_refresh(one: Prepared, directory: Directory) -> list[FileFault]:
    """Return a fault for each repeatable file that a migration's `refresh` names and that does not exist."""
    known = {file.name for file in directory.repeatables}
    return [
        FileFault((one.file.name,), "refresh", f"refresh = {name}: there is no repeatable/{name}.sql")
        for name in one.advice.directives.refresh
        if name not in known
    ]


def examine_repeatables(directory: Directory, *, escapes: bool = False) -> tuple[tuple[Prepared, ...], list[FileFault]]:
    """Return all files in repeatable/, in the order in which they run, and everything that is wrong with them."""
    found: dict[str, Prepared] = {}
    faults: list[FileFault] = []
    for file in directory.repeatables:
        as_migration = MigrationFile(directory.newest, file.shown, file.path, file.checksum, file.raw)
        one, wrong = examine(as_migration, escapes=escapes, repeatable=True)
        if one is not None and not wrong:
            wrong = _not_with_the_others(one)
        if one is not None:
            found[file.name] = one
        faults += wrong
    from entrypoint.migration.script.repeatables import run_order

    after = {name: one.advice.directives.behind for name, one in found.items()}
    order, circular = run_order(found, after)
    return tuple(found[name] for name in order), [*faults, *circular]


def _not_with_the_others(one: Prepared) -> list[FileFault]:
    """Return a fault for each reason why a file cannot share a transaction with others."""
    advice, names = one.advice, (one.file.name,)
    what = "all files in repeatable/ are one transaction"
    if advice.units:
        return [FileFault(names, "repeatable", f"{what}, and this one cannot be: {advice.units}")]
    if advice.begin != "BEGIN":
        return [FileFault(names, "repeatable", f"{what}, and {advice.begin} would start another one")]
    return [
        FileFault(
            names,
            "repeatable",
            f"{outside.what} cannot run inside a transaction, and {what}; move it to a migration",
            advice.statements[outside.statement].line,
        )
        for outside in advice.outside
    ]


def examine(
    file: MigrationFile,
    *,
    escapes: bool = False,
    in_doubt_only: bool = False,
    repeatable: bool = False,
    whole: bool = True,
) -> tuple[Prepared | None, list[FileFault]]:
    """Return a migration and its faults, each with its line.

    `escapes`: whether the server reads strings with escapes; False without a server. `in_doubt_only`: as for `advise`.
    `repeatable`: whether the file is in repeatable/. `whole`: keep all of its text in memory, however large.
    """
    names = (file.name,)
    try:
        found = None if whole or escapes else _in_parts(file)
        if found is None:
            found = _in_one_piece(file, escapes=escapes, in_doubt_only=in_doubt_only, repeatable=repeatable)
        source, checksum, advice = found
    except OSError as error:
        return None, [FileFault(names, "unreadable", f"cannot be read: {error.strerror}")]
    except NotUtf8Error as error:
        message = f"is not valid UTF-8: byte 0x{error.byte:02x} at offset {error.offset}; save the file as UTF-8"
        return None, [FileFault(names, "encoding", message, error.line)]
    if checksum != file.checksum:
        return None, [FileFault(names, "unreadable", "changed while it was being read; start again")]
    faults = [FileFault(names, "content", fault.message, fault.line, fault.offset) for fault in advice.faults]
    if not advice.statements and isinstance(source, str) and UNTOUCHED in source:
        faults.append(
            FileFault(
                names,
                TEMPLATE,
                "the file is as `entrypoint new` created it: write the SQL, or remove the file",
            )
        )
    requires = advice.directives.rollout.requires
    if requires is not None and requires >= file.number:
        what = "itself" if requires == file.number else f"{requires:03d}, which comes after it"
        faults.append(
            FileFault(names, "requires", f"requires {what}: it can only require a migration with a lower number")
        )
    return Prepared(file, source, advice), faults


def _in_parts(file: MigrationFile) -> tuple[Text, str, Advice] | None:
    """Return what `_in_one_piece` does, for a large file that can be read in parts; None for any other."""
    if os.stat(file.path).st_size <= migration_files.LARGE:
        return None
    from entrypoint.migration.script.streamed import look_through

    found = look_through(file.path)
    return None if found is None else (found.text, found.checksum, found.advice)


def _in_one_piece(
    file: MigrationFile, *, escapes: bool, in_doubt_only: bool, repeatable: bool
) -> tuple[Text, str, Advice]:
    """Return a file's text, its checksum and the advice on how to run it. Raises OSError and NotUtf8Error."""
    content = migration_files.read_bytes(file.path)
    try:
        text = migration_files.decode(content)
    except UnicodeDecodeError as error:
        line = error.object.count(10, 0, error.start) + 1
        raise NotUtf8Error(error.object[error.start], error.start, line) from None
    checksum = migration_files.checksum(content)
    del content
    advice = advise(text, parse_limit=_PARSE_LIMIT, escapes=escapes, in_doubt_only=in_doubt_only, repeatable=repeatable)
    return text, checksum, advice
