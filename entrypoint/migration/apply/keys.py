"""The key by which a file runs in batches: whether the table can be batched by it, and where a batch ends.

Pure functions over what the catalog says. Two easy mistakes here would sort differently from the index. `ORDER BY id`
after `SELECT id::text …` sorts by the text, so columns are written with the table's alias. And with our search_path,
`>` may be another type's operator (as for citext), so the operator of the index's operator class is named explicitly.
"""

from __future__ import annotations

from entrypoint.database.quoting import THIS_DATABASE, identifier, literal
from entrypoint.records import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from entrypoint.database.answers import Row
    from entrypoint.migration.script.batch import Changes

    Values = tuple[str, ...]

# Strategy numbers of a B-tree.
_NOT_GREATER, _NOT_LESS, _GREATER = 2, 4, 5
_TABLES = ("r", "p", "m")
_KINDS = {"v": "a view", "f": "a foreign table", "S": "a sequence", "i": "an index", "I": "an index", "c": "a type"}

_UNORDERED = frozenset(
    f"pg_catalog.{name}"
    for name in ("json", "xml", "point", "lseg", "line", "box", "path", "polygon", "circle", "xid", "cid", "aclitem")
)

AS_TEXT = (
    "SET LOCAL datestyle = 'ISO, YMD'; SET LOCAL intervalstyle = iso_8601; SET LOCAL extra_float_digits = 1; "
    "SET LOCAL row_security TO DEFAULT; SET LOCAL array_nulls = on;"
)
"""Makes PostgreSQL write keys so that any session can read them, whatever its settings. Row security is the file's.

array_nulls stays on for the file's statement: without it, a key that contains a NULL could not be read back.
"""
AS_BEFORE = (
    "SET LOCAL datestyle TO DEFAULT; SET LOCAL intervalstyle TO DEFAULT; SET LOCAL extra_float_digits TO DEFAULT;"
)
WRITES = "('RowExclusiveLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')"


class Operator(NamedTuple):
    """An operator: its schema, its name, and its oid if that matters."""

    schema: str
    name: str
    oid: str = ""


class Table(NamedTuple):
    """The table to go through."""

    oid: str
    name: str
    """With its schema, as SQL."""
    kind: str
    """As in pg_class.relkind."""
    has_children: bool
    """Whether other tables inherit from it; its indexes do not contain their rows."""
    rows: int | None
    """PostgreSQL's estimate of the number of rows."""
    identity: str = ""
    """The oids of the database and the table, for the ledger's row. They differ for another table of the same name."""


class Column(NamedTuple):
    """A column of the key; everything but the name is empty if there is no such column."""

    name: str
    number: str
    type_: str
    """With its schema, and without a length, so that a cast to it changes nothing."""
    not_null: bool
    collation: str = ""
    """With its schema; empty if the type has none."""
    made_of: tuple[str, ...] = ()
    """The columns that it is generated from; empty if it is not generated."""


class IndexColumn(NamedTuple):
    """How an index sorts one of its columns."""

    number: str
    """The number of the column; 0 for an expression."""
    default_class: bool
    own_collation: bool
    descending: bool
    greater: Operator
    not_greater: Operator
    not_less: Operator = Operator("", "")


class Index(NamedTuple):
    """A B-tree index of the table, with as many of its columns as the key has."""

    name: str
    valid: bool
    partial: bool
    parts: tuple[IndexColumn, ...]


class Unfit(NamedTuple):
    """Why the table cannot be batched by that key."""

    reason: str
    remedy: str


