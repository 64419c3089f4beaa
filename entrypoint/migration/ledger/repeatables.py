"""Which texts of repeatable files were applied, and which of an image's files have to be. Pure functions.

If two images have different texts for a view, their replicas must not keep replacing each other's. The newest
migration number does not always tell which image is newer, as not every release has a new migration; nor does the
text. So the table keeps every text that was ever applied, with the newest migration number of the image that applied
it. An image never replaces a text that has replaced its own (docs/decisions/0042).
"""

from __future__ import annotations

from entrypoint import logs
from entrypoint.database.quoting import literal, utc
from entrypoint.records import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from entrypoint.database.answers import Row
    from entrypoint.migration.ledger.place import Place
    from entrypoint.migration.script.files import Repeatable

TABLE = "repeatable_migrations"
COLUMNS = frozenset(
    ("name", "checksum", "newest_number", "applied_at", "replaced_at", "replaced_under", "status", "error_message")
)
_APPLIED_AT = utc("applied_at")


class Text(NamedTuple):
    """One row: a text that was applied."""

    name: str
    checksum: str
    newest: int
    """The newest migration number in the image that applied it, or whose migration dropped it."""
    replaced: bool
    """Whether it is no longer in force."""
    replaced_under: int | None
    """The newest migration number in the image that replaced it; None if a migration dropped it."""
    applied_at: str | None = None
    application_version: str | None = None


class FailedText(NamedTuple):
    """One row: a text that PostgreSQL has refused. The next start tries it again."""

    id: int
    """Later failures have higher ones."""
    name: str
    checksum: str
    at: str | None
    application_version: str | None
    message: str


class Known(NamedTuple):
    """Everything recorded about repeatable files."""

    texts: tuple[Text, ...] = ()
    failures: tuple[FailedText, ...] = ()
    """At most one for each file: the latest."""

    def failure_of(self, file: Repeatable) -> FailedText | None:
        """Return the failure of this file, if it failed with its current text."""
        return next((one for one in self.failures if (one.name, one.checksum) == (file.name, file.checksum)), None)


class Repeats(NamedTuple):
    """What a start knows about the repeatable files when it begins."""

    forced: frozenset[str] = frozenset()
    """The names of those that the user asks for: they are applied in any case."""
    seen: int = 0
    """The id of the last failure recorded before this start did anything."""
    due: frozenset[str] = frozenset()
    """The names of those that had to be applied at that time."""


class Judged(NamedTuple):
    """What to do about the repeatable files of an image."""

    due: tuple[Repeatable, ...] = ()
    """The files to apply."""
    superseded: tuple[Repeatable, ...] = ()
    """The files not to apply, because the text in force has replaced theirs."""
    newer: int | None = None
    """The newest migration number of a newer image that has run here, if any: then nothing is applied."""


def judge_files(files: Sequence[Repeatable], texts: Sequence[Text], mine: int) -> Judged:
    """Compare an image's files with the applied texts. `mine`: the image's newest migration number."""
    highest = max((text.newest for text in texts), default=0)
    in_force = {text.name: text.checksum for text in texts if not text.replaced}
    differing = [file for file in files if in_force.get(file.name) not in (file.checksum, file.raw)]
    if mine < highest:
        return Judged(newer=highest) if differing else Judged()
    # A text that a migration dropped was not replaced by another. And if no text is in force, any text is better.
    barred = {
        (text.name, text.checksum)
        for text in texts
        if text.replaced_under is not None and mine <= text.replaced_under and text.name in in_force
    }
    superseded = [file for file in differing if (file.name, file.checksum) in barred]
    return Judged(tuple(file for file in differing if file not in superseded), tuple(superseded))


def tell(judged: Judged, mine: int) -> None:
    """Log which files are not applied although another text is in force, and why."""
    for file in judged.superseded:
        logs.event(
            logs.WARNING,
            "repeatable.superseded",
            f"{file.shown} was not applied: another image with the same newest migration has replaced this text",
            file=file.shown,
            remedy="If this image is the newer one, add a new migration to it (an empty one will do). Or run "
            f"entrypoint migrate --repeatable {file.name}.",
        )
    if judged.newer is not None:
        logs.event(
            logs.INFO,
            "repeatable.newer",
            f"an image with migration {judged.newer} has run here, and this image's migrations end at {mine}: nothing "
            "in repeatable/ is applied",
            version=judged.newer,
            latest=mine,
        )


def query(place: Place) -> str:
    """Return the query for all texts; `as_texts` reads its answer. The table must exist."""
    owners = ", ".join(f"{literal(place.table(name))}::regclass" for name in (TABLE, "schema_migrations"))
    return (
        "SELECT name, checksum, newest_number, replaced_at IS NOT NULL, replaced_under, "
        f"{_APPLIED_AT}, application_version, "
        f"(SELECT count(DISTINCT relowner) FROM pg_class WHERE oid IN ({owners})) "
        f"FROM {place.table(TABLE)} WHERE status = 'completed' ORDER BY id"
    )


def failures_query(place: Place) -> str:
    """Return the query for all failures; `as_failures` reads its answer."""
    return (
        f"SELECT id, name, checksum, {_APPLIED_AT}, application_version, error_message "
        f"FROM {place.table(TABLE)} WHERE status = 'failed' ORDER BY id"
    )


def as_failures(rows: Sequence[Row]) -> tuple[FailedText, ...]:
    """Return the failures from the answer to `failures_query`."""
    return tuple(
        FailedText(int(number or 0), name or "", checksum or "", at, version, message or "")
        for number, name, checksum, at, version, message in rows
    )


def as_texts(rows: Sequence[Row]) -> tuple[Text, ...]:
    """Return the texts from the answer to `query`."""
    return tuple(
        Text(
            name or "",
            checksum or "",
            int(newest or 0),
            replaced == "t",
            None if under is None else int(under),
            at,
            version,
        )
        for name, checksum, newest, replaced, under, at, version, _ in rows
    )


def evidently_ours(rows: Sequence[Row]) -> bool:
    """Tell whether the table has the same owner as the ledger, which makes further checks unnecessary."""
    return all(row[-1] == "1" for row in rows)
