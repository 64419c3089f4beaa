"""The five migrations that each tool gets, with the contents of real ones."""

from __future__ import annotations

from tools.kit import Step

ACCOUNTS = Step(
    "accounts",
    """\
-- Who may log in; it's the first table.
CREATE TABLE account (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    email text NOT NULL UNIQUE,
    "note; with a semicolon" text DEFAULT 'none; yet -- no comment'
);
COMMENT ON TABLE account IS 'It''s the "first" table; /* not a comment */';
INSERT INTO account (email) VALUES ('ann@example.org'), ('bé@example.org');
""",
    "DROP TABLE account;\n",
)
TOUCH = Step(
    "touch",
    """\
CREATE FUNCTION touch() RETURNS trigger
LANGUAGE plpgsql AS $body$
BEGIN
    IF NEW.email IS NULL THEN
        RAISE EXCEPTION 'no email; none at all';
    END IF;
    NEW.email := lower(NEW.email);
    RETURN NEW;
END;
$body$;
""",
    "DROP FUNCTION touch();\n",
    one=True,
)
ORDERS = Step(
    "orders",
    """\
CREATE TYPE stage AS ENUM ('new', 'paid');
CREATE TABLE orders (
    id bigint PRIMARY KEY,
    account_id bigint NOT NULL REFERENCES account,
    stage stage NOT NULL DEFAULT 'new',
    cents integer NOT NULL CHECK (cents >= 0)
);
CREATE TRIGGER account_touch BEFORE INSERT OR UPDATE ON account FOR EACH ROW EXECUTE FUNCTION touch();
INSERT INTO orders (id, account_id, cents) SELECT n, 1, n * 100 FROM generate_series(1, 3) n;
""",
    "DROP TRIGGER account_touch ON account;\nDROP TABLE orders;\nDROP TYPE stage;\n",
)
INDEX = Step(
    "index",
    "CREATE INDEX CONCURRENTLY orders_by_stage ON orders (stage, account_id);\n",
    "DROP INDEX CONCURRENTLY orders_by_stage;\n",
    alone=True,
)
INDEX_INSIDE = Step(
    "index",
    "CREATE INDEX orders_by_stage ON orders (stage, account_id);\n",
    "DROP INDEX orders_by_stage;\n",
)
TOTALS = Step(
    "totals",
    """\
ALTER TABLE orders ADD COLUMN placed_at timestamptz;
CREATE VIEW total AS SELECT account_id, sum(cents) AS cents FROM orders GROUP BY account_id;
DELETE FROM orders WHERE id = 3;
""",
    "DROP VIEW total;\nALTER TABLE orders DROP COLUMN placed_at;\n",
)
FAULTY = Step("faulty", "CREATE TABLE half (id integer);\nSELECT 1 / 0;\n", "DROP TABLE half;\n")


def five(*, alone: bool) -> tuple[Step, ...]:
    """Return the migrations; `alone` if the tool can run one outside a transaction."""
    return (ACCOUNTS, TOUCH, ORDERS, INDEX if alone else INDEX_INSIDE, TOTALS)
