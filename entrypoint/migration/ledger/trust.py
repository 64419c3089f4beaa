"""Whose an object of the ledger's is, and whether there is a reason to rely on that. Pure functions that make SQL."""

from __future__ import annotations

from entrypoint.database.quoting import literal


def trusted(owner: str, role: str | None) -> str:
    """Return a condition: what that `owner` made does not run anybody's code on us that could not run its own anyway.

    That is we, the roles that we are members of (of which a superuser is not one of all), superusers, and the owners of
    the schema and of the database, who can do as they like with all that is in there. `place` is in the query.
    """
    return f"""\
CASE WHEN {_evident(owner, role)} THEN true
     ELSE {owner} = (SELECT datdba FROM pg_database WHERE datname = current_database())
       OR EXISTS (SELECT FROM pg_roles WHERE oid = {owner} AND rolsuper)
       OR EXISTS (WITH RECURSIVE granted (oid) AS (
                      SELECT m.roleid FROM pg_auth_members m JOIN pg_roles u ON u.oid = m.member
                      WHERE u.rolname IN (session_user, current_user)
                      UNION SELECT m.roleid FROM pg_auth_members m JOIN granted g ON m.member = g.oid)
                  SELECT FROM granted WHERE oid = {owner}) END"""


def _evident(owner: str, role: str | None) -> str:
    ours = ", ".join(("session_user", "current_user", *([literal(role)] if role else ())))
    return f"pg_get_userbyid({owner}) IN ({ours}) OR {owner} = place.nspowner"


def _trusted_at_a_glance(owner: str, role: str | None) -> str:
    """Return a condition that is never true where `trusted` is not, and takes a third of the time to plan."""
    return f"""\
CASE WHEN {_evident(owner, role)} THEN true
     ELSE current_setting('is_superuser') = 'off' AND pg_has_role({owner}, 'MEMBER') END"""


def harmless(owner: str, role: str | None, *, glance: bool = False) -> str:
    """Return a condition: that `owner` is trusted, or that we could not migrate anyway.

    An application's own login, beside a Job that migrates, only reads what the Job has written.
    """
    able = "has_schema_privilege(place.oid, 'CREATE')"
    if role:
        chosen = "has_schema_privilege(oid, place.oid, 'CREATE')"
        able += f" OR EXISTS (SELECT FROM pg_roles WHERE rolname = {literal(role)} AND {chosen})"
    rely = _trusted_at_a_glance if glance else trusted
    return f"({rely(owner, role)} OR NOT ({able}))"
