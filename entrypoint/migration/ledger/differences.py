"""Differences between the files and the ledger that stop nothing from running. Each is logged once in a start."""

from __future__ import annotations

from entrypoint import logs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Self

    from entrypoint.migration.ledger.plan import Plan


class Differences:
    """The differences that have been logged so far.

    Between a start's first look and its last, a replica of another image may apply a file. So every plan is checked.
    """

    def __init__(self) -> None:
        """Start with nothing logged."""
        self._told: set[tuple[str, int]] = set()

    @classmethod
    def told_of(cls, plan: Plan) -> Self:
        """Return an instance for code that continues after `plan`, whose differences have all been logged."""
        differences = cls()
        differences._told.update(_names(plan))
        return differences

    def tell(self, plan: Plan) -> None:
        """Log the differences in `plan` that have not been logged yet."""
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
