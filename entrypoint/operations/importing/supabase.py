r"""Supabase: `NUMBER_name.sql` in `supabase/migrations`, up migrations only.

`ListLocalMigrations` in the Supabase CLI's `pkg/migration/list.go` and `pkg/migration/file.go`
(`^([0-9]+)_(.*)\.sql$`, in the order of the names as texts), and "Database migrations" in its documentation. It skips
the first file if that is `TIMESTAMP_init.sql` from before 2021-12-09, which older releases of the CLI created.
"""

from __future__ import annotations

import re

from entrypoint.operations.importing import texts
from entrypoint.operations.importing.values import Contents, Left, Migration, Why

TYPE_CHECKING = False
if TYPE_CHECKING:
    from entrypoint.operations.importing.values import Source


_NAME = re.compile(r"([0-9]+)_(.*)\.sql", re.DOTALL)
_INIT = re.compile(r"([0-9]{14})_init\.sql")
_FIRST_THAT_COUNTS = 20211209000000


def read(source: Source) -> Contents:
    """Return Supabase's migrations in the order of their files' names."""
    found: list[Migration] = []
    left: list[Left] = []
    others: list[str] = []
    for number, path in enumerate(sorted(texts.in_the_directory(source.paths))):
        if number == 0 and (init := _INIT.fullmatch(path)) and int(init[1]) < _FIRST_THAT_COUNTS:
            why = Why(
                "Supabase skips it: older releases of its CLI created such files",
                'To apply it, give it a name other than "init", there as well.',
            )
            left.append(Left(path, why))
        elif name := _NAME.fullmatch(path):
            forward = texts.whole(path, source.content(path))
            found.append(Migration(path, name[1], name[1], name[2], forward))
        elif texts.looks_like_sql(path):
            others.append(path)
    faults = texts.doubled(found, "Supabase")
    left += texts.not_looked_at(others, "Supabase", "NUMBER_description.sql")
    return Contents(tuple(found), left=tuple(left), faults=tuple(faults))
