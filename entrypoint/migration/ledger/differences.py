"""Files and ledger that do not agree, without keeping anything from running: told once in a start."""

from __future__ import annotations

from entrypoint import logs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Self

    from entrypoint.migration.ledger.plan import Plan


class Differences:
    """What the log has been told so far.

    Another replica, of another image, may apply a file between a start's first look and its last, so each plan is
    looked at.
    """

    def __init__(self) -> None:
        """Begin with nothing told."""
        self._told: set[tuple[str, int]] = set()

    @classmethod
    def told_of(cls, plan: Plan) -> Self:
        """Return what is to be told by somebody who goes on after `plan`, of which all has been told."""
        differences = cls()
        differences._told.update(_names(plan))
        return differences

    def tell(self, plan: Plan) -> None:
        """Log what is different in `plan`, as far as it has not been told."""
        for file in plan.changed:
            if ("changed", file.number) not in self._told:
                logs.event(
                    logs.WARNING,
                    "files.changed",
                    f"{file.name} was changed after it was applied: its checksum differs from the one recorded",
                    version=file.number,
                    file=file.name,
                    remedy="Undo the change and put it into a new migration. Or accept the file as it is: entrypoint "
                    "repair --checksums.",
                )
        for row in plan.missing:
            if ("missing", row.number) not in self._told:
                logs.event(
                    logs.WARNING,
                    "files.missing",
                    f"{row.filename} is applied, but its file is missing",
                    version=row.number,
                    file=row.filename,
                )
        self._told.update(_names(plan))


def _names(plan: Plan) -> Iterator[tuple[str, int]]:
    yield from (("changed", file.number) for file in plan.changed)
    yield from (("missing", row.number) for row in plan.missing)
