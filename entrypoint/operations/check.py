"""`check`: find everything that can be found in migration files without running them."""

from __future__ import annotations

import os
from collections import Counter
from typing import NamedTuple

from entrypoint.counts import count
from entrypoint.errors import ConfigurationError, EntrypointError
from entrypoint.errors.operator import UsageError
from entrypoint.migration.script.directives import near_misses, spell_batch, spell_rollout, spell_timeouts
from entrypoint.migration.script.files import REPEATABLES, ROLLBACKS, is_sql, load_directory
from entrypoint.migration.script.prepare import (
    TEMPLATE,
    examine,
    examine_down_migration,
    examine_repeatables,
    faults_between,
    forget,
    unknown_refresh,
)
from entrypoint.migration.script.report import position_of, render_complaint
from entrypoint.migration.script.rollout import REQUIRES
from entrypoint.migration.script.statements import REPACK_CONCURRENTLY, blocks_that_commit
from entrypoint.migration.script.units import units_of
from entrypoint.operations.findings import Finding, Report, shown_path, sorted_findings
from entrypoint.operations.lint import INSTALL, find_squawk, lint
from entrypoint.operations.release import about_refresh, contracting, repeating, with_recipe
from entrypoint.operations.silence import is_excepted
from entrypoint.redaction import foreign
from entrypoint.tool.inputs import want
from entrypoint.tool.leading import find_program

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from entrypoint.migration.script.files import Directory, FileFault, MigrationFile
    from entrypoint.migration.script.prepare import Prepared
    from entrypoint.migration.script.statements import Advice
    from entrypoint.settings import Settings

# At most this many lines of transaction control are named.
_MANY = 6
# Seconds that reading the database may take, as the user only wants to check files.
_QUICK = 2.0


class CheckOptions(NamedTuple):
    """What the command line asks for."""

    names: tuple[str, ...] = ()
    """Check only these files; if there are none, check all."""
    lint: bool | None = None
    """Whether to run the linter; None: if it is installed. False also skips the warnings about the rollout."""
    everything: bool = False
    """Whether to report everything about applied files as well."""
    against: str | None = None
    """A branch, or another name of a commit, to compare the files with."""


class _Linter(NamedTuple):
    """Where the linter is, or a note that it is missing; both None if it is not wanted."""

    squawk: str | None
    missing: Finding | None


def check(settings: Settings, wishes: CheckOptions, search_path: str) -> Report:
    """Check the files that `wishes` asks for, and the names and numbers of all files. `search_path`: $PATH.

    Raises ConfigurationError if the directory cannot be read or the linter fails, and UsageError for file names that
    are not migrations.
    """
    of_command = list(_about_command(settings, search_path))
    if not settings.migrations_dir:
        return Report(tuple(of_command), "MIGRATION_COMMAND")
    linter = _linter(wishes.lint, search_path)
    if not os.path.lexists(settings.migrations_dir):
        raise ConfigurationError(
            f"There is no directory {foreign(settings.migrations_dir)!r} in {os.getcwd()}",
            remedy="Run it in another directory, or give the path: MIGRATIONS_DIR=db/migrations entrypoint check",
        )
    migrations = load_directory(settings.migrations_dir, settings.file_limit, repeating=settings.command is None)
    below = os.path.join(settings.migrations_dir, ROLLBACKS)
    rollbacks = load_directory(below, settings.file_limit) if os.path.isdir(below) else None
    chosen = [_chosen(each, wishes.names) for each in (migrations, rollbacks)]
    repeatables = _chosen_repeatables(migrations, wishes.names)
    passed_by = _passed_by(wishes.names, settings.migrations_dir, repeating=settings.command is None)

    directories = [migrations] if rollbacks is None else [migrations, rollbacks]
    general = [*of_command, *(finding for each in directories for finding in _about_directory(each)), *passed_by]
    if not wishes.names:
        general += [Finding("note", "directory", warning) for warning in migrations.warnings]
    if wishes.against is not None:
        from entrypoint.operations.against import against

        general += against(migrations, wishes.against, os.environ)
    applied: frozenset[int] = frozenset()
    escapes = False
    if not wishes.names and not wishes.everything and migrations.files:
        applied, escapes, told = _applied(settings, migrations)
        general.append(told)
    looks = [look_at(file, notes=file.number not in applied, escapes=escapes) for file in chosen[0]]
    reverses = [look_at_reverse(file, escapes=escapes) for file in chosen[1]]
    general += _of_one_origin(looks)
    general += _about_others(looks, migrations.files)
    repeated, faults = examine_repeatables(migrations, escapes=escapes)
    general += _about_repeatables([one for one in repeated if one.file.name in repeatables], looks, migrations)
    general += _faults_of_repeatables([one for one in faults if one.names[0] in repeatables], repeated, migrations)

    known = [*general, *(finding for look in (*looks, *reverses) for finding in look.findings)]
    said, note = _ask(linter, [look for look in looks if look.file.number not in applied], known)
    linted = linter.squawk is not None and note is None
    findings = general if note is None else [*general, note]
    for look in (*looks, *reverses):
        found = [*look.findings, *map(with_recipe, said.get(look.shown, ()))]
        if look.new and look.migration is not None and wishes.lint is not False:
            found += contracting(look.migration, look.shown, linted=linted)
        findings += sorted_findings(found)
    known_by = {shown_path(one.file.path, os.getcwd()): one for one in repeated}
    known_by |= {look.shown: look.migration for look in (*looks, *reverses) if look.migration is not None}
    findings = [one for one in findings if not is_excepted(one, known_by.get(one.file or ""))]
    return Report(tuple(findings), _subject(settings.migrations_dir, len(chosen[0]), len(repeatables), len(chosen[1])))


