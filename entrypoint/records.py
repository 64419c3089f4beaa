"""The base class of our records, and the records that the settings fill: addresses, timeouts, what to adopt.

The base class is a named tuple that needs neither `typing` nor `collections`, for the modules that every start imports.
Type checkers see `typing.NamedTuple`. At run time, that one takes 5 ms to import (docs/startup-cost.md), because it
imports `re`, `enum` and `collections`. Ours has the parts of it that this program uses.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NamedTuple as NamedTuple  # noqa: PLC0414 - makes type checkers export it from here
else:
    try:
        # `collections.namedtuple` uses this, with the same fallback.
        from _collections import _tuplegetter
    except ImportError:

        def _tuplegetter(index, _doc):  # noqa: ANN001, ANN202 - type checkers do not read this
            return property(lambda self: tuple.__getitem__(self, index))

    class NamedTuple(tuple):
        """Base class of an immutable record. A subclass's annotations are its fields, in order."""

        __slots__ = ()
        # Not annotated, because annotations are fields, also for `typing.get_type_hints`.
        _fields = ()
        _field_defaults = {}  # noqa: RUF012 - never changed, but replaced by each subclass

        def __init_subclass__(cls) -> None:
            cls._fields = cls.__match_args__ = tuple(cls.__annotations__)
            cls._field_defaults = {name: cls.__dict__[name] for name in cls._fields if name in cls.__dict__}
            for index, name in enumerate(cls._fields):
                setattr(cls, name, _tuplegetter(index, None))

        def __new__(cls, *values, **named):  # noqa: ANN002, ANN003, ANN204 - the same
            """Take the values of the fields, by position or by name."""
            if named or len(values) != len(cls._fields):
                missing, defaults = cls._fields[len(values) :], cls._field_defaults
                try:
                    values += tuple([named.pop(name) if name in named else defaults[name] for name in missing])
                except KeyError as error:
                    raise TypeError(f"{cls.__name__} needs {error}") from None
                if named or len(values) > len(cls._fields):
                    raise TypeError(f"{cls.__name__} takes {', '.join(cls._fields)}")
            return tuple.__new__(cls, values)

        def __getnewargs__(self):  # noqa: ANN204 - the same
            """Support copying and pickling."""
            return tuple(self)

        @classmethod
        def _make(cls, values):  # noqa: ANN001, ANN206 - the same
            return cls(*values)

        def _replace(self, **changed):  # noqa: ANN003, ANN202 - the same
            values = list(map(changed.pop, self._fields, self))
            if changed:
                raise TypeError(f"{type(self).__name__} has no {', '.join(changed)}")
            return tuple.__new__(type(self), values)

        def _asdict(self):  # noqa: ANN202 - the same
            return dict(zip(self._fields, self, strict=True))

        def __repr__(self) -> str:
            pairs = ", ".join(f"{name}={value!r}" for name, value in zip(self._fields, self, strict=True))
            return f"{type(self).__name__}({pairs})"


# The default number of attempts. Operators search for `Database connection failed after 5 retries`, so keep it.
ATTEMPTS = 5
# Pauses double up to this many seconds, so that a server that comes up late is still noticed within half a minute.
LONGEST_PAUSE = 30.0
# After this many doublings, even the shortest first pause (1 ms) has reached the longest.
DOUBLINGS = 15

LONGEST_NAME = 63
"""Bytes in a name; PostgreSQL truncates longer ones (`NAMEDATALEN - 1`)."""

MOST_MILLISECONDS = 2**31 - 1
"""The largest value of PostgreSQL's timeouts, which are 32-bit integers."""

LONGEST_AFTER = 20 * 86_400.0
"""The limit in seconds for everything after the rollout: practically none, but a number that every clock can hold."""

DEFAULT_LIMIT_MB = 512
"""The default limit for the size of a migration file, in MB."""

TOOLS = (
    "goose",
    "dbmate",
    "sql-migrate",
    "golang-migrate",
    "flyway",
    "sqlx",
    "diesel",
    "prisma",
    "drizzle",
    "supabase",
)
"""The tools whose files and histories can be taken over, as spelled in an `origin`."""


class Address(NamedTuple):
    """The database's address, and where its password comes from."""

    conninfo: str
    """A libpq URL or conninfo string; empty for libpq's own `PG*` variables."""
    variable: str
    """The variable that it came from, for messages; empty if none was set."""
    file: str = ""
    """The file that contains it, which is read again for each connection; empty if there is no such file."""
    password_command: tuple[str, ...] = ()
    """The command that prints the password for each new connection; empty if there is none."""


class Adopt(NamedTuple):
    """The tool whose history to take over."""

    tool: str
    """One of `TOOLS`."""
    schema: str | None = None
    table: str | None = None
    """The tool's table, if it is not the default one."""
    by_hand: bool = False
    """True for the command `adopt`, False for MIGRATION_ADOPT."""


class ConnectPolicy(NamedTuple):
    """How to connect: attempts, pauses and timeouts. Times are in seconds."""

    attempts: int
    backoff: float
    """The pause after the first failed attempt; each further one is twice as long."""
    timeout: float
    """For one attempt, including name resolution and login."""

    @property
    def longest(self) -> float:
        """The longest time until there is a connection: all attempts, and all pauses at full length."""
        pauses = self.attempts - 1
        doubling = min(pauses, DOUBLINGS)
        growing = sum(min(self.backoff * 2.0**failures, LONGEST_PAUSE) for failures in range(doubling))
        return self.attempts * self.timeout + growing + (pauses - doubling) * LONGEST_PAUSE


class LockPolicy(NamedTuple):
    """How long to wait for the lock; times in seconds."""

    timeout: float
    """How long to wait for the lock."""
    stale: float
    """After this time, a lock row without a token (from the earlier system) counts as abandoned."""
    hard: bool = False
    """Whether the user has set `timeout`, so that it also applies while a living holder works."""


class ApplyPolicy(NamedTuple):
    """How long migrations may take; times in seconds."""

    timeout: float
    """For all migrations together."""
    ddl_lock_timeout: float
    """PostgreSQL's `lock_timeout` for one attempt at a migration."""
