"""Plain values: their base, and those that the settings fill: how patient to be, whose history to take over, where.

The base is a named tuple without `typing` and `collections`, for the modules that every start imports. What a type
checker sees is `typing.NamedTuple`. At run time that one costs 5 ms (docs/startup-cost.md), as it brings `re`, `enum`
and `collections` along; this one has what that one has for its users, and not more.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NamedTuple as NamedTuple  # noqa: PLC0414 - type checkers are to take it for ours
else:
    try:
        # What `collections.namedtuple` takes, and falls back from in the same way.
        from _collections import _tuplegetter
    except ImportError:

        def _tuplegetter(index, _doc):  # noqa: ANN001, ANN202 - type checkers do not look here
            return property(lambda self: tuple.__getitem__(self, index))

    class NamedTuple(tuple):
        """Base of an immutable record; its annotations name its fields, in their order."""

        __slots__ = ()
        # Without annotations: those of a subclass are its fields, for `typing.get_type_hints`, too.
        _fields = ()
        _field_defaults = {}  # noqa: RUF012 - never changed, but replaced by each subclass

        def __init_subclass__(cls) -> None:
            cls._fields = cls.__match_args__ = tuple(cls.__annotations__)
            cls._field_defaults = {name: cls.__dict__[name] for name in cls._fields if name in cls.__dict__}
            for index, name in enumerate(cls._fields):
                setattr(cls, name, _tuplegetter(index, None))

        def __new__(cls, *values, **named):  # noqa: ANN002, ANN003, ANN204 - the same
            """Take the fields' values by position or by name."""
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
            """Let it be copied and pickled."""
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


# The default; operators look for the sentence `Database connection failed after 5 retries`, which belongs to it.
ATTEMPTS = 5
# The doubling of pauses ends here: a server that comes up late is to be noticed within half a minute all the same.
LONGEST_PAUSE = 30.0
# After so many, even the shortest first pause (1 ms) has grown to the longest.
DOUBLINGS = 15

MOST_MILLISECONDS = 2**31 - 1
"""PostgreSQL's own limit for its time-outs, which are 32 bit integers."""

LONGEST_AFTER = 20 * 86_400.0
"""Seconds for all that runs after the rollout: as good as no limit, and one that every clock can count."""

DEFAULT_LIMIT_MB = 512
"""How large a migration file may be, if nothing else is set."""

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
"""The tools whose files and whose histories can be taken over, as they are written in an `origin`."""


class Address(NamedTuple):
    """Where the database is."""

    conninfo: str
    """A libpq URL or conninfo string; empty for libpq's own `PG*` variables."""
    variable: str
    """The variable that it came from, for messages; empty if none was set."""
    file: str = ""
    """The file that holds it, which is read again for each connection; empty if it came from no file."""
    password_command: tuple[str, ...] = ()
    """What prints the password of each new connection; empty if nothing does."""


class Adopt(NamedTuple):
    """Whose history is to be taken over."""

    tool: str
    """One of `TOOLS`."""
    schema: str | None = None
    table: str | None = None
    """Where it is, if not where the tool has it by default."""
    by_hand: bool = False
    """Whether the command `adopt` asks for it; else MIGRATION_ADOPT is set."""


class ConnectPolicy(NamedTuple):
    """How often, how soon again, and how long to try; times in seconds."""

    attempts: int
    backoff: float
    """The pause after the first failed attempt; it doubles from one to the next."""
    timeout: float
    """For one attempt, name resolution and login included."""

    @property
    def longest(self) -> float:
        """How long it may take at most until there is a connection: all attempts, and all pauses unshortened."""
        pauses = self.attempts - 1
        doubling = min(pauses, DOUBLINGS)
        growing = sum(min(self.backoff * 2.0**failures, LONGEST_PAUSE) for failures in range(doubling))
        return self.attempts * self.timeout + growing + (pauses - doubling) * LONGEST_PAUSE


class LockPolicy(NamedTuple):
    """Times in seconds."""

    timeout: float
    """How long to wait for the lock."""
    stale: float
    """After this, a lock row without a token (one of the earlier system's) belongs to nobody any more."""
    hard: bool = False
    """Whether `timeout` was set, and so holds beside a living holder, too."""


class ApplyPolicy(NamedTuple):
    """Times in seconds."""

    timeout: float
    """For all migrations together."""
    ddl_lock_timeout: float
    """PostgreSQL's `lock_timeout` for one attempt at a migration."""