def _about_command(settings: Settings, search_path: str) -> Iterator[Finding]:
    """Yield errors in another migration tool's command and its inputs, as far as they can be seen."""
    if settings.command is None:
        return
    try:
        find_program(settings.command.words, search_path)
        wanted = want(settings.command)
    except ConfigurationError as error:
        faults = error.fields.get("faults")
        # Without the runner's PATH: others may read the report.
        message = error.message.replace(f" ({foreign(search_path)})", "")
        for fault in faults if isinstance(faults, list) else [message]:
            yield Finding("error", "command", str(fault), remedy=error.remedy)
        return
    if not wanted.names:
        message = "MIGRATION_COMMAND_INPUTS is not set, so the command runs at every start"
        yield Finding("warning", "command", message, remedy="Set it to the files that the command reads.")


class FileReport(NamedTuple):
    """One file, its findings, and, if it has no errors, its content."""

    file: MigrationFile
    shown: str
    findings: list[Finding]
    migration: Prepared | None
    new: bool = False
    """Whether to report more than errors, because it is not yet applied."""


def _of_one_origin(looks: Sequence[FileReport]) -> Iterator[Finding]:
    """Yield a finding for each file that has the same origin as another one."""
    first: dict[object, str] = {}
    for look in looks:
        origin = look.migration.advice.directives.origin if look.migration else None
        if origin is not None and (other := first.setdefault(origin, look.file.name)) != look.file.name:
            message = f"has the same origin as {other}, so adopt could not tell which of them is applied"
            yield Finding("error", "origin", message, look.shown, remedy="Remove the origin line from the newer one.")


def _about_others(looks: Sequence[FileReport], among: Sequence[MigrationFile]) -> Iterator[Finding]:
    """Yield findings about the other migrations that files refer to."""
    numbers = {file.number for file in among}
    for look in looks:
        if look.migration is None:
            continue
        for fault in faults_between([look.migration], among):
            yield Finding("error", fault.rule, fault.message, look.shown)
        required = look.migration.advice.directives.rollout.requires
        if required is not None and required not in numbers:
            message = f"requires {required:03d}, but there is no such file; on a new database it would never run"
            remedy = "Remove the line, or require the migration that replaced it."
            yield Finding("warning", REQUIRES, message, look.shown, remedy=remedy)


def _about_repeatables(
    repeatables: Sequence[Prepared], looks: Sequence[FileReport], directory: Directory
) -> Iterator[Finding]:
    """Yield findings about repeatable files, and about the way migrations refer to them."""
    for look in looks:
        if look.migration is not None:
            for fault in unknown_refresh(look.migration, directory):
                yield _error(fault, look.shown, look.migration.text)
            if look.new:
                yield from about_refresh(look.migration, look.shown, directory)
    for one in repeatables:
        shown = shown_path(one.file.path, os.getcwd())
        syntax = _syntax(one, shown)
        yield from repeating(one, shown) if syntax is None else (syntax,)


def _faults_of_repeatables(
    faults: Sequence[FileFault], repeatables: Sequence[Prepared], directory: Directory
) -> Iterator[Finding]:
    """Yield the `faults` of repeatable files, with their positions."""
    texts = {one.file.name: one.text for one in repeatables}
    for fault in faults:
        shown = shown_path(os.path.join(directory.path, fault.names[0]), os.getcwd())
        yield _error(fault, shown, texts.get(fault.names[0]))