class Key(NamedTuple):
    """A key that can be used, and everything that its statements need."""

    table: Table
    columns: tuple[Column, ...]
    parts: tuple[IndexColumn, ...]

    @property
    def ground(self) -> tuple[str, ...]:
        """What a walk relies on, as its row records it: the table, then the sort order of each column.

        If it changes, earlier keys may be in a different place.
        """
        orders = (f"{column.type_} COLLATE {column.collation}".removesuffix(" COLLATE ") for column in self.columns)
        return self.table.identity, *orders

    @property
    def visible(self) -> str:
        """The query that tells whether BETWEEN, with the file's search_path, compares as the index does."""
        operators = {one.oid: None for part in self.parts for one in (part.not_less, part.not_greater)}
        return f"SELECT {' AND '.join(f'pg_catalog.pg_operator_is_visible({oid})' for oid in operators)}"

    @property
    def path(self) -> str:
        """The statement that makes operators from several schemas visible; empty if their schema can be named."""
        schemas = dict.fromkeys(part.greater.schema for part in self.parts)
        if len(schemas) == 1:
            return ""
        # PostgreSQL takes the operator from the first schema that has one for exactly these types.
        names = ", ".join(identifier(schema) for schema in schemas if schema != "pg_catalog")
        return f"SET LOCAL search_path = pg_catalog, {names}, pg_temp;"

    def last(self) -> str:
        """Return the query for the largest key in the table."""
        return f"SELECT {self._texts} FROM {self.table.name} AS k ORDER BY {self._order(' DESC')} LIMIT 1"

    def lookup(self, cursor: Values | None, last: Values, size: int) -> str:
        """Return the query for a batch's first key, and its last if there are `size` keys from `cursor` to `last`."""
        limits = [self._compared(last, "not_greater")]
        if cursor is not None:
            limits.append(self._compared(cursor, "greater"))
        query = (
            f"SELECT {self._texts} FROM {self.table.name} AS k WHERE {' AND '.join(limits)} ORDER BY {self._order()}"
        )
        return f"({query} LIMIT 1) UNION ALL ({query} OFFSET {size - 1} LIMIT 1)"

    def value(self, values: Values) -> str:
        """Return a key as an expression for a placeholder. A parameter may lack a type: `date_trunc('day', $1)`."""
        casts = self._casts(values)
        return f" ({casts[0]}) " if len(casts) == 1 else f" ROW({', '.join(casts)}) "

    def writers(self) -> str:
        """Return the query for open transactions that may have written to the table, with their pid."""
        return (
            "SELECT DISTINCT l.virtualtransaction, l.pid FROM pg_catalog.pg_locks l WHERE l.locktype = 'relation' "
            f"AND l.database = {THIS_DATABASE} AND (l.relation = {self.table.oid} OR l.relation IN "
            f"(SELECT relid FROM pg_catalog.pg_partition_tree({self.table.oid}))) "
            f"AND l.granted AND l.mode IN {WRITES} AND l.pid IS DISTINCT FROM pg_catalog.pg_backend_pid()"
        )

    def _compared(self, values: Values, operator: str) -> str:
        found: list[Operator] = [getattr(part, operator) for part in self.parts]
        sign = found[0].name if self.path else f"OPERATOR({identifier(found[0].schema)}.{found[0].name})"
        columns, casts = [f"k.{identifier(column.name)}" for column in self.columns], self._casts(values)
        if len(columns) == 1:
            return f"{columns[0]} {sign} {casts[0]}"
        return f"ROW({', '.join(columns)}) {sign} ROW({', '.join(casts)})"

    def _casts(self, values: Values) -> list[str]:
        return [f"{literal(value)}::{column.type_}" for value, column in zip(values, self.columns, strict=True)]

    def _order(self, direction: str = "") -> str:
        return ", ".join(f"k.{identifier(column.name)}{direction}" for column in self.columns)

    @property
    def _texts(self) -> str:
        return ", ".join(f"k.{identifier(column.name)}::pg_catalog.text" for column in self.columns)


# Reading the catalog.


