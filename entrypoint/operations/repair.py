"""`repair`: make the ledger match the files again, after a person has decided that the files are right."""

from __future__ import annotations

from contextlib import closing
from typing import NamedTuple

from entrypoint import logs
from entrypoint.counts import count
from entrypoint.database.quoting import literal
from entrypoint.errors import ConfigurationError
from entrypoint.errors.operator import NotRepairedError
from entrypoint.migration.ledger import writing
from entrypoint.migration.ledger.rows import COMPLETED, REPAIRED, RUNNING
from entrypoint.migration.ledger.rows import FAILED as HAS_FAILED
from entrypoint.migration.ledger.walk import walk_in, without_walk
from entrypoint.migration.operator.amend import Amendment, amend
from entrypoint.migration.script import batch
from entrypoint.migration.script.prepare import examine
from entrypoint.migration.script.units import stopped_at
from entrypoint.redaction import foreign_report, visible
from entrypoint.survey import assign, refuse_read_only, survey_database

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from entrypoint.migration.ledger.place import Place
    from entrypoint.migration.ledger.rows import LedgerRow
    from entrypoint.migration.ledger.walk import Walk
    from entrypoint.migration.script.files import MigrationFile
    from entrypoint.settings import Settings
    from entrypoint.survey import Survey

CHECKSUMMED = "checksums"
FAILED = "failed"
MISSING = "missing"
AHEAD = "ahead"

BY_DEFAULT = frozenset((CHECKSUMMED, FAILED))
"""What is repaired unless options are given.

The others need an option: a missing file may be missing only in this image or directory, and rows above the last file
were written by a newer image.
"""


class Fix(NamedTuple):
    """One row that does not match the files."""

    kind: str
    row: LedgerRow
    words: str
    """What to do about it, for a person."""
    checksum: str | None = None
    """What to write instead; None to remove the row."""


class Diagnosis(NamedTuple):
    """Everything that could be repaired, and remarks."""

    fixes: tuple[Fix, ...]
    remarks: tuple[str, ...]


class Repair(NamedTuple):
    """What to do. The connection is closed while somebody decides."""

    settings: Settings
    survey: Survey
    fixes: tuple[Fix, ...]
    left: tuple[str, ...]
    """Differences that are left alone, in words."""
    unknown: tuple[str, ...] = ()
    """The file names of failed migrations above this image's last file."""
    missing: int = 0
    """How many rows whose file is gone are left alone, without --missing."""


def diagnose(files: Sequence[MigrationFile], rows: Sequence[LedgerRow]) -> Diagnosis:
    """Return each row that does not match `files`, and what would make it match."""
    by_number = {file.number: file for file in files}
    latest = max(by_number, default=-1)
    fixes, remarks = [], []
    for row in rows:
        file = by_number.get(row.number)
        if row.number > latest:
            words = f"forget it: it is {row.status}, and above the last file here, so a newer image wrote it"
            if row.status == COMPLETED:
                words += "; that image will run it AGAIN"
            fixes.append(Fix(AHEAD, row, words))
        elif row.status == HAS_FAILED:
            stopped, walk = stopped_at(row.error_message or ""), walk_in(row.error_message)
            then = "; the next start runs the file" if file is not None else "; its file is gone"
            if file is not None and walk is not None:
                fixes.append(_of_batches(file, row, walk))
            elif file is None or stopped is None:
                fixes.append(Fix(FAILED, row, f"remove the failed row{then}"))
            else:
                # Without the row it would start from the beginning, and run again what is already committed.
                words = f"have the next start continue at line {stopped.line}; what comes before it is committed"
                fixes.append(Fix(FAILED, row, words, REPAIRED))
        elif file is None:
            fixes.append(Fix(MISSING, row, f"forget it: it is {row.status}, and its file is gone"))
        elif row.status == RUNNING:
            at = (
                foreign_report(without_walk(row.error_message or ""), row.filename) or "an unknown statement"
            ).splitlines()[0]
            remarks.append(f"{row.filename}  (running, or interrupted, at {at}; entrypoint migrate continues there)")
        elif not file.matches(row.checksum):
            words = f"accept the file as it is: checksum {file.checksum[:12]}… instead of {(row.checksum or '')[:12]}…"
            fixes.append(Fix(CHECKSUMMED, row, words, file.checksum))
    return Diagnosis(tuple(fixes), tuple(remarks))


def _of_batches(file: MigrationFile, row: LedgerRow, walk: Walk) -> Fix:
    """Return the repair of a file that failed in the middle of its batches."""
    if file.matches(walk.checksum) or _has_statement(file, walk.statement):
        words = f"have the next start continue its batches: {walk.words()}"
        return Fix(FAILED, row, words, REPAIRED)
    words = "remove the failed row; the file has changed, so the next start runs it from its first batch, although "
    return Fix(FAILED, row, f"{words}an earlier version of it has changed {count(walk.rows, 'row')}")