def look_at(file: MigrationFile, *, notes: bool, escapes: bool = False) -> FileReport:
    """Check one file, without the linter.

    Syntax errors count here, unlike at a start, where the server decides.
    """
    shown = shown_path(file.path, os.getcwd())
    prepared, flaws = examine(file, escapes=escapes)
    if prepared is not None and not notes:
        # An applied file has run with such a comment, and can no longer be changed.
        nearly = {fault.offset for fault in near_misses(prepared.text)}
        flaws = [flaw for flaw in flaws if flaw.rule != TEMPLATE and (flaw.offset is None or flaw.offset not in nearly)]
    if prepared is None or flaws:
        return _faulty(file, shown, prepared, flaws)
    syntax = _syntax(prepared, shown)
    if syntax is not None:
        return FileReport(file, shown, [syntax], None)
    if not notes:
        return FileReport(file, shown, [], prepared)
    return FileReport(file, shown, _notes(prepared, shown), prepared, new=True)


def look_at_reverse(file: MigrationFile, *, escapes: bool) -> FileReport:
    """Check one down migration, including what `rollback` would refuse."""
    shown = shown_path(file.path, os.getcwd())
    prepared, flaws = examine_down_migration(file, escapes=escapes)
    if prepared is None or flaws:
        return _faulty(file, shown, prepared, flaws)
    syntax = _syntax(prepared, shown)
    if syntax is not None:
        return FileReport(file, shown, [syntax], None)
    remedy = (
        "Remove it: a down migration and the removal of its row are one transaction. Or run the file with "
        f"psql and then {forget(file.number)}."
    )
    return FileReport(file, shown, _about_commands(prepared, shown) + _about_blocks(prepared, shown, remedy), prepared)


def _faulty(file: MigrationFile, shown: str, prepared: Prepared | None, flaws: Sequence[FileFault]) -> FileReport:
    text = prepared.text if prepared else None
    return FileReport(file, shown, [_error(flaw, shown, text) for flaw in flaws], None)


def _syntax(prepared: Prepared, shown: str) -> Finding | None:
    syntax = prepared.advice.syntax
    if syntax is None:
        return None
    message, lines = render_complaint(prepared.text, prepared.statement_at(syntax.offset), syntax)
    column = position_of(prepared.text, syntax.offset).column + 1
    return Finding("error", "syntax", message, shown, syntax.line, column, excerpt=tuple(lines))


def lint_all(squawk: str, looks: Iterable[FileReport]) -> dict[str, list[Finding]]:
    """Return what the linter says about the files without errors, by the paths that are shown."""
    return lint(squawk, {look.shown: look.migration for look in looks if look.migration is not None})


def _ask(
    linter: _Linter, looks: Sequence[FileReport], known: Sequence[Finding]
) -> tuple[dict[str, list[Finding]], Finding | None]:
    """Return what the linter says about each file, and a note if it was not run."""
    if linter.squawk is None:
        return {}, linter.missing
    try:
        return lint_all(linter.squawk, looks), None
    except ConfigurationError as error:
        # Errors in the files come first: they stop a start, so a broken linter must not hide them.
        if not any(finding.level == "error" for finding in known):
            raise
        return {}, Finding("note", "no-linter", error.message, remedy=error.remedy)


def _linter(wanted: bool | None, search_path: str) -> _Linter:  # noqa: FBT001 - the value of an option
    if wanted is False:
        return _Linter(None, None)
    squawk = find_squawk(search_path)
    if squawk is None and wanted:
        raise ConfigurationError("--lint needs the linter squawk, which is not installed", remedy=f"{INSTALL}.")
    return _Linter(squawk, no_linter() if squawk is None else None)


def no_linter() -> Finding:
    """Return the note that the linter is not installed."""
    return Finding(
        "note",
        "no-linter",
        "the linter squawk is not installed, so locks and table rewrites are not checked",
        remedy=f"{INSTALL}; --no-lint hides this note.",
    )


def _chosen(directory: Directory | None, names: Sequence[str]) -> list[MigrationFile]:
    if directory is None:
        return []
    if not names:
        return list(directory.files)
    here = os.path.realpath(directory.path)
    wanted = {os.path.basename(name) for name in names if _directory_of(name) == here}
    return [file for file in directory.files if file.name in wanted]


def _chosen_repeatables(directory: Directory, names: Sequence[str]) -> frozenset[str]:
    """Return the repeatable files to check, each as `repeatable/NAME.sql`."""
    here = os.path.realpath(os.path.join(directory.path, REPEATABLES))
    wanted = {os.path.basename(name) for name in names if _directory_of(name) == here}
    return frozenset(file.shown for file in directory.repeatables if not names or os.path.basename(file.path) in wanted)


