"""Which GRANT is suggested for which facts."""

from __future__ import annotations

import pytest

from entrypoint.migration.ledger.privileges import OurTable, PrivilegeFacts, grants

LEDGER = OurTable("schema_migrations", "shop_owner", owned=True, permitted=True)
LOCK = OurTable("migration_lock", "shop_owner", owned=True, permitted=True)
ALL = PrivilegeFacts(
    login="shop",
    role="shop",
    takes_role=True,
    database="shop_db",
    creates_schemas=True,
    schema="s",
    schema_exists=True,
    uses=True,
    creates=True,
    tables=(LEDGER, LOCK),
)
CHANGE = "GRANT SELECT, INSERT, UPDATE, DELETE ON"


@pytest.mark.case("D9")
@pytest.mark.parametrize(
    ("facts", "writing", "reading"),
    [
        pytest.param(ALL, [], [], id="nothing is missing"),
        pytest.param(ALL._replace(schema=""), [], [], id="no schema to speak of"),
        pytest.param(
            ALL._replace(takes_role=False, role="r", uses=False),
            ["GRANT r TO shop"],
            ["GRANT r TO shop"],
            id="role not taken",
        ),
        pytest.param(
            ALL._replace(schema_exists=False, creates_schemas=False, uses=False, creates=False, tables=()),
            ["GRANT CREATE ON DATABASE shop_db TO shop"],
            ["GRANT CREATE ON DATABASE shop_db TO shop"],
            id="no schema",
        ),
        pytest.param(
            ALL._replace(uses=False, creates=False, tables=()),
            ["GRANT USAGE, CREATE ON SCHEMA s TO shop"],
            ["GRANT USAGE ON SCHEMA s TO shop"],
            id="no tables",
        ),
        pytest.param(ALL._replace(creates=False), [], [], id="nothing is to be made"),
        pytest.param(
            ALL._replace(tables=(LEDGER, LOCK._replace(permitted=False))),
            [f"{CHANGE} s.migration_lock TO shop"],
            ["GRANT SELECT ON s.migration_lock TO shop"],
            id="one table",
        ),
        pytest.param(
            ALL._replace(tables=(LEDGER._replace(owned=False, sequence="s.ids"), LOCK)),
            ["GRANT USAGE ON SEQUENCE s.ids TO shop"],
            [],
            id="an earlier system's sequence",
        ),
        pytest.param(
            ALL._replace(tables=(LEDGER._replace(owned=False), LOCK._replace(owned=False))),
            ["GRANT shop_owner TO shop"],
            [],
            id="another owner",
        ),
    ],
)
def test_grants(facts: PrivilegeFacts, writing: list[str], reading: list[str]) -> None:
    assert grants(facts, reading=False) == writing
    assert grants(facts, reading=True) == reading