def _has_statement(file: MigrationFile, digest: str | None) -> bool:
    """Return whether a file still has the statement with this digest, whatever its directives."""
    if digest is None:
        return False
    prepared, _ = examine(file, escapes=False, in_doubt_only=True)
    return prepared is not None and any(
        batch.digest(prepared.advice.body, statement) == digest for statement in prepared.advice.statements
    )


def plan(settings: Settings, kinds: Collection[str]) -> Repair:
    """Compare the files with the ledger. Changes nothing. Raises EntrypointError."""
    survey = survey_database(settings)
    with closing(survey.session):
        if not settings.migrations_dir:
            return Repair(settings, survey, (), ())
        if not survey.directory.files:
            # A wrong MIGRATIONS_DIR is more likely than a project that has deleted all its migrations.
            raise ConfigurationError(
                f"There are no migrations in {settings.migrations_dir!r} to compare the migration history with",
                remedy="Set MIGRATIONS_DIR to the image's migrations directory.",
            )
        found = diagnose(survey.directory.files, survey.rows)
        fixes = tuple(fix for fix in found.fixes if fix.kind in kinds)
        others = tuple(
            f"{fix.row.filename}  (--{fix.kind} would {fix.words})" for fix in found.fixes if fix not in fixes
        )
        if fixes:
            refuse_read_only(survey, f"{count(len(fixes), 'row is', 'rows are')} to be repaired")
    unknown = tuple(fix.row.filename for fix in found.fixes if (fix.kind, fix.row.status) == (AHEAD, HAS_FAILED))
    missing = sum(fix.kind == MISSING for fix in found.fixes if fix not in fixes)
    return Repair(settings, survey, fixes, (*others, *found.remarks), unknown, missing)


def refuse_unknown(repair: Repair) -> None:
    """Raise NotRepairedError if what failed is not in this image: the user would think that it is repaired."""
    if repair.unknown and not repair.fixes:
        failed = ", ".join(map(visible, repair.unknown))
        raise NotRepairedError(
            f"Nothing was repaired: {failed} failed, and this image does not have that file",
            remedy=(
                "Run the command in the image that has the file. Or remove the row from here: entrypoint repair "
                "--ahead, which forgets all rows above this image's last file."
            ),
        )


def describe(repair: Repair) -> str:
    """Describe what would be done, for a person."""
    if repair.fixes:
        lines = [f"Will repair {count(len(repair.fixes), 'row')} of the migration history:"]
        lines += [f"  {fix.row.filename}  ({fix.words})" for fix in repair.fixes]
    else:
        lines = ["Nothing to repair."]
        if repair.settings.command is not None:
            lines.append("A failed run of MIGRATION_COMMAND needs no repair: the next start runs it again.")
    if repair.left:
        lines += ["Left alone:", *(f"  {one}" for one in repair.left)]
    if repair.missing:
        rows = count(repair.missing, "row no longer has a file", "rows no longer have a file")
        lines.append(f"{rows}. To forget {'it' if repair.missing == 1 else 'them'}: entrypoint repair --missing")
    return "\n".join(map(visible, lines)) + "\n"


def carry_out(repair: Repair) -> str:
    """Do it, all in one transaction, and return a report. Raises EntrypointError."""
    survey, fixes = repair.survey, repair.fixes
    statements = [_statement(survey.place, fix) for fix in fixes]
    amendment = Amendment(survey.rows, statements, _sign(survey.place, fixes))
    amend(assign(repair.settings, survey), survey.session, survey.place, amendment)
    for fix in fixes:
        logs.event(
            logs.INFO,
            "ledger.repaired",
            f"{fix.row.filename}: {_done(fix)} ({fix.kind})",
            version=fix.row.number,
            file=fix.row.filename,
        )
    return f"Repaired {count(len(fixes), 'row')}.\n"


def _done(fix: Fix) -> str:
    if fix.checksum is None:
        return "removed its row"
    return "accepted its checksum" if fix.checksum else "the next start continues it"


def _statement(place: Place, fix: Fix) -> str:
    if fix.checksum is None:
        return writing.removal(place, fix.row.number)
    return writing.exactly_one(
        f"UPDATE {place.table('schema_migrations')} SET checksum = {literal(fix.checksum)} "
        f"WHERE migration_number = {fix.row.number}"
    )


def _sign(place: Place, fixes: Sequence[Fix]) -> str:
    """Return a query that returns a row if the repair is committed."""
    undone = " OR ".join(
        f"(migration_number = {fix.row.number}"
        + (")" if fix.checksum is None else f" AND checksum IS DISTINCT FROM {literal(fix.checksum)})")
        for fix in fixes
    )
    return f"SELECT 1 WHERE NOT EXISTS (SELECT FROM {place.table('schema_migrations')} WHERE {undone})"
