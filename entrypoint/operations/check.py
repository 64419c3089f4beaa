"""`check`: everything that can be known about migration files without a database."""

from __future__ import annotations

from entrypoint.migration.directives import spell_timeouts
from entrypoint.migration.files import load_directory
from entrypoint.migration.prepare import bad_files, examine
from entrypoint.migration.report import excerpt, spot

TYPE_CHECKING = False
if TYPE_CHECKING:
    from entrypoint.migration.prepare import Prepared


def check(directory: str) -> str:
    """Check all files in `directory`; return what there is to say about good ones. Raises MigrationFilesError.

    The parser's complaints count here, though not at a start: there the server is the judge.
    """
    migrations = load_directory(directory)
    faults = list(migrations.faults)
    remarks = list(migrations.warnings)
    for file in migrations.files:
        prepared, found = examine(file)
        faults += found
        if prepared is not None:
            faults += _complaints(prepared)
            remarks += _remarks(prepared)
    if faults:
        raise bad_files(faults)
    lines = [f"{len(migrations.files)} migration(s) in {directory}: no faults", *remarks]
    return "\n".join(lines) + "\n"


def _complaints(prepared: Prepared) -> list[str]:
    syntax = prepared.advice.syntax
    if syntax is None or prepared.advice.faults:
        return []
    lines = excerpt(spot(prepared.text, syntax.offset), caret=True)
    return ["\n    ".join((f"{prepared.file.name}:{syntax.line}: {syntax.message}", *lines))]


def _remarks(prepared: Prepared) -> list[str]:
    name, advice = prepared.file.name, prepared.advice
    remarks = []
    if prepared.empty:
        remarks.append(f"{name}: is empty; it will be recorded as applied")
    if advice.wrapped:
        remarks.append(
            f"{name}: brings its own BEGIN and COMMIT, which are left out: every migration is one transaction"
        )
    if declared := spell_timeouts(advice.directives):
        remarks.append(f"{name}: {declared}")
    if not advice.transactional:
        why = ", ".join(sorted({outside.what for outside in advice.outside})) or "it says so"
        remarks.append(f"{name}: runs outside a transaction, statement by statement ({why})")
    return remarks