def questions(oid: str, columns: Sequence[str]) -> tuple[str, str, str]:
    """Return the queries about a table, a key's columns, and the table's B-trees; `read` reads their answers."""
    count = len(columns)
    names = ", ".join(literal(column) for column in columns)
    table = (
        "SELECT pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(c.relname), c.relkind, "
        "c.relkind = 'r' AND EXISTS (SELECT FROM pg_catalog.pg_inherits h WHERE h.inhparent = c.oid), "
        "(SELECT pg_catalog.sum(l.reltuples) FILTER (WHERE l.reltuples > 0)::pg_catalog.int8 "
        "FROM pg_catalog.pg_class l WHERE l.oid = c.oid AND c.relkind <> 'p' OR c.relkind = 'p' AND l.oid IN "
        "(SELECT t.relid FROM pg_catalog.pg_partition_tree(c.oid) t WHERE t.isleaf)), "
        f"{THIS_DATABASE} || '/' || c.oid "
        "FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace "
        f"WHERE c.oid = {oid}"
    )
    key = (
        "SELECT k.name, a.attnum, pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(t.typname), "
        # Since version 18, there may be a NOT NULL constraint that existing rows do not satisfy yet.
        "a.attnotnull AND NOT EXISTS (SELECT FROM pg_catalog.pg_constraint c WHERE c.conrelid = a.attrelid "
        "AND c.contype = 'n' AND NOT c.convalidated AND a.attnum = ANY (c.conkey)), "
        "(SELECT pg_catalog.quote_ident(s.nspname) || '.' || pg_catalog.quote_ident(o.collname) "
        "FROM pg_catalog.pg_collation o JOIN pg_catalog.pg_namespace s ON s.oid = o.collnamespace "
        "WHERE o.oid = a.attcollation), "
        # A name with a line feed in it would be ignored.
        "(SELECT pg_catalog.string_agg(b.attname, pg_catalog.chr(10)) FROM pg_catalog.pg_attrdef f "
        "JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog.pg_attrdef'::pg_catalog.regclass AND d.objid = f.oid "
        "AND d.refobjid = f.adrelid AND d.refobjsubid <> f.adnum JOIN pg_catalog.pg_attribute b "
        "ON b.attrelid = d.refobjid AND b.attnum = d.refobjsubid "
        "WHERE a.attgenerated <> '' AND f.adrelid = a.attrelid AND f.adnum = a.attnum) "
        f"FROM pg_catalog.unnest(ARRAY[{names}]::pg_catalog.text[]) WITH ORDINALITY AS k (name, place) "
        f"LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = {oid} AND a.attname = k.name AND a.attnum > 0 "
        "AND NOT a.attisdropped LEFT JOIN pg_catalog.pg_type t ON t.oid = a.atttypid "
        "LEFT JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace ORDER BY k.place"
    )
    operators = " ".join(
        f"JOIN LATERAL (SELECT o.oprname AS name, n.nspname AS schema, o.oid FROM pg_catalog.pg_amop m "
        "JOIN pg_catalog.pg_operator o ON o.oid = m.amopopr JOIN pg_catalog.pg_namespace n ON n.oid = o.oprnamespace "
        "WHERE m.amopfamily = oc.opcfamily AND m.amoplefttype = oc.opcintype AND m.amoprighttype = oc.opcintype "
        f"AND m.amopstrategy = {strategy}) {alias} ON true"
        for alias, strategy in (("g", _GREATER), ("ng", _NOT_GREATER), ("nl", _NOT_LESS))
    )
    indexes = (
        "SELECT pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(c.relname), "
        "i.indisvalid AND i.indisready AND i.indislive, "
        "i.indpred IS NOT NULL, i.indkey[p.place - 1], "
        # An operator class with another name may sort alike: varchar_ops is text_ops.
        "EXISTS (SELECT FROM pg_catalog.pg_opclass d WHERE d.opcfamily = oc.opcfamily "
        "AND d.opcintype = oc.opcintype AND d.opcdefault), "
        "i.indcollation[p.place - 1] = coalesce((SELECT a.attcollation FROM pg_catalog.pg_attribute a "
        "WHERE a.attrelid = i.indrelid AND a.attnum = i.indkey[p.place - 1]), 0), "
        "i.indoption[p.place - 1] & 1 = 1, g.schema, g.name, g.oid, ng.schema, ng.name, ng.oid, nl.schema, nl.name, "
        "nl.oid "
        "FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid "
        "JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace "
        "JOIN pg_catalog.pg_am am ON am.oid = c.relam AND am.amname = 'btree' "
        f"CROSS JOIN pg_catalog.generate_series(1, {count}) AS p (place) "
        f"JOIN pg_catalog.pg_opclass oc ON oc.oid = i.indclass[p.place - 1] {operators} "
        f"WHERE i.indrelid = {oid} AND i.indnkeyatts >= {count} ORDER BY c.relname, p.place"
    )
    return table, key, indexes


