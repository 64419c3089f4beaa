"""How the search_path is resolved without asking PostgreSQL, which decides anything that is not plain."""

from __future__ import annotations

import pytest

from entrypoint.migration.ledger.place import along


@pytest.mark.parametrize(
    ("path", "names"),
    [
        ('"$user", public', ("alice", "public")),
        ("public", ("public",)),
        ("$user,public", ("alice", "public")),
        ('app, "App Two" , public', ("app", "App Two", "public")),
        ("pg_catalog, app, pg_temp, information_schema", ("app",)),
        # PostgreSQL folds it to lower case by a locale's rules.
        ("App", None),
        ('"a""b"', None),
        ('"a,b"', None),
        ("a, , b", None),
        ("", None),
        ('""', None),
        ('"', None),
        ("größe", None),
        ("a\tb", None),
        ("n" * 64, None),
    ],
)
def test_a_plain_path_is_walked_here(path: str, names: tuple[str, ...] | None) -> None:
    assert along(path, "alice") == names