def _passed_by(names: Sequence[str], directory: str, *, repeating: bool) -> list[Finding]:
    """Return a note for each named file in the directory that is not a migration: `git diff` names a README, too.

    `repeating`: whether those in repeatable/ are migrations. Raises UsageError for files elsewhere.
    """
    top = os.path.realpath(directory)
    known = {top, *(os.path.join(top, name) for name in (ROLLBACKS, *[REPEATABLES] * repeating))}
    known = {os.path.realpath(folder) for folder in known}
    found: list[Finding] = []
    for name in names:
        if not os.path.lexists(name):
            raise UsageError(
                f"There is no file {foreign(name)!r}",
                remedy="Correct the name. Without names, entrypoint check checks all files.",
            )
        folder = _directory_of(name)
        if folder in known and is_sql(os.path.basename(name)):
            continue
        if os.path.realpath(name) == top:
            raise UsageError(
                f"{foreign(name)!r} is the migrations directory; all its files are checked by default",
                remedy="Leave the argument out: entrypoint check",
            )
        if os.path.isdir(name) or os.path.commonpath([top, folder]) != top:
            raise UsageError(
                f"{foreign(name)!r} is not a migration in {directory!r}",
                remedy="Set MIGRATIONS_DIR to the migrations directory: "
                "MIGRATIONS_DIR=db/migrations entrypoint check db/migrations/001_a.sql",
            )
        shown = shown_path(os.path.abspath(name), os.getcwd())
        found.append(Finding("note", "no-migration", "is not a migration, so it was not checked", shown))
    return found


def _directory_of(name: str) -> str:
    """Return the directory that a file is in; for a link, that of the link."""
    return os.path.realpath(os.path.dirname(os.path.abspath(name)))


def _applied(settings: Settings, migrations: Directory) -> tuple[frozenset[int], bool, Finding]:
    """Ask the database what is applied, if one is configured and answers quickly. The note says how that went.

    The second value: whether strings have escapes there (`Session.escapes`).
    """
    every = "so every file was checked as if it were pending"
    if migrations.faults:
        message = f"the database was not asked, {every}; correct the file names first"
        return frozenset(), False, Finding("note", "database", message)
    if not settings.address.conninfo and not any(os.environ.get(name) for name in _LIBPQ_ADDRESSES):
        return frozenset(), False, Finding("note", "database", f"no database is configured, {every}")
    from entrypoint.survey import survey_database

    once = settings.connect._replace(attempts=1, timeout=min(_QUICK, settings.connect.timeout))
    try:
        survey = survey_database(settings._replace(connect=once, lock=settings.lock._replace(timeout=0.0, hard=True)))
    except EntrypointError as error:
        message = f"the database did not say what is applied, {every}: {error.message}"
        return frozenset(), False, Finding("note", "database", message)
    escapes = survey.session.escapes
    survey.session.close()
    known = {file.number for file in migrations.files}
    applied = frozenset(row.number for row in survey.plan.applied) & known
    already = f"{count(len(applied), 'migration is', 'migrations are')} already applied"
    message = f"{already}; for those, only errors are shown" if applied else "no migrations are applied yet"
    return (
        applied,
        escapes,
        Finding("note", "database", message, remedy="Use --all for everything." if applied else None),
    )


_LIBPQ_ADDRESSES = ("PGHOST", "PGHOSTADDR", "PGSERVICE")


def _about_directory(directory: Directory) -> list[Finding]:
    current = os.getcwd()
    return [
        _error(flaw, shown_path(os.path.join(directory.path, flaw.names[0]), current), None)
        for flaw in directory.faults
    ]


def _error(flaw: FileFault, shown: str, text: str | None) -> Finding:
    column = None if flaw.offset is None or text is None else position_of(text, flaw.offset).column + 1
    message = flaw.message if len(flaw.names) == 1 else f"{' and '.join(flaw.names)}: {flaw.message}"
    return Finding("error", flaw.rule, message, shown, flaw.line, column)


