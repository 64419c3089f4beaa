"""What `status` shows of the files in repeatable/: which version is in force, and what has failed."""

from __future__ import annotations

from typing import NamedTuple

from entrypoint.migration.ledger.repeatables import judge_files
from entrypoint.migration.ledger.repeated import read_known
from entrypoint.redaction import foreign, foreign_report

TYPE_CHECKING = False
if TYPE_CHECKING:
    from entrypoint.database.session import Session
    from entrypoint.migration.ledger.place import Place
    from entrypoint.migration.ledger.repeatables import Judged, Known, Text
    from entrypoint.migration.script.files import Directory, Repeatable
    from entrypoint.settings import Settings


class Repetition(NamedTuple):
    """A repeatable file, as the database and the files know it."""

    name: str
    state: str
    """applied, pending, failed, superseded, missing; `ahead` if an image with a higher number has run."""
    applied_at: str | None
    """When the version now in force was applied."""
    application_version: str | None
    failed_at: str | None = None
    error: str | None = None

    @property
    def shown(self) -> str:
        """The file's name in messages."""
        return f"repeatable/{self.name}.sql"

    def documented(self) -> dict[str, object]:
        """Return it in the form of the status API."""
        return {
            "name": self.name,
            "state": self.state,
            "appliedAt": self.applied_at,
            "applicationVersion": self.application_version,
            "failedAt": self.failed_at,
            "error": self.error and foreign_report(self.error, self.shown),
        }


def read_repetitions(
    session: Session, place: Place, directory: Directory, settings: Settings
) -> tuple[Repetition, ...]:
    """Return the state of each repeatable file. Raises EntrypointError."""
    if not directory.repeatables:
        return ()
    return repetitions(directory, read_known(session, place, settings.schema, settings.role))


def repetitions(directory: Directory, known: Known) -> tuple[Repetition, ...]:
    """Compare the files with what is recorded."""
    judged = judge_files(directory.repeatables, known.texts, directory.newest)
    in_force = {text.name: text for text in known.texts if not text.replaced}
    found = [_of_file(file, in_force.pop(file.name, None), judged, known) for file in directory.repeatables]
    found += [_with(text, foreign(text.name), "missing") for text in in_force.values()]
    return tuple(sorted(found))


def _of_file(file: Repeatable, text: Text | None, judged: Judged, known: Known) -> Repetition:
    if text is not None and text.checksum in (file.checksum, file.raw):
        return _with(text, file.name, "applied")
    if file in judged.superseded:
        return _with(text, file.name, "superseded")
    if judged.newer is not None:
        return _with(text, file.name, "ahead")
    failure = known.failure_of(file)
    if failure is None:
        return _with(text, file.name, "pending")
    return _with(text, file.name, "failed")._replace(failed_at=failure.at, error=failure.message)


def _with(text: Text | None, name: str, state: str) -> Repetition:
    version = text.application_version if text else None
    return Repetition(name, state, text.applied_at if text else None, version and foreign(version))
