"""Change the column `migration_number` to bigint: when to, what prevents it, and how. Pure functions.

The column stays integer until a number does not fit. Some drivers, node-postgres for example, return bigint as text,
and replicas of the earlier system read this table (docs/decisions/0032).
"""

from __future__ import annotations

from entrypoint.database.quoting import identifier, literal
from entrypoint.errors import ConfigurationError
from entrypoint.migration.ledger.finding import VIEW_COLUMNS
from entrypoint.migration.ledger.tables import view
from entrypoint.records import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from entrypoint.database.answers import Row
    from entrypoint.migration.ledger.place import Place

LARGEST_INTEGER = 2**31 - 1


class NumberColumn(NamedTuple):
    """What the catalogs say about the column."""

    narrow: bool
    """Whether it is too narrow for a long number."""
    in_the_way: tuple[str, ...]
    """The objects, in words, that keep PostgreSQL from changing the column's type."""
    has_view: bool
    """Whether our own view on it exists."""
    afterwards: tuple[str, ...]
    """The statements that give the new view the old one's owner, options, privileges and so on."""


def are_long(numbers: Iterable[int]) -> bool:
    """Tell whether one of these numbers needs the wider column."""
    return any(number > LARGEST_INTEGER for number in numbers)


def read_column(rows: Sequence[Row]) -> NumberColumn:
    """Return the column's facts from the answer to `question`."""
    found: dict[str | None, list[str]] = {}
    for kind, text in rows:
        found.setdefault(kind, []).append(text or "")
    return NumberColumn(
        "narrow" in found, tuple(found.get("in the way", ())), "view" in found, tuple(found.get("afterwards", ()))
    )


def refuse_what_is_in_the_way(place: Place, column: NumberColumn) -> None:
    """Raise ConfigurationError if PostgreSQL would not change the column's type."""
    if column.in_the_way:
        raise ConfigurationError(
            f"Numbers above {LARGEST_INTEGER} need the column migration_number of schema_migrations in schema "
            f"{place.schema!r} to be bigint, and PostgreSQL cannot change its type because of "
            f"{', '.join(column.in_the_way)}; the column was not changed",
            remedy="Drop these objects, start again, and recreate them afterwards; or use file numbers up to "
            f"{LARGEST_INTEGER}.",
            schema=place.schema,
        )


def change(place: Place, column: NumberColumn) -> str:
    """Return the statements that make the column bigint, in an open transaction.

    The view comes first. A session that reads it locks it before the table; in the opposite order, the two would
    deadlock (40P01).
    """
    name = f"{identifier(place.schema)}.migration_status"
    widen = f"ALTER TABLE {place.table('schema_migrations')} ALTER COLUMN migration_number TYPE bigint;"
    if not column.has_view:
        return widen
    return "\n".join((f"DROP VIEW {name};", widen, view(place), *(f"{statement};" for statement in column.afterwards)))


# The dependencies under which PostgreSQL refuses ALTER COLUMN TYPE (RememberAllDependentForRebuilding in tablecmds.c).
# It rebuilds indexes and constraints itself.
_REFUSED = ("pg_rewrite", "pg_trigger", "pg_policy", "pg_proc", "pg_publication_rel")


