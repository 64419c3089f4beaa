"""The texts of repeatable files that were applied, and which of an image's files are to be applied. Pure functions.

Replicas of two images, of which each has its own text of a view, must not replace it in turns. A number alone does not
tell which image is the newer one, as not every release has a new migration; nor does the text, as an old one is another
one, too. So every text is kept that was ever applied, with the newest number of the image that did so, and an image
puts nothing in the place of a text that has once replaced its own (docs/decisions/0042).
"""

from __future__ import annotations

from entrypoint import logs
from entrypoint.database.quoting import literal
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
_MOMENT = "to_char(applied_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"')"


class Text(NamedTuple):
    """One row: a text that was applied."""

    name: str
    checksum: str
    newest: int
    """The newest number among the migration files of the image that applied it, or had it dropped."""
    replaced: bool
    """Whether it is not in force any more."""
    replaced_under: int | None
    """The newest number of the image that put another text in its place; None if a migration has dropped it."""
    applied_at: str | None = None
    application_version: str | None = None


class Failure(NamedTuple):
    """One row: a text that PostgreSQL has refused. The next start tries it again."""

    id: int
    """Counts up: the next failure has a higher one."""
    name: str
    checksum: str
    at: str | None
    application_version: str | None
    message: str


class Known(NamedTuple):
    """All that is recorded of repeatable files."""

    texts: tuple[Text, ...] = ()
    failures: tuple[Failure, ...] = ()
    """At most one for each file, the last."""

    def failure_of(self, file: Repeatable) -> Failure | None:
        """Return how this text failed last, if it did."""
        return next((one for one in self.failures if (one.name, one.checksum) == (file.name, file.checksum)), None)


class Repeats(NamedTuple):
    """What a start is to do about the repeatable files."""

    forced: frozenset[str] = frozenset()
    """The names of those that are applied whatever was applied before: somebody asks for them."""
    seen: int = 0
    """The last failure that was recorded before this start did anything."""
    due: frozenset[str] = frozenset()
    """The names of those that were to be applied at that time."""


class Judged(NamedTuple):
    """What is to be done about the repeatable files of an image."""

    due: tuple[Repeatable, ...] = ()
    """To be applied."""
    superseded: tuple[Repeatable, ...] = ()
    """Not to be applied, though another text is in force: it has replaced this one."""
    newer: int | None = None
    """The newest number of an image that has been here, if that is higher than this one's: then nothing is applied."""


def judge(files: Sequence[Repeatable], texts: Sequence[Text], mine: int) -> Judged:
    """Compare an image's files with what was applied. `mine`: the highest number among its migration files."""
    highest = max((text.newest for text in texts), default=0)
    in_force = {text.name: text.checksum for text in texts if not text.replaced}
    differing = [file for file in files if in_force.get(file.name) not in (file.checksum, file.raw)]
    if mine < highest:
        return Judged(newer=highest) if differing else Judged()
    # What a migration has dropped was not replaced by another text; and where none is in force, any is better.
    barred = {
        (text.name, text.checksum)
        for text in texts
        if text.replaced_under is not None and mine <= text.replaced_under and text.name in in_force
    }
    superseded = [file for file in differing if (file.name, file.checksum) in barred]
    return Judged(tuple(file for file in differing if file not in superseded), tuple(superseded))


def tell(judged: Judged, mine: int) -> None:
    """Log which files are not applied though another text is in force, and why."""
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
    """Return the query for all texts; `as_texts` reads its answer. The table must be there."""
    owners = ", ".join(f"{literal(place.table(name))}::regclass" for name in (TABLE, "schema_migrations"))
    return (
        "SELECT name, checksum, newest_number, replaced_at IS NOT NULL, replaced_under, "
        f"{_MOMENT}, application_version, "
        f"(SELECT count(DISTINCT relowner) FROM pg_class WHERE oid IN ({owners})) "
        f"FROM {place.table(TABLE)} WHERE status = 'completed' ORDER BY id"
    )


def failures_query(place: Place) -> str:
    """Return the query for what has failed; `as_failures` reads its answer."""
    return (
        f"SELECT id, name, checksum, {_MOMENT}, application_version, error_message "
        f"FROM {place.table(TABLE)} WHERE status = 'failed' ORDER BY id"
    )


def as_failures(rows: Sequence[Row]) -> tuple[Failure, ...]:
    """Return the answer to `failures_query`."""
    return tuple(
        Failure(int(number or 0), name or "", checksum or "", at, version, message or "")
        for number, name, checksum, at, version, message in rows
    )


def as_texts(rows: Sequence[Row]) -> tuple[Text, ...]:
    """Return the answer to `query`."""
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
    """Tell whether the table belongs to the owner of the ledger, so that nothing more has to be asked."""
    return all(row[-1] == "1" for row in rows)
