"""A log for a person, which begins with a line that names the database."""

from __future__ import annotations

from entrypoint import logs
from entrypoint.operations.whereabouts import whereabouts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from entrypoint.logs import Output


def head_log(role: str | None) -> None:
    """Have the log begin with that line, once the address is known. `role`: MIGRATION_ROLE."""
    headed = _Headed(role)
    headed.to = logs.send_to(headed)


class _Headed:
    """The log's output, with one line before the first."""

    def __init__(self, role: str | None) -> None:
        self.to: Output | None = None
        self._role = role
        self._begun = False

    def write(self, text: str) -> None:
        """Write a line."""
        if self.to is None:
            return
        where = whereabouts(self._role)
        if not self._begun and where.database:
            self._begun = True
            self.to.write(where.line)
        self.to.write(text)

    def flush(self) -> None:
        """Flush the output."""
        if self.to is not None:
            self.to.flush()

    def isatty(self) -> bool:
        """Return whether the output is a terminal."""
        return bool(getattr(self.to, "isatty", bool)())