def question(place: Place) -> str:
    """Return the query for `read_column`. Each row is a kind of fact, and a text."""
    ledger, status = (literal(place.table(name)) for name in ("schema_migrations", "migration_status"))
    refused = ", ".join(f"'{catalogue}'::regclass" for catalogue in _REFUSED)
    return f"""\
WITH ledger AS MATERIALIZED (
    SELECT c.oid, c.reltype, c.reloftype, a.attnum, a.attinhcount
    FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'migration_number'
    WHERE c.oid = {ledger}::regclass AND a.atttypid IN ('int2'::regtype, 'int4'::regtype)),
status AS MATERIALIZED (
    SELECT c.oid, c.reltype, c.relowner, c.relacl, c.reloptions, {status} AS name
    FROM pg_class c WHERE c.oid = to_regclass({status}) AND c.relkind = 'v'
    AND ARRAY[{", ".join(map(literal, VIEW_COLUMNS))}] = ARRAY(
        SELECT a.attname::text FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 ORDER BY a.attnum)),
used AS (
    SELECT d.classid, d.objid, d.objsubid FROM ledger l
    JOIN pg_depend d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = l.oid AND d.refobjsubid = l.attnum
    WHERE d.classid IN ({refused}) OR d.classid = 'pg_attrdef'::regclass AND EXISTS (
        SELECT FROM pg_attrdef f JOIN pg_attribute g ON g.attrelid = f.adrelid AND g.attnum = f.adnum
        WHERE f.oid = d.objid AND g.attgenerated <> '')
    UNION
    -- Columns of the table's row type.
    SELECT d.classid, d.objid, d.objsubid FROM ledger l JOIN pg_type t ON t.oid = l.reltype
    JOIN pg_depend d ON d.refclassid = 'pg_type'::regclass AND d.refobjid IN (t.oid, t.typarray)
    JOIN pg_class c ON d.classid = 'pg_class'::regclass AND c.oid = d.objid AND d.objsubid > 0
        AND c.relkind IN ('r', 'm', 'p')
    UNION
    -- Objects that keep the view from being dropped, or would be dropped with it.
    SELECT d.classid, d.objid, d.objsubid FROM ledger CROSS JOIN status s JOIN pg_type t ON t.oid = s.reltype
    JOIN pg_depend d ON d.deptype <> 'i' AND (d.refclassid = 'pg_class'::regclass AND d.refobjid = s.oid
        OR d.refclassid = 'pg_type'::regclass AND d.refobjid IN (t.oid, t.typarray))
    WHERE NOT EXISTS (
        SELECT FROM pg_attrdef f WHERE d.classid = 'pg_attrdef'::regclass AND f.oid = d.objid AND f.adrelid = s.oid)),
named AS (
    SELECT CASE u.classid
        WHEN 'pg_rewrite'::regclass THEN (
            SELECT CASE WHEN r.rulename <> '_RETURN' THEN 'the rule ' || quote_ident(r.rulename) || ' on '
                        WHEN c.relkind = 'm' THEN 'the materialized view ' ELSE 'the view ' END || r.ev_class::regclass
            FROM pg_rewrite r JOIN pg_class c ON c.oid = r.ev_class WHERE r.oid = u.objid)
        WHEN 'pg_trigger'::regclass THEN (
            SELECT 'the trigger ' || quote_ident(g.tgname) || ' on ' || g.tgrelid::regclass
            FROM pg_trigger g WHERE g.oid = u.objid)
        WHEN 'pg_policy'::regclass THEN (
            SELECT 'the policy ' || quote_ident(p.polname) || ' on ' || p.polrelid::regclass
            FROM pg_policy p WHERE p.oid = u.objid)
        WHEN 'pg_proc'::regclass THEN 'the function ' || u.objid::regprocedure
        WHEN 'pg_publication_rel'::regclass THEN (
            SELECT 'the publication ' || quote_ident(b.pubname)
            FROM pg_publication_rel m JOIN pg_publication b ON b.oid = m.prpubid WHERE m.oid = u.objid)
        WHEN 'pg_attrdef'::regclass THEN (
            SELECT CASE a.attgenerated
                WHEN '' THEN 'the default of the column ' || quote_ident(a.attname) || ' of ' || f.adrelid::regclass
                ELSE 'the generated column ' || quote_ident(a.attname) END
            FROM pg_attrdef f JOIN pg_attribute a ON a.attrelid = f.adrelid AND a.attnum = f.adnum
            WHERE f.oid = u.objid)
        ELSE pg_describe_object(u.classid, u.objid, u.objsubid) END AS what
    FROM used u WHERE NOT EXISTS (
        SELECT FROM pg_rewrite r JOIN status s ON r.ev_class = s.oid
        WHERE u.classid = 'pg_rewrite'::regclass AND u.objid = r.oid AND r.rulename = '_RETURN')
    UNION
    SELECT 'the table ' || i.inhparent::regclass || ', which it inherits from'
    FROM ledger l JOIN pg_inherits i ON i.inhrelid = l.oid WHERE l.attinhcount > 0
    UNION
    SELECT 'the type ' || format_type(l.reloftype, NULL) || ', which it is a table of' FROM ledger l
    WHERE l.reloftype <> 0),
again AS (
    SELECT 1 AS rank, format('ALTER VIEW %s OWNER TO %I', s.name, pg_get_userbyid(s.relowner)) AS statement
    FROM status s WHERE pg_get_userbyid(s.relowner) <> current_user
    UNION ALL
    SELECT 2, format('ALTER VIEW %s SET (%s)', s.name, array_to_string(s.reloptions, ', '))
    FROM status s WHERE s.reloptions IS NOT NULL
    UNION ALL
    SELECT 2, format('ALTER VIEW %s ALTER COLUMN %I SET DEFAULT %s', s.name, a.attname, pg_get_expr(f.adbin, f.adrelid))
    FROM status s JOIN pg_attrdef f ON f.adrelid = s.oid
    JOIN pg_attribute a ON a.attrelid = s.oid AND a.attnum = f.adnum
    UNION ALL
    SELECT 3, format('COMMENT ON %s IS %L', CASE d.objsubid WHEN 0 THEN 'VIEW ' || s.name
        ELSE 'COLUMN ' || s.name || '.' || quote_ident(a.attname) END, d.description)
    FROM status s JOIN pg_description d ON d.classoid = 'pg_class'::regclass AND d.objoid = s.oid
    LEFT JOIN pg_attribute a ON a.attrelid = s.oid AND a.attnum = d.objsubid
    UNION ALL
    SELECT 4, format('GRANT %s%s ON %s TO %s%s', x.privilege_type, p.columns, s.name,
        CASE x.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(x.grantee)) END,
        CASE WHEN x.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END)
    FROM status s CROSS JOIN LATERAL (
        SELECT s.relacl, '' UNION ALL
        SELECT a.attacl, format(' (%I)', a.attname) FROM pg_attribute a WHERE a.attrelid = s.oid AND a.attnum > 0
    ) AS p (acl, columns) CROSS JOIN LATERAL aclexplode(p.acl) x
    WHERE x.grantee <> s.relowner)
SELECT kind, text FROM (
    SELECT 1 AS part, 0 AS rank, 'narrow' AS kind, NULL::text AS text FROM ledger
    UNION ALL SELECT 2, 0, 'view', NULL FROM status
    UNION ALL SELECT 3, 0, 'in the way', what FROM named
    UNION ALL SELECT 4, rank, 'afterwards', statement FROM again
) AS facts ORDER BY part, rank, text"""
