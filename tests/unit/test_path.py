"""The search_path as it is walked without asking PostgreSQL; what is not plain is left to it."""

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
        # Folded to lower case by PostgreSQL, by the rules of a locale.
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