def _notes(prepared: Prepared, shown: str) -> list[Finding]:
    advice = prepared.advice
    notes: list[tuple[str, str]] = []
    if prepared.empty:
        notes.append(("empty", "is empty; it will be recorded as applied"))
    if advice.wrapped:
        notes.append(
            ("wrapped", "has its own BEGIN and COMMIT; they are left out, because every migration is one transaction")
        )
    if declared := spell_timeouts(advice.directives):
        notes.append(("timeouts", declared))
    if rollout := spell_rollout(advice.directives.rollout):
        notes.append(("rollout", rollout))
    if batched := spell_batch(advice.directives):
        notes.append(("batches", f"runs in {batched}"))
    elif advice.units:
        notes.append(("units", f"runs as {describe_units(prepared)}, as psql would run it: {advice.units}"))
    elif advice.merged:
        notes.append(
            ("merged", f"{describe_left_out(prepared)}, because the whole file can be one transaction{unless(advice)}")
        )
    elif not advice.transactional:
        notes.append(("outside", f"runs outside a transaction, statement by statement ({why_outside(prepared)})"))
    found = [Finding("note", rule, message, shown) for rule, message in notes]
    return found + _about_commands(prepared, shown) + _warnings(prepared, shown)


def _about_commands(prepared: Prepared, shown: str) -> list[Finding]:
    """Return a note for each of psql's commands that is left out, once for each command."""
    commands = prepared.advice.commands
    times = Counter(command.shown for command in commands)
    found = []
    for command in commands:
        if count_of_it := times.pop(command.shown, 0):
            often = f" ({count_of_it} times)" if count_of_it > 1 else ""
            message = f"psql's command {command.shown} is left out{often}: {command.why}"
            column = position_of(prepared.text, command.start).column + 1
            found.append(Finding("note", "psql-command", message, shown, command.line, column))
    return found


def _warnings(prepared: Prepared, shown: str) -> list[Finding]:
    """Return warnings about what is dangerous or cannot work and the linter does not report."""
    advice = prepared.advice
    found = [
        Finding(
            "warning",
            "repack-concurrently",
            "REPACK (CONCURRENTLY): a transaction that took its snapshot before this ends (REPEATABLE READ, "
            "SERIALIZABLE, pg_dump) can find the table empty; the last step waits for an ACCESS EXCLUSIVE lock",
            shown,
            advice.statements[outside.statement].line,
            remedy="Run it when no such transaction is open.",
        )
        for outside in advice.outside
        if outside.what == REPACK_CONCURRENTLY
    ]
    found += [
        Finding(
            "warning",
            "idle-commit",
            f"this {one.what} ends nothing, because no BEGIN precedes it; it is left out, as psql would ignore it",
            shown,
            one.line,
        )
        for one in advice.left_out
        if one.idle
    ]
    if advice.transactional and not advice.merged:
        found += _about_blocks(prepared, shown, "Put `-- entrypoint: no-transaction` at the top of the file.")
    return found


def _about_blocks(prepared: Prepared, shown: str, remedy: str) -> list[Finding]:
    return [
        Finding(
            "warning",
            "commit-in-block",
            "this DO block has a COMMIT or ROLLBACK, which PostgreSQL refuses inside a transaction, and the "
            "migration runs in one",
            shown,
            block.line,
            remedy=remedy,
        )
        for block in blocks_that_commit(prepared.advice.body, prepared.advice)
    ]


def why_outside(prepared: Prepared) -> str:
    """Return why a file does not run in a transaction: the statements that cannot, or its directive."""
    return ", ".join(sorted({outside.what for outside in prepared.advice.outside})) or "the file says so"


def describe_units(prepared: Prepared) -> str:
    """Return how many units a file has, and how many run outside a transaction."""
    units = units_of(prepared.advice.body, prepared.advice)
    alone = sum(not unit.begin for unit in units)
    outside = f"; {alone} of them outside a transaction" if alone else ""
    return f"{count(len(units), 'unit')}, each in its own transaction{outside}"


def describe_left_out(prepared: Prepared) -> str:
    """Return which of a file's transaction control is left out; if it is a lot, only how much."""
    found = [f"{one.what} in line {one.line}" for one in prepared.advice.left_out if not one.idle]
    if not found:
        return "statements that end no transaction are left out"
    if len(found) > _MANY:
        found = [*found[:_MANY], f"{len(found) - _MANY} more"]
    return f"left out: {', '.join(found[:-1])} and {found[-1]}"


def unless(advice: Advice) -> str:
    """Return the condition, known only to the database, under which the file is not one transaction."""
    return (
        ", unless the database has a constraint that is INITIALLY DEFERRED: then it runs as units"
        * advice.unless_deferred
    )


def _subject(directory: str, migrations: int, repeatables: int, rollbacks: int) -> str:
    parts = [count(migrations, "migration")]
    parts += [count(repeatables, "repeatable file")] if repeatables else []
    parts += [count(rollbacks, "rollback")] if rollbacks else []
    *others, last = parts
    return f"{', '.join(others)} and {last} in {directory}" if others else f"{last} in {directory}"
