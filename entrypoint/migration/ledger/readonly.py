"""Find out why PostgreSQL accepts no writes from us, and what to type.

PostgreSQL is asked, because its error message may be in any language.
"""

from __future__ import annotations

from itertools import takewhile

from entrypoint.database import session_state
from entrypoint.database.answers import StatementError
from entrypoint.database.transactions import READ_COMMITTED
from entrypoint.errors import ConnectionLostError
from entrypoint.records import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from entrypoint.database.session import Session
    from entrypoint.deadline import Deadline

SETTING = "default_transaction_read_only"
_OFF = "options=-cdefault_transaction_read_only%3Doff"

# By pg_settings.source, highest precedence first: who may reset it, and how.
_RESETS = {
    "database user": ("As {login} or a superuser", "ALTER ROLE {login} IN DATABASE {database} RESET"),
    "user": ("As {login} or a superuser", "ALTER ROLE {login} RESET"),
    "database": ("As the database's owner or a superuser", "ALTER DATABASE {database} RESET"),
    "global": ("As a superuser", "ALTER ROLE ALL RESET"),
}
_FOR_WHOM = {
    "database user": "for the login {login} in the database {database}",
    "user": "for the login {login}",
    "database": "for the database {database}",
    "global": "for all logins",
}
# The file that ALTER SYSTEM writes.
_AUTO_CONF = "postgresql.auto.conf"


class Stored(NamedTuple):
    """A value in pg_db_role_setting that applies to this login in this database."""

    source: str
    """As in pg_settings.source."""
    on: bool


class ReadOnlyFacts(NamedTuple):
    """What PostgreSQL says about itself and our session. Names are quoted where SQL needs it."""

    standby: bool
    on: bool
    """Whether the session's transactions are read-only by default."""
    source: str
    """Where that comes from: pg_settings.source."""
    file: str
    line: str
    """The place in the server's configuration; empty if this user may not see it."""
    login: str
    database: str
    stored: tuple[Stored, ...]
    """Highest precedence first."""

    @property
    def set_in_session(self) -> bool:
        """Whether it is on because of a SET in this session."""
        return self.on and self.source == "session"


def remedy(facts: ReadOnlyFacts) -> str:
    """Return where the setting comes from, and what to do about it."""
    # Once one value is reset, the next one applies.
    resets = [stored.source for stored in takewhile(lambda stored: stored.on, facts.stored)]
    stored = _stored_remedy(facts, resets) if resets else ""
    if facts.source == "client":
        removal = (
            f"The connection's options turn {SETTING} on. Remove it from `options` in the address, or from PGOPTIONS "
            "if the address has no options."
        )
        return f"{removal} Then: {stored}" if stored else removal
    if stored:
        return stored
    if facts.source in _RESETS:
        return (
            f"{SETTING} was on {_FOR_WHOM[facts.source].format(**facts._asdict())} when this session began, and is "
            "now off: start again. Behind a pooler, have it reconnect (PgBouncer: RECONNECT)."
        )
    instead = f"Or, if migrations may write anyway, add {_OFF} to MIGRATION_DATABASE_URL."
    if facts.source == "command line":
        return f"The server was started with {SETTING} on its command line. Start it without. {instead}"
    if facts.source == "configuration file":
        return f"{_configured(facts)}. {instead}"
    return (
        f"{SETTING} is on in the server's session (source: {facts.source}): the file, another client of the pooler, "
        "or a login trigger set it. Remove it there and have the pooler reconnect (PgBouncer: RECONNECT); or set "
        "MIGRATION_DATABASE_URL to the server's own address."
    )


def _stored_remedy(facts: ReadOnlyFacts, sources: list[str]) -> str:
    names = {"login": facts.login, "database": facts.database}
    places = " and ".join(_FOR_WHOM[source].format(**names) for source in sources)
    # If there are several, a superuser may change them all.
    who = _RESETS[sources[0]][0].format(**names) if len(sources) == 1 else "As a superuser"
    statements = "; ".join(f"{_RESETS[source][1].format(**names)} {SETTING}" for source in sources)
    return (
        f"{SETTING} is on {places}. {who}: {statements}. If that session is itself read-only, run SET {SETTING} = off "
        f"first. Or, if migrations may write anyway, add {_OFF} to MIGRATION_DATABASE_URL."
    )


def _configured(facts: ReadOnlyFacts) -> str:
    reload = "SELECT pg_reload_conf()"
    if not facts.file:
        # ALTER SYSTEM overrides postgresql.conf.
        return (
            f"{SETTING} is on in the server's configuration. As a superuser: ALTER SYSTEM SET {SETTING} = off; {reload}"
        )
    if facts.file.endswith(_AUTO_CONF):
        return (
            f"{SETTING} is on in the server's configuration, through ALTER SYSTEM. As a superuser: ALTER SYSTEM RESET "
            f"{SETTING}; {reload}"
        )
    return (
        f"{SETTING} is on in {facts.file}, line {facts.line}. Set it to off there, and then, as a superuser: {reload}"
    )


def ask(session: Session, deadline: Deadline) -> ReadOnlyFacts | None:
    """Roll back the open transaction, and ask PostgreSQL in a new one; None if there is no answer."""
    try:
        session.rollback(deadline)
        parts = (f"{READ_COMMITTED} READ ONLY;", session_state.ours(None), f"{_QUERY};", "COMMIT")
        row, *rest = session.query("\n".join(parts), deadline)[-2]
    except (StatementError, ConnectionLostError, ValueError):
        # Report the earlier refusal, not this error.
        return None
    standby, setting, source, file, line, login, database = row[:7]
    stored = tuple(Stored(where, on == "t") for *_, where, on in (row, *rest) if where)
    return ReadOnlyFacts(
        standby == "t", setting == "on", source or "", file or "", line or "", login or "", database or "", stored
    )


# Values stored for MIGRATION_ROLE do not matter: SET ROLE applies no settings.
_QUERY = f"""\
SELECT pg_is_in_recovery(), s.setting, s.source, s.sourcefile, s.sourceline, quote_ident(session_user),
       quote_ident(current_database()), r.source, r.value
FROM pg_settings s
LEFT JOIN (
    SELECT CASE WHEN d.setrole <> 0 AND d.setdatabase <> 0 THEN 'database user' WHEN d.setrole <> 0 THEN 'user'
                WHEN d.setdatabase <> 0 THEN 'database' ELSE 'global' END,
           substr(c.line, length('{SETTING}=') + 1)::boolean, d.setrole <> 0, d.setdatabase <> 0
    FROM pg_db_role_setting d CROSS JOIN LATERAL unnest(d.setconfig) AS c (line)
    WHERE starts_with(c.line, '{SETTING}=')
      AND d.setrole IN (0, (SELECT u.oid FROM pg_roles u WHERE u.rolname = session_user))
      AND d.setdatabase IN (0, (SELECT b.oid FROM pg_database b WHERE b.datname = current_database()))
) AS r (source, value, of_role, of_database) ON true
WHERE s.name = '{SETTING}'
ORDER BY r.of_role DESC, r.of_database DESC"""