def read(
    oid: str, table: Sequence[Row], columns: Sequence[Row], indexes: Sequence[Row]
) -> tuple[Table, tuple[Column, ...], tuple[Index, ...]]:
    """Read the answers to `questions`."""
    name, kind, has_children, rows, identity = table[0]
    found: dict[str, Index] = {}
    for row in indexes:
        index, valid, partial, number, default, own, descending, *operators = (value or "" for value in row)
        before = found.get(index, Index(index, valid == "t", partial == "t", ()))
        part = IndexColumn(
            number,
            default == "t",
            own == "t",
            descending == "t",
            Operator(*operators[:3]),
            Operator(*operators[3:6]),
            Operator(*operators[6:]),
        )
        found[index] = before._replace(parts=(*before.parts, part))
    return (
        Table(oid, name or "", kind or "", has_children == "t", None if rows is None else int(rows), identity or ""),
        tuple(
            Column(
                column or "",
                number or "",
                type_ or "",
                not_null == "t",
                collation or "",
                tuple((made_of or "").splitlines()),
            )
            for column, number, type_, not_null, collation, made_of in columns
        ),
        tuple(found.values()),
    )


def usable_key(table: Table, columns: Sequence[Column], indexes: Sequence[Index]) -> Key | Unfit:
    """Return the key by which to go through a table, or why that is not possible."""
    unfit = _unfit_table(table) or next(filter(None, (_unfit_column(table, column) for column in columns)), None)
    if unfit is not None:
        return unfit
    names = ", ".join(identifier_shown(column.name) for column in columns)
    build = _build(table, columns)
    numbers = [column.number for column in columns]
    leading = {index: _fault(index) for index in indexes if [part.number for part in index.parts] == numbers}
    if not leading:
        return Unfit(f"no B-tree index on {table.name} starts with {names}", build)
    fit = next((index for index, fault in leading.items() if not fault), None)
    if fit is None:
        index, fault = next(iter(leading.items()))
        again = f"Rebuild it: REINDEX INDEX CONCURRENTLY {index.name}."
        if table.kind == "p":
            again = (
                f"Create an index on these columns for each partition and attach it: ALTER INDEX {index.name} ATTACH "
                "PARTITION ...; attaching the last one makes it valid."
            )
        reason = f"the index {index.name} on {table.name} cannot be used: {fault}"
        return Unfit(reason, build if index.valid else again)
    for operators in ([part.greater for part in fit.parts], [part.not_greater for part in fit.parts]):
        if len({operator.name for operator in operators}) > 1:
            reason = f"the columns {names} are not compared by operators of the same name"
            return Unfit(reason, "Use only one of these columns.")
    return Key(table, tuple(columns), fit.parts)


def _build(table: Table, columns: Sequence[Column]) -> str:
    """Return how to create an index for this key, as a remedy."""
    for column in columns:
        if column.type_ in _UNORDERED:
            return f"The type {column.type_} has no sort order: use columns of other types."
    names = ", ".join(identifier_shown(column.name) for column in columns)
    if table.kind == "p":
        return (
            f"Create one in an earlier file: CREATE INDEX ON {table.name} ({names}). On a partitioned table it cannot "
            "be built CONCURRENTLY, so writes to the table wait until it is built."
        )
    return f"Create one in an earlier file: CREATE INDEX CONCURRENTLY ON {table.name} ({names})."


def relatives(oid: str) -> str:
    """Return the query for other relations that can change a table's rows: partitions, their parents, and views."""
    return (
        f"WITH RECURSIVE same AS ((SELECT {oid}::pg_catalog.oid AS oid UNION SELECT t.relid FROM (SELECT relid FROM "
        f"pg_catalog.pg_partition_ancestors({oid}) UNION SELECT {oid}) a, pg_catalog.pg_partition_tree(a.relid) t) "
        "UNION SELECT r.ev_class FROM same s JOIN pg_catalog.pg_depend d ON d.refobjid = s.oid "
        "AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass "
        "AND d.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass "
        "JOIN pg_catalog.pg_rewrite r ON r.oid = d.objid) "
        "SELECT DISTINCT c.relname FROM same s JOIN pg_catalog.pg_class c ON c.oid = s.oid"
    )


def unsuited(key: Key, *, visible: bool, relatives: Sequence[str], changes: Changes) -> Unfit | None:
    """Return why a statement that makes these `changes` cannot go through the table by that key; None if it can.

    `visible`: whether the operators of BETWEEN are those of the index. `relatives`: the result of the query of that
    name.
    """
    names = ", ".join(identifier_shown(column.name) for column in key.columns)
    if not visible:
        schemas = {one.schema for part in key.parts for one in (part.not_less, part.not_greater)} - {"pg_catalog"}
        where = ", ".join(map(identifier_shown, sorted(schemas)))
        return Unfit(
            f"BETWEEN would compare {names} differently from the index, because the operators of its type are in the "
            f"schema {where}, which is not in the search_path",
            f"Add it to the search_path of this user or database: ALTER ROLE ... SET search_path = public, {where}.",
        )
    for column in key.columns:
        base = next((change[1] for change in changes.assigned if change[1] in column.made_of), None)
        if base is not None:
            return Unfit(
                f"the statement sets {identifier_shown(base)}, which {identifier_shown(column.name)} is generated "
                "from, so a row could move ahead of the batch and be changed again",
                "Use a key that the statement does not change.",
            )
    columns = {column.name for column in key.columns}
    moved = next((change for change in changes.assigned if change[0] in relatives and change[1] in columns), None)
    if moved is not None:
        return Unfit(
            f"the statement sets {identifier_shown(moved[1])} through {identifier_shown(moved[0])}, so a row could "
            "move ahead of the batch and be changed again",
            "Use a key that the statement does not change.",
        )
    into = next((name for name in changes.inserted if name in relatives), None)
    if into is not None:
        return Unfit(
            f"the statement inserts rows through {identifier_shown(into)}, and they could be ahead of the batch",
            "Insert into another table, then move the rows from there.",
        )
    return None


def _unfit_table(table: Table) -> Unfit | None:
    if table.kind not in _TABLES:
        kind = _KINDS.get(table.kind, "not a table")
        return Unfit(f"{table.name} is {kind}", "Use the table that contains the rows.")
    if table.has_children:
        reason = f"other tables inherit from {table.name}, and its indexes do not contain their rows"
        return Unfit(reason, "Write a file for each of these tables.")
    return None


def _unfit_column(table: Table, column: Column) -> Unfit | None:
    name = identifier_shown(column.name)
    if not column.number:
        remedy = "Correct the directive. If the column was renamed after the first batch, rename it back."
        return Unfit(f"{table.name} has no column {name}", remedy)
    if not column.not_null:
        remedy = (
            f"Use a column that is NOT NULL, or make this one NOT NULL first: ALTER TABLE {table.name} ALTER COLUMN "
            f"{name} SET "
        )
        return Unfit(
            f"{name} may be NULL, and no batch would include such a row",
            f"{remedy}NOT NULL."
            if table.kind != "m"
            else "Columns of a materialized view are always nullable: use the table its rows come from.",
        )
    return None


def identifier_shown(name: str) -> str:
    """Return a name as SQL, quoted only if necessary."""
    ordinary = name.isascii() and name.replace("_", "a").isalnum() and name == name.lower() and not name[0].isdigit()
    return name if ordinary else identifier(name)


def _fault(index: Index) -> str:
    """Return why an index with the right columns cannot be used; empty if it can."""
    if not index.valid:
        return "it is not valid: its build failed or is still running"
    if index.partial:
        return "it has a WHERE clause, so it does not contain all rows"
    if not all(part.default_class for part in index.parts):
        return "its operator class sorts differently from the type's default"
    if not all(part.own_collation for part in index.parts):
        return "its collation differs from its column's"
    if len({part.descending for part in index.parts}) > 1:
        return "some of its columns are descending and some ascending"
    return ""
